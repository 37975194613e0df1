"""adatoken3d against its specification: PyramidDrop's ranking and counts under schedules of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import BudgetError, UnsupportedError
from tessella.core.layout import Block, Layout
from tessella.core.model_info import PaperLayer
from tessella.core.registry import make
from tessella.samples import batches, load_samples
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import tiny_inputs, tiny_llava

INFO = default_info()
FIRST, BEHIND = 2, 3  # text in front of the pictures and behind
A = {
    "layers": (4, 8, 12, 16, 18, 20, 22, 24, 26, 28),
    "ratios": (0.9, 0.8, 0.75, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.25),
}
B = {"layers": (4, 8, 12, 16, 18, 20), "ratios": (0.75, 0.5, 0.4, 0.3, 0.25, 0.15)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.floats(0, 1), st.floats(0, 1), st.integers(0, 999))
def test_a_later_cut_equals_a_reference_in_float64(there: list[int], one: float, other: float, seed: int) -> None:
    """int(n0 * ratio) of what the first cut left, by the row of the last token; padding holds loud values."""
    generator = torch.Generator().manual_seed(seed)
    now_ratio, next_ratio = max(one, other), min(one, other)
    now = [max(1, int(n * now_ratio)) for n in there]
    lengths = [FIRST + n + BEHIND for n in now]
    query, key = (torch.randn(len(now), heads, max(lengths), 8, generator=generator) for heads in (4, 2))
    for row, length in enumerate(lengths):
        query[row, :, length:], key[row, :, length:] = 40.0, 40.0
    layout = Layout.build([range(FIRST, FIRST + n) for n in now], [[Block(0, 1, n)] for n in now])
    view = ArrayView(
        projection=(query, key),
        lengths=lengths,
        embeddings=torch.zeros(len(now), max(now), 1),
        layout=layout,
        at_layer=9,
    )
    method: Any = make("adatoken3d", layers=(5, 9), ratios=(now_ratio, next_ratio))
    out = method.reduce(view, Counts(tuple(now), tuple(now), asked=False, num_first=tuple(there)))
    score = method.score(view)
    for b, length in enumerate(lengths):
        keys = key[b].repeat_interleave(2, dim=0)[:, :length].double()
        logits = (keys @ query[b, :, length - 1, :, None].double())[:, :, 0] / 8**0.5
        slow = logits.softmax(dim=1).mean(dim=0)[FIRST : FIRST + now[b]]
        torch.testing.assert_close(score[b, : now[b]].double(), slow, rtol=1e-4, atol=1e-7)
        count = max(1, int(there[b] * next_ratio))
        order = sorted(range(now[b]), key=lambda i: (-float(score[b, i]), i))
        assert out.keep[b].nonzero()[:, 0].tolist() == sorted(order[:count])
        assert out.num_kept[b] == count


def test_the_demos_schedule_is_the_default() -> None:
    method: Any = make("adatoken3d")
    assert all(isinstance(n, PaperLayer) and n.depth == 32 for n in method.layers)
    assert tuple(map(int, method.layers)) == (8, 16, 24)
    counts = Counts((1649,), (1649,), asked=False)
    assert [method.left_after(n, counts)[0] for n in range(3)] == [1319, 824, 412]
    asked = Counts((100,), (1649,))
    assert [method.left_after(n, asked)[0] for n in range(3)] == [320, 200, 100]
    assert [s.promised_count for s in method.steps(INFO, Budget(100))] == ["adaptive", "adaptive", "exact"]


@pytest.mark.parametrize(("schedule", "mean"), [(A, 0.6625), (B, 0.421875), ({}, 0.6375)])
def test_schedules_on_a_model_of_the_papers_depth(schedule: dict[str, Any], mean: float) -> None:
    """The mean share of tokens over 32 layers; of 16 tokens int() takes up to a sixteenth less."""
    model, inputs = tiny_llava(num_layers=32), tiny_inputs((1,))
    method: Any = make("adatoken3d", **schedule)
    with torch.no_grad(), tessella.reduce(model, method) as run:
        model(**inputs)
    cuts, ratios = tuple(map(int, method.layers)), schedule.get("ratios", (0.8, 0.5, 0.25))
    shares = [[1.0, *ratios][sum(c <= layer for c in cuts)] for layer in range(32)]
    assert sum(shares) / 32 == pytest.approx(mean)
    assert run.report.last is not None
    assert run.report.last.layers == tuple(int(16 * s) for s in shares)
    assert mean - 1 / 16 < run.report.mean_keep_ratio <= mean


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_it_is_pyramiddrop_with_other_ratios(positions: Any) -> None:
    model, inputs = tiny_llava(num_layers=8), tiny_inputs((1, 2, 1), padding="left")
    found = []
    with torch.no_grad():
        for method in ("adatoken3d", "pyramiddrop(ratios=(0.8, 0.5, 0.25))"):
            with tessella.reduce(model, method, positions=positions) as run:
                found.append((model(**inputs).logits, [[k.tolist() for k in row] for row in run.kept]))
                assert run.report.last.layers == (64, 64, 49, 49, 32, 32, 16, 16)  # type: ignore[union-attr]
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert [sum(map(len, row)) for row in found[0][1]] == [4, 8, 4]


def test_mini_and_qwen() -> None:
    model, processor = tessella.load("mini")
    for _, inputs in batches(model, processor, load_samples("mini:2")):
        with torch.no_grad(), tessella.reduce(model, "adatoken3d", keep=20) as run:
            model(**inputs)
        assert run.report.last.layers == (392, 392, 128, 128, 80, 80, 40, 40)  # type: ignore[union-attr]
    family = tiny_family("qwen2_5_vl")
    qwen, inputs = family.model(), family.inputs([[(32, 32)]])
    with torch.no_grad(), tessella.reduce(qwen, "adatoken3d(layers=(1, 2), ratios=(0.5, 0.3))") as run:
        qwen(**inputs)
    assert run.report.last.layers[:3] == (16, 8, 4)  # type: ignore[union-attr]


def test_what_is_refused() -> None:
    with pytest.raises(
        BudgetError, match=r"adatoken3d: ratios=\(0\.5, 0\.3, 0\.1\) fix what is kept; leave out the keep"
    ):
        make("adatoken3d", ratios=(0.5, 0.3, 0.1)).steps(INFO, Budget(4))
    with pytest.raises(
        BudgetError, match=r"one for each of the 2 layers \(4, 8\); the paper's \(0\.8, 0\.5, 0\.25\) are for 3"
    ):
        make("adatoken3d", layers=(4, 8)).steps(INFO, None)
    with pytest.raises(
        UnsupportedError, match=r"adatoken3d: layers\[3\]=16 is not a layer of this decoder; it has 4 layers"
    ):
        tessella.reduce(tiny_llava(), make("adatoken3d", **{**B, "layers": (1, 2, 3, 16, 18, 20)}))
