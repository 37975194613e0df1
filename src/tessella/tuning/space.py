"""The space that is searched: one block or two, what wrappers hold, layers, and how many tokens each step leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..core.budget import Budget
from ..core.contracts import Method
from ..core.errors import BudgetError, TessellaError, UnsupportedError
from ..core.model_info import ModelInfo
from ..core.pipeline import Part, Pipeline
from .blocks import Block, cuts_of

LEAST = 1 / 32  # of the tokens: the smallest keep that is tried
PLACES = 4  # decimals of a share
START = {"keep": 0.25, "left": 0.25}  # at which each method alone is tried first

Values = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """Pipelines of a front block (it cuts before the first layer), a back block (it cuts later too), or both.

    `keep` fixes the share of visual tokens on the mean over decoder layers; without it every share is searched.
    """

    fronts: tuple[Block, ...]
    backs: tuple[Block, ...]
    info: ModelInfo
    keep: Fraction | None = None

    @property
    def shapes(self) -> tuple[str, ...]:
        there = (("front", self.fronts), ("back", self.backs), ("both", self.fronts and self.backs))
        return tuple(name for name, blocks in there if blocks)

    def suggest(self, trial: Any) -> Pipeline:
        """A pipeline from an Optuna trial's variables. Raises an error of core for values that make none."""
        shape = trial.suggest_categorical("shape", self.shapes)
        front = None if shape == "back" else self._method(trial, "front", self.fronts)
        back = None if shape == "front" else self._method(trial, "back", self.backs)
        if back is None:
            assert front is not None
            return Pipeline((Part(front, self._whole(trial)),))
        if front is None:
            return self.alone(back, self.keep or self._mean(trial, back))
        mean = self._mean(trial, back)
        if self.keep is None:
            first = self._whole(trial)
        elif mean < self.keep:
            raise BudgetError(f"{back.id} alone leaves less than {self.keep} of the tokens.")
        else:
            first = Budget(max(_rounded(self.keep / mean), Fraction(1, 10**PLACES)))
        return Pipeline((Part(front, first), Part(back, Budget(mean, "layer-mean"))))

    def alone(self, method: Method, share: Fraction) -> Pipeline:
        """One method at a share of the tokens on the mean over layers."""
        scope = "layer-mean" if max(cuts_of(method, self.info)) else None
        return Pipeline((Part(method, Budget(share, scope)),))

    def starts(self) -> list[Values]:
        """Values of each published method alone, with the layers of its paper as they are fitted to the model."""
        out: list[Values] = []
        for place, blocks in (("front", self.fronts), ("back", self.backs)):
            for block in (block for block in blocks if block.is_published):
                values: Values = {"shape": place, place: block.id, **START}
                values |= {_field(place, block, name): _name(getattr(block.method, name)) for name in block.holds}
                cuts = [layer for layer in cuts_of(block.method, self.info) if layer]
                if cuts:
                    room = self.info.num_layers - 1 - (cuts[0] + len(cuts) - 1)
                    values["layer"] = cuts[0]
                    values["spread"] = (cuts[-1] - cuts[0] - len(cuts) + 1) / room if room > 0 else 0.0
                out.append(values)
        return out

    def _method(self, trial: Any, place: str, blocks: Sequence[Block]) -> Method:
        ids = [block.id for block in blocks]
        block = blocks[ids.index(trial.suggest_categorical(place, ids))]
        held: dict[str, Method | None] = {}
        for name, inner in block.holds.items():
            names = [_name(method) for method in inner]
            held[name] = inner[names.index(trial.suggest_categorical(_field(place, block, name), names))]
        method = dataclasses.replace(block.method, **held)  # type: ignore[type-var]
        return self._with_layers(trial, method) if place == "back" else method

    def _with_layers(self, trial: Any, method: Method) -> Method:
        """The method with searched layers, where it has a setting that names them."""
        last = self.info.num_layers - 1
        layers = getattr(method, "layers", None)
        if isinstance(layers, tuple):
            first, more = trial.suggest_int("layer", 1, last), len(layers) - 1
            room = last - first - more
            if room < 0:
                raise UnsupportedError(f"{method.id} cuts {more + 1} times, which does not fit behind layer {first}.")
            reach = more + round(trial.suggest_float("spread", 0.0, 1.0) * room)
            chosen = tuple(first + (n * reach) // max(more, 1) for n in range(more + 1))
            return dataclasses.replace(method, layers=chosen)  # type: ignore[type-var]
        if any(f.name == "at_layer" for f in dataclasses.fields(method)):  # type: ignore[arg-type]
            return dataclasses.replace(method, at_layer=trial.suggest_int("layer", 1, last))  # type: ignore[type-var]
        return method

    def _whole(self, trial: Any) -> Budget:
        return Budget(self.keep or _rounded(trial.suggest_float("keep", LEAST, 1.0, log=True)))

    def _mean(self, trial: Any, back: Method) -> Fraction:
        """A share on the mean over layers: all tokens in front of the first cut, `left` of them behind it."""
        before = Fraction(cuts_of(back, self.info)[0], self.info.num_layers)
        return _rounded(before + (1 - before) * Fraction(trial.suggest_float("left", LEAST, 1.0)))


def make_space(blocks: Sequence[Block], info: ModelInfo, keep: Fraction | None) -> Space:
    """The space of some blocks, in front and back by where they cut."""
    fronts = tuple(block for block in blocks if not max(cuts_of(block.method, info)))
    backs = tuple(block for block in blocks if block not in fronts)
    return Space(fronts, backs, info, keep)


def rivals(space: Space, share: Fraction) -> list[Pipeline]:
    """Every published method alone, as its paper has it, at a share of the tokens on the mean over layers."""
    out = []
    for block in (block for block in (*space.fronts, *space.backs) if block.is_published):
        try:
            out.append(space.alone(block.method, share))
        except TessellaError:
            continue
    return out


def _field(place: str, block: Block, name: str) -> str:
    """The variable that says what a wrapper holds."""
    return f"{place} {block.id} {name}"


def _name(method: Method | None) -> str:
    return "nothing" if method is None else method.id


def _rounded(share: Fraction) -> Fraction:
    return round(Fraction(share), PLACES)
