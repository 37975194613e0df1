"""What a search is made of: found in the registry and judged by the methods themselves and by the model."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

import tessella
from tessella.core.budget import Budget
from tessella.core.errors import BudgetError, MethodError, UnknownMethodError, UnsupportedError
from tessella.core.model_info import ModelInfo
from tessella.core.pipeline import parse
from tessella.models.adapter import find_adapter
from tessella.tuning.blocks import Block, cuts_of, find_blocks
from tessella.tuning.space import Space, make_space, rivals

NAMES = ("compose", "fopru", "fastv", "layered", "transprune", "zoo_prune", "evs", "none", "visionzip", "holov")


class Fixed:
    """An Optuna trial's three questions, answered from a table; an answer that is not allowed fails."""

    def __init__(self, **values: Any) -> None:
        self.values = {name.replace("__", " "): value for name, value in values.items()}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        assert self.values[name] in choices
        return self.values[name]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        assert low <= self.values[name] <= high
        return int(self.values[name])

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
        assert low <= self.values[name] <= high
        return float(self.values[name])


@pytest.fixture(scope="module")
def model() -> Any:
    return tessella.load("mini")[0]


@pytest.fixture(scope="module")
def blocks(model: Any) -> list[Block]:
    return find_blocks(model, NAMES)


@pytest.fixture(scope="module")
def info(model: Any) -> ModelInfo:
    return find_adapter(model).info


@pytest.fixture(scope="module")
def free(blocks: list[Block], info: ModelInfo) -> Space:
    return make_space(blocks, info, None)


def text(space: Space, **values: Any) -> str:
    return str(space.suggest(Fixed(**values)))


def test_blocks_are_what_the_model_can_carry_and_what_wrappers_take(blocks: list[Block]) -> None:
    held = {b.id: {name: [m and m.id for m in inner] for name, inner in b.holds.items()} for b in blocks}
    assert held == {  # evs has no frames here, and none takes no keep
        "compose": {
            "score": ["fopru", "holov", "zoo_prune"],
            "select": [None, "fopru", "holov", "zoo_prune"],
            "allocate": [None, "holov"],
            "merge": [None, "visionzip"],
        },
        "fastv": {}, "fopru": {}, "holov": {},
        "layered": {"method": ["fastv"]},
        "transprune": {}, "visionzip": {}, "zoo_prune": {},
    }  # fmt: skip
    assert [b.id for b in blocks if not b.is_published] == ["compose", "layered"]


def test_a_wrapper_is_its_cards_example_where_its_parts_are_there(model: Any, blocks: list[Block]) -> None:
    [compose] = [b for b in blocks if b.id == "compose"]
    assert str(compose.method) == str(
        tessella.make("compose", score=tessella.make("fopru"), select=tessella.make("zoo_prune"))
    )
    [other] = [b for b in find_blocks(model, ["compose", "holov"]) if b.id == "compose"]
    assert other.method == tessella.make("compose", score=tessella.make("holov"))
    assert [b.id for b in find_blocks(model, ["compose", "divprune"])] == ["divprune"]  # it scores nothing


def test_names_and_models_without_a_method(model: Any) -> None:
    with pytest.raises(UnknownMethodError, match=r"no method 'fast_v'\. Closest: 'fastv'"):
        find_blocks(model, ["fast_v"])
    with pytest.raises(UnsupportedError, match="none of the methods evs, none can leave fewer visual tokens"):
        find_blocks(model, ["evs", "none"])


def test_blocks_stand_in_front_or_behind_by_where_they_cut(free: Space, info: ModelInfo) -> None:
    assert [b.id for b in free.fronts] == ["compose", "fopru", "holov", "visionzip", "zoo_prune"]
    assert [b.id for b in free.backs] == ["fastv", "layered", "transprune"]
    assert free.shapes == ("front", "back", "both")
    assert make_space(free.fronts, info, None).shapes == ("front",)
    assert cuts_of(free.backs[0].method, info) == (2,)


def test_one_step(free: Space) -> None:
    assert text(free, shape="front", front="fopru", keep=0.12345) == "fopru:0.1235"
    mixed = {"front__compose__score": "fopru", "front__compose__select": "zoo_prune"}
    empty = {"front__compose__allocate": "nothing", "front__compose__merge": "nothing"}
    composed = text(free, shape="front", front="compose", keep=0.5, **mixed, **empty)
    assert composed == "compose(score=fopru, select=zoo_prune):0.5"
    with pytest.raises(MethodError, match="both choose"):
        text(free, shape="front", front="compose", keep=0.5, **mixed, **empty | {"front__compose__allocate": "holov"})


def test_layers_and_what_is_left_behind_them(free: Space) -> None:
    """A cut in front of layer 4 of 8 that leaves a half is three quarters on the mean."""
    assert text(free, shape="back", back="fastv", layer=4, left=0.5) == "fastv@4:0.75 per layer-mean"
    at = {"shape": "back", "back": "transprune", "left": 1.0}
    assert text(free, **at, layer=1, spread=0.0) == "transprune(layers=(1, 2, 3)):1.0 per layer-mean"
    assert text(free, **at, layer=1, spread=1.0) == "transprune(layers=(1, 4, 7)):1.0 per layer-mean"
    with pytest.raises(UnsupportedError, match="cuts 3 times, which does not fit behind layer 6"):
        text(free, **at, layer=6, spread=0.0)


def test_two_steps(free: Space, blocks: list[Block], info: ModelInfo) -> None:
    both = {"shape": "both", "front": "fopru", "back": "fastv", "layer": 4, "left": 0.5}
    assert text(free, **both, keep=0.2) == "fopru:0.2 | fastv@4:0.75 per layer-mean"
    fixed = make_space(blocks, info, Fraction(1, 9))
    assert text(fixed, **both) == "fopru:0.1481 | fastv@4:0.75 per layer-mean"  # 0.1481 * 0.75 = 1/9
    assert text(fixed, shape="front", front="fopru") == "fopru:1/9"
    assert text(fixed, shape="back", back="fastv", layer=1) == "fastv@1:1/9 per layer-mean"
    with pytest.raises(BudgetError, match="fastv alone leaves less than 4/5 of the tokens"):
        text(make_space(blocks, info, Fraction(4, 5)), **both)


def test_published_methods_alone_start_the_search(free: Space) -> None:
    starts = free.starts()
    assert [s[s["shape"]] for s in starts] == ["fopru", "holov", "visionzip", "zoo_prune", "fastv", "transprune"]
    made = [text(free, **values) for values in starts]
    assert made[0] == "fopru:0.25"
    assert made[-2:] == ["fastv@2:0.4375 per layer-mean", "transprune(layers=(2, 3, 4)):0.4375 per layer-mean"]


def test_rivals_are_published_methods_as_their_papers_have_them(free: Space) -> None:
    others = rivals(free, Fraction(1, 2))
    assert [str(p) for p in others] == [
        "fopru:0.5", "holov:0.5", "visionzip:0.5", "zoo_prune:0.5", "fastv:0.5 per layer-mean",
        "transprune:0.5 per layer-mean",
    ]  # fmt: skip
    assert others[-1].parts[0].method == parse("transprune").parts[0].method
    assert others[-1].parts[0].budget == Budget("0.5", "layer-mean")
