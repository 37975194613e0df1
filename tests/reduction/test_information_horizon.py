"""information_horizon against its specification: draws, counts in front of the horizon and behind it, any method."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import pytest
import torch

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.cards import Card
from tessella.core.contracts import Method
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.pipeline import parse
from tessella.core.reduction import Reduction
from tessella.core.registry import make
from tessella.core.view import View
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import NUM_VISUAL, tiny_inputs, tiny_llava

INFO = default_info()


def beyond(method: str | Method = "divprune", **settings: Any) -> Any:
    inner = method if isinstance(method, Method) else parse(method).parts[0].method
    return make("information_horizon", method=inner, **settings)


def layers_of(method: str | Method, keep: Any = None, num_layers: int = 6, images: int = 1, **options: Any) -> Any:
    """Visual tokens in each layer, of a prompt with pictures of 16 tokens."""
    model = tiny_llava(num_layers=num_layers)
    with torch.no_grad(), tessella.reduce(model, method, keep=keep, **options) as run:
        model(**tiny_inputs((images,)))
    assert run.report.last is not None
    return run.report.last.layers


# -- draws -----------------------------------------------------------------------------------------------------------


def drawn(there: int, keep: int, samples: list[int], seed: int = 0) -> torch.Tensor:
    view = ArrayView(embeddings=torch.zeros(len(samples), there, 1), sample_ids=samples)
    counts = Counts((keep,) * len(samples), (there,) * len(samples))
    return beyond(seed=seed).reduce(view, counts).keep  # type: ignore[no-any-return]


def test_every_token_is_drawn_as_often_as_any_other() -> None:
    """2,000 draws of 5 of 12 tokens, within 4 standard deviations."""
    count = drawn(12, 5, list(range(2000))).sum(dim=0)
    expected, sigma = 2000 * 5 / 12, math.sqrt(2000 * 5 / 12 * 7 / 12)
    assert int(count.sum()) == 10_000
    assert float((count - expected).abs().max()) < 4 * sigma


def test_a_draw_depends_on_seed_and_sample_and_not_on_the_batch() -> None:
    together = drawn(40, 20, [7, 8, 9])
    assert torch.equal(together, drawn(40, 20, [7, 8, 9]))
    for row, sample in enumerate((7, 8, 9)):
        assert torch.equal(together[row : row + 1], drawn(40, 20, [sample]))
    assert len({tuple(row.tolist()) for row in together}) == 3
    assert not torch.equal(together, drawn(40, 20, [7, 8, 9], seed=1))


def test_tokens_left_are_those_of_the_method_and_a_draw_among_them() -> None:
    """As a pipeline of two, of which the second has half of what the first leaves."""
    model, inputs = tiny_llava(num_layers=6), tiny_inputs((2, 1), padding="left")
    with torch.no_grad():
        with tessella.reduce(model, beyond(at_layer=4, seed=3), keep=5, positions="original") as run:
            logits = model(**inputs).logits
            kept = run.kept
        with tessella.reduce(model, "divprune:10 | random(seed=3)@4:0.5", positions="original") as run:
            assert torch.equal(model(**inputs).logits, logits)
            assert [[k.tolist() for k in row] for row in run.kept] == [[k.tolist() for k in row] for row in kept]
        with tessella.reduce(model, "divprune:10 | random(seed=4)@4:0.5", positions="original") as run:
            model(**inputs)
            assert [[k.tolist() for k in row] for row in run.kept] != [[k.tolist() for k in row] for row in kept]


# -- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "share", "before", "behind"),
    [
        (4, 0.5, 8, 4),
        (9, 0.5, 16, 9),  # at most everything
        (16, 0.5, 16, 16),
        (0.25, 0.5, 8, 4),
        (0.7, 0.5, 16, 11),
        (3, 0.3, 10, 3),
        (6, 1.0, 6, 6),
        ("3/8", 0.75, 8, 6),
        (6, 0.0, 6, 0),
        (0.25, 0.0, 4, 0),
        (1.0, 0.0, 16, 16),
    ],
)
def test_a_keep_is_what_is_left_behind_the_horizon(keep: Any, share: float, before: int, behind: int) -> None:
    assert layers_of(beyond(share=share, at_layer=4), keep) == (before,) * 4 + (behind,) * 2


def test_the_examples_of_the_specification() -> None:
    """Of 28 layers 20 with 0.6 of the tokens and 8 with 0.25 are half of the tokens on average."""
    method = beyond(share=0.25 / 0.6)
    assert method.fit(dataclasses.replace(INFO, num_layers=28)).at_layer == 20
    layers = layers_of(method, 0.25, num_layers=28)
    assert layers == (round(0.6 * NUM_VISUAL),) * 20 + (4,) * 8
    # of a mean of 0.5 with half of the tokens drawn: 48 k / 28 / 16, nearest for k = 5
    assert layers_of(beyond(), 0.5, num_layers=28, scope="layer-mean") == (10,) * 20 + (5,) * 8
    # with none: 20 k / 28 / 16, nearest for k = 11
    assert layers_of(beyond(share=0.0), 0.5, num_layers=28, scope="layer-mean") == (11,) * 20 + (0,) * 8


@pytest.mark.parametrize(
    ("base", "keep", "want"),
    [
        ("fastv@1", 4, (16, 8, 8, 8, 4, 4)),
        ("random@2", 0.25, (16, 16, 8, 8, 4, 4)),
        ("pyramiddrop(layers=(1, 2, 3))", 2, (16, 16, 8, 4, 2, 2)),
        ("catp(score_layer=1)", 0.25, (12, 12, 12, 8, 4, 4)),
        ("todre(check_layer=2, tau=0.0)", "3/8", (12, 12, 12, 12, 6, 6)),
        ("todre(check_layer=2, tau=1.1)", "3/8", (12, 12, 12, 0, 0, 0)),
        ("information_horizon(method=divprune, at_layer=2)", 3, (12, 12, 6, 6, 3, 3)),
        ("prumerge", None, None),
        ("none", 4, (16, 16, 16, 16, 4, 4)),
        ("none", None, (16, 16, 16, 16, 8, 8)),
        ("pyramiddrop(layers=(1, 2, 3))", None, (16, 8, 4, 2, 1, 1)),
    ],
)
def test_any_method_in_front_of_the_horizon(base: str, keep: Any, want: tuple[int, ...] | None) -> None:
    """Cuts behind the first count what there was in front of it, and so does the draw."""
    layers = layers_of(beyond(base, at_layer=4), keep)
    if want is None:  # whatever the method leaves by itself, half of it
        alone = layers_of(base)
        want = (*alone[:4], *(round(n / 2) for n in alone[4:]))
    assert layers == want


def test_several_pictures_have_counts_of_their_own_or_together_as_the_method_has() -> None:
    model, inputs = tiny_llava(num_layers=6), tiny_inputs((2, 1), padding="left")
    for base, each in (("divprune", [[4, 4], [4]]), ("fastv@1", [[8], [4]])):
        with torch.no_grad(), tessella.reduce(model, beyond(base, at_layer=4), keep=4) as run:
            model(**inputs)
        counts = [[len(k) for k in row] for row in run.kept]
        assert (counts if base == "divprune" else [[sum(row)] for row in counts]) == each


@dataclasses.dataclass(frozen=True)
class Few(Method):
    """Keeps the first two tokens, however many are asked for."""

    id: ClassVar[str] = "few"
    card = Card("Few", stages=("connector",), count="at_most", count_reason="two are enough")

    def reduce(self, view: View, counts: Counts) -> Reduction:
        keep = (torch.arange(view.mask.shape[1]) < 2) & view.mask
        return Reduction(keep, (2,) * len(keep))


def test_what_a_method_has_left_less_than_the_keep_stays() -> None:
    method = beyond(Few(), at_layer=4)
    assert (method.card.count, method.card.promised_count(asked=True)) == ("at_most", "at_most")
    assert layers_of(method, 5) == (2,) * 6
    assert layers_of(method, 1) == (2,) * 4 + (1,) * 2


def test_the_card_promises_what_the_method_promises() -> None:
    def promise(method: Any) -> tuple[Any, ...]:
        card = method.card
        return card.count, card.promised_count(asked=True), card.min_keep, card.unit, card.cost, card.positions

    assert promise(beyond("divprune")) == ("exact", "exact", 1, "image", "heavy", "original")
    assert promise(beyond("fastv")) == ("exact", "exact", 1, "prompt", "light", "original")
    assert promise(beyond("pyramiddrop")) == ("adaptive", "exact", 1, "prompt", "light", "original")
    assert promise(beyond("todre")) == ("adaptive", "adaptive", 1, "image", "heavy", "original")
    assert promise(beyond("none")) == ("adaptive", "exact", 1, "tile", "light", "original")
    assert promise(beyond("divprune", share=0.0)) == ("at_most", "at_most", 0, "image", "heavy", "original")
    assert beyond("fastv").card.prompt_dependent
    assert not beyond("divprune").card.prompt_dependent
    assert beyond("fastv").needs(INFO) == ("decoder_rows",)


# -- the horizon -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "depth", "layer"),
    [
        (None, 28, 20),
        (None, 32, 16),
        (None, 40, 20),
        (None, 6, 4),
        ("ocr", 28, 27),
        ("ocr", 32, 24),
        ("ocr", 40, 27),
        ("ocr", 16, 15),
    ],
)
def test_the_horizon_of_a_model(task: str | None, depth: int, layer: int) -> None:
    info = dataclasses.replace(INFO, num_layers=depth)
    method = beyond(task=task).fit(info)
    assert method.at_layer == layer
    assert [s.at_layer for s in method.steps(info, Budget(0.5))] == [0, layer]
    assert beyond(task=task, at_layer=2).fit(info).at_layer == 2


def test_everything_leaves_at_the_horizon_as_in_yopo() -> None:
    model, inputs = tiny_llava(num_layers=6), tiny_inputs((2, 1), padding="left")
    with torch.no_grad():
        with tessella.reduce(model, beyond("none", share=0.0, at_layer=3)) as run:
            got = model(**inputs).logits
        with tessella.reduce(model, "yopo@3"):
            want = model(**inputs).logits
    assert torch.equal(got, want)
    assert run.report.last is not None
    assert run.report.last.layers == (32 + 16,) * 3 + (0,) * 3


def test_kept_tokens_keep_their_positions() -> None:
    with torch.no_grad(), tessella.reduce(tiny_llava(num_layers=6), beyond(at_layer=4), keep=4) as run:
        run.model(**tiny_inputs((1,)))
    assert run.report.positions == "compact/original"


def test_what_a_method_observes_reaches_it() -> None:
    """TransPrune folds outputs of modules into its score; the tokens that it keeps are those that it keeps alone."""
    model, inputs = tiny_llava(num_layers=10), tiny_inputs((1,))
    base = "transprune"
    fitted = parse(base).parts[0].method.fit(dataclasses.replace(INFO, num_layers=10))
    last = max(s.at_layer for s in fitted.steps(INFO, Budget(8)))
    assert fitted.observes(INFO)
    with torch.no_grad():
        with tessella.reduce(model, base, keep=8) as alone:
            model(**inputs)
        with tessella.reduce(model, beyond(base, at_layer=last + 1), keep=4) as run:
            model(**inputs)
    assert run.report.last is not None
    assert alone.report.last is not None
    assert run.report.last.layers[: last + 1] == alone.report.last.layers[: last + 1]
    assert run.report.last.layers[-1] == 4
    assert set(run.kept[0][0].tolist()) < set(alone.kept[0][0].tolist())
    assert beyond(base).observes(INFO) == parse(base).parts[0].method.observes(INFO)


def test_on_a_model_with_positions_of_three_axes() -> None:
    tiny = tiny_family("qwen2_5_vl")
    model, inputs = tiny.model(num_layers=6), tiny.inputs([[(32, 32), (32, 16)], [(32, 16)]])
    options = {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad(), tessella.reduce(model, beyond("fastv@2"), keep=0.25) as run:
        model(**inputs)
        kept = [sum(map(len, row)) for row in run.kept]
        cached, again = (model.generate(**inputs, **options, use_cache=use) for use in (True, False))
    assert run.report.last is not None
    assert run.report.last.layers == (32, 32, 16, 16, 8, 8)
    assert kept == [6, 2]
    assert torch.equal(cached, again)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "divprune"}, "information_horizon: "),
        ({"method": make("downsample")}, r"downsample rewrites inputs; write it in front: 'downsample \| "),
        ({"at_layer": 0}, "at_layer must be >= 1; got 0"),
        ({"share": 1.5}, r"share lies in \[0, 1\]; got 1.5"),
        ({"share": float("nan")}, r"share lies in \[0, 1\]; got nan"),
        ({"task": "reading"}, "task must be None or 'ocr'; got 'reading'"),
        ({"seed": -1}, "seed must be >= 0; got -1"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        make("information_horizon", **{"method": make("divprune"), **wrong})


def test_what_cannot_be_done_is_refused() -> None:
    model = tiny_llava(num_layers=6)
    with pytest.raises(UnsupportedError, match="draws in front of layer 4, and fastv still cuts in front of layer 4; "):
        tessella.reduce(model, beyond("fastv@4", at_layer=4), keep=4)
    with pytest.raises(UnsupportedError, match="at_layer=6 is not a layer of this decoder; it has 6 layers: 0 to 5"):
        tessella.reduce(model, beyond(at_layer=6), keep=4)
    with pytest.raises(UnsupportedError, match="information_horizon: at_layer=6 is not a layer of this decoder"):
        tessella.reduce(model, beyond(task="ocr"), keep=4)  # 27 of 28, scaled and rounded
    with pytest.raises(BudgetError, match="information_horizon needs a keep"):
        tessella.reduce(model, beyond())
    with pytest.raises(BudgetError, match="information_horizon needs a keep for divprune"):
        beyond(at_layer=4).steps(INFO, None)
    with (
        torch.no_grad(),
        pytest.raises(BudgetError, match="keep=17 asks for 17 visual tokens per image, but only 16 are there"),
        tessella.reduce(model, beyond(), keep=17),
    ):
        model(**tiny_inputs((1,)))
