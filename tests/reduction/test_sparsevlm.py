"""sparsevlm against its specification: slow references of raters, clusters and whole cuts, and a model cut by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_by_layer import Front, LayerByLayer, Left, best
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import BudgetError, MethodError
from tessella.core.layout import Block, Layout
from tessella.core.registry import make
from tessella.core.view import Point
from tessella.reduction.sparsevlm import find_raters, rater_scores
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

INFO = default_info()


def slow_raters(image: Tensor, text: Tensor) -> list[int]:
    """Step 1 of the specification: numbers of the text tokens that judge."""
    logits = image.double() @ text.double().T
    scores = logits.softmax(dim=1).mean(dim=0).tolist()
    above = [t for t, s in enumerate(scores) if s > sum(scores) / len(scores)] if len(scores) > 1 else []
    return above or list(range(len(scores)))


def slow_clusters(points: Tensor, count: int) -> list[int]:
    """The number of each point's cluster, in float64, point by point; points come best first."""
    points, n = points.double(), len(points)
    far = [[float((points[i] - points[j]).norm()) / math.sqrt(points.shape[1]) for j in range(n)] for i in range(n)]
    density = [math.exp(-sum(sorted(d**2 for d in far[i])[:count]) / count) for i in range(n)]
    height = []
    for i in range(n):
        denser = [far[i][j] for j in range(n) if (-density[j], j) < (-density[i], i)]
        height.append(density[i] * (min(denser) if denser else max(map(max, far))))
    centres = best(height, count)
    return [centres.index(i) if i in centres else min(range(count), key=lambda c: far[i][centres[c]]) for i in range(n)]


def slow_cut(scores: list[float], hidden: Tensor, num_kept: int, num_merged: int) -> tuple[list[int], Tensor]:
    """Step 2 and 3: numbers of the tokens whose slots are left, kept ones first, and the vectors of all."""
    kept = sorted(best(scores, num_kept))
    rest = [i for i in best(scores, len(scores)) if i not in kept]
    recycled = rest[: int(0.3 * len(rest)) + 1] if num_merged else []
    cluster = slow_clusters(hidden[recycled], num_merged) if num_merged else []
    slots, vectors = list(kept), [hidden[i] for i in kept]
    for c in range(num_merged):
        members = [i for i, number in zip(recycled, cluster, strict=True) if number == c]
        slots.append(members[0])
        vectors.append(torch.stack([hidden[i] for i in members]).mean(dim=0))
    return slots, torch.stack(vectors)


def chain(method: Any, first: int, keep: int | None = None) -> list[tuple[int, int]]:
    """Kept and merged tokens of every cut of a prompt."""
    out, left = [], first
    for number in range(len(method.layers)):
        counts = Counts((first if keep is None else keep,), (left,), asked=keep is not None, num_first=(first,))
        kept, merged = (n[0] for n in method.planned(number, counts))
        left = kept + merged
        assert method.left_after(number, counts) == (left,)
        out.append((kept, merged))
    return out


# -- raters ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=3),
    st.integers(0, 3),
    st.integers(0, 999),
)
def test_raters_and_scores_equal_the_reference_on_ragged_batches(
    sizes: list[tuple[int, int]], before: int, seed: int
) -> None:
    """Text in front of the picture never judges; without any behind it the last token does."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [before + n + t for n, t in sizes]
    hidden = torch.randn(len(sizes), max(lengths), 6, generator=generator)
    query, key = (torch.randn(len(sizes), heads, max(lengths), 8, generator=generator) for heads in (4, 2))
    for row, length in enumerate(lengths):
        hidden[row, length:], query[row, :, length:], key[row, :, length:] = 40.0, 40.0, 40.0
    layout = Layout.build([range(before, before + n) for n, _ in sizes], [[Block(0, 1, n)] for n, _ in sizes])
    widest = torch.zeros(len(sizes), max(n for n, _ in sizes), 1)
    view = ArrayView(
        projection=(query, key), hidden=hidden, embeddings=widest, lengths=lengths, layout=layout, at_layer=3
    )
    method: Any = make("sparsevlm")
    method.observe(view, Point(0), hidden, hidden)
    scores = method.score(view)
    for b, (n, t) in enumerate(sizes):
        image, text = hidden[b, before : before + n], hidden[b, before + n : lengths[b]]
        raters = [before + i for i in slow_raters(image, text)] if t else []
        state = view.state["raters"][b, 0].nonzero()[:, 0].tolist()
        assert state == raters
        size = lengths[b]
        q, k = (x[b, :, :size].double() for x in (query, key))
        logits = q @ k.repeat_interleave(2, dim=0).transpose(1, 2) / 8**0.5
        attention = logits.masked_fill(torch.ones(size, size, dtype=torch.bool).triu(1), -torch.inf).softmax(dim=2)
        asking = [n + r for r in raters] or [size - 1]
        want = attention[:, asking, before : before + n].mean(dim=(0, 1))
        torch.testing.assert_close(scores[b, :n].double(), want, rtol=1e-4, atol=1e-7)


def test_a_lone_text_token_judges_and_so_does_all_text_that_is_alike() -> None:
    one = torch.tensor([[True]])
    assert find_raters(torch.ones(1, 1), one).tolist() == [[True]]
    image, alike = torch.randn(1, 4, 3), torch.ones(1, 4, 3)
    text = torch.tensor([[True, True, True, True]])
    scores = rater_scores(image, alike, torch.ones(1, 4, dtype=torch.bool), text)
    assert scores.tolist() == [[0.25] * 4]
    assert find_raters(scores, text).tolist() == [[True] * 4]


def test_the_mean_is_strict_and_over_text_behind_only() -> None:
    scores = torch.tensor([[0.9, 0.3, 0.2, 0.1, 0.2]])
    behind = torch.tensor([[False, True, True, True, True]])
    assert find_raters(scores, behind).tolist() == [[False, True, False, False, False]]


# -- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "after"),
    [
        ((300, 200, 110), [(300, 9), (200, 4), (110, 3)]),
        ((303, 110, 36), [(303, 9), (110, 7), (36, 3)]),
        ((238, 48, 26), [(238, 11), (48, 7), (26, 1)]),
        ((66, 30, 17), [(66, 16), (30, 2), (17, 1)]),
    ],
)
def test_published_lists(listed: tuple[int, ...], after: list[tuple[int, int]]) -> None:
    """A list's number is kept; merged tokens come on top: int((int(0.3 d) + 1) / 10) + 1 of d dropped ones."""
    assert chain(make("sparsevlm", ratios=tuple(n / 576 for n in listed)), 576) == after


def test_tokens_really_processed() -> None:
    """203 on average, where the counter of the authors' code says 188, both without merged tokens."""
    method: Any = make("sparsevlm", merging=False)
    seen = [576, *(kept for kept, _ in chain(method, 576))]
    ends = [*map(int, method.layers), 32]
    layers = [ends[0], *(b - a for a, b in itertools.pairwise(ends))]
    assert layers == [3, 4, 9, 16]
    assert round(sum(n * s for n, s in zip(layers, seen, strict=True)) / 32) == 203


def test_a_keep_counts_merged_tokens_too() -> None:
    method: Any = make("sparsevlm")
    assert chain(method, 576, keep=113) == chain(method, 576) == [(300, 9), (200, 4), (110, 3)]
    for first in (1, 2, 3, 16, 100, 576):
        for keep in range(1, first + 1, max(1, first // 50)):
            cuts = chain(method, first, keep)
            totals = [k + m for k, m in cuts]
            assert totals[-1] == keep
            assert totals == sorted(totals, reverse=True)
            left = first
            for kept, merged in cuts:
                dropped = left - kept
                assert kept >= 1
                usual = int((int(0.3 * dropped) + 1) / 10) + 1 if dropped else 0
                assert merged == usual or (merged < usual and kept == 1), (first, keep, cuts)
                left = kept + merged


def test_few_tokens() -> None:
    method: Any = make("sparsevlm")
    assert chain(method, 1) == [(1, 0)] * 3
    assert chain(method, 2) == [(1, 1)] * 3
    assert chain(method, 576, keep=1)[-1] == (1, 0)
    assert chain(method, 576, keep=4)[-1] == (3, 1)
    assert chain(make("sparsevlm", merging=False), 576, keep=110) == [(300, 0), (200, 0), (110, 0)]
    assert method.unmerged(4, 576) == 1  # 17 would be merged of so many
    assert make("sparsevlm", cluster_size=1).num_merged(10) == 4  # type: ignore[attr-defined]  # no more than are recycled


def test_settings_that_make_no_sense() -> None:
    for change, message in (
        ({"layers": (9, 8)}, r"sparsevlm: layers must ascend, from 1 on; got \(9, 8\)"),
        ({"ratios": (0.2, 0.5, 0.1)}, "do not grow with depth"),
        ({"recycled": 1.5}, r"recycled is a share in \[0, 1\]; got 1.5"),
        ({"cluster_size": 0}, "cluster_size must be >= 1; got 0"),
    ):
        with pytest.raises(MethodError, match=message):
            make("sparsevlm", **change)
    with pytest.raises(BudgetError, match="fix what is kept; leave out the keep of 8"):
        make("sparsevlm", ratios=(0.5, 0.2, 0.1)).steps(INFO, Budget(8))


# -- merging ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=3), st.integers(0, 999))
def test_a_cut_equals_the_reference_on_ragged_batches(there: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layout = Layout.build([range(2, 2 + n) for n in there], [[Block(0, 1, n)] for n in there])
    embeddings = torch.randn(len(there), max(there), 6, generator=generator, dtype=torch.float64)
    scores = torch.randn(len(there), max(there), generator=generator)
    for row, n in enumerate(there):
        embeddings[row, n:], scores[row, n:] = 40.0, 40.0
    view = ArrayView(embeddings=embeddings, layout=layout, lengths=[n + 5 for n in there], at_layer=16)
    method: Any = make("sparsevlm", cluster_size=3)
    keep = tuple(int(torch.randint(1, n + 1, (1,), generator=generator)) for n in there)
    out = method.decide(scores, view, Counts(keep, tuple(there)))
    assert out.num_kept == keep
    for b, n in enumerate(there):
        kept, merged = (x[b] for x in method.planned(2, Counts(keep, tuple(there))))
        slots, vectors = slow_cut(scores[b, :n].tolist(), embeddings[b, :n], kept, merged)
        assert out.order[b, : keep[b]].tolist() == slots
        torch.testing.assert_close(out.embeddings[b, : keep[b]], vectors, rtol=1e-4, atol=1e-5)
        assert out.keep[b].nonzero()[:, 0].tolist() == sorted(slots)
        assert [i for i in range(n) if out.source[b, i] == i] == sorted(slots)


def test_tokens_are_read_in_the_order_of_the_sequence() -> None:
    """Behind a cut under compact positions merged tokens stand last, whatever slot they have."""
    embeddings, scores = torch.randn(1, 30, 6), torch.randn(1, 30)
    place = 2 + torch.randperm(30)[None]
    view = ArrayView(embeddings=embeddings, num_tokens=(30,), first_slot=2, lengths=(35,), at_layer=16)
    view.places = lambda of: place  # type: ignore[method-assign]
    method: Any = make("sparsevlm")
    order = method.decide(scores, view, Counts((20,), (30,))).order[0].tolist()
    kept, merged = (n[0] for n in method.planned(2, Counts((20,), (30,))))
    assert merged >= 1
    assert order[:kept] == sorted(best(scores[0].tolist(), kept), key=lambda i: int(place[0, i]))


def test_equal_tokens_make_equal_clusters() -> None:
    """Without noise a tie is decided by the score, and every cluster keeps a member."""
    view = ArrayView(embeddings=torch.ones(1, 60, 4), num_tokens=(60,), lengths=(60,), at_layer=16)
    method: Any = make("sparsevlm", cluster_size=2)
    out = method.decide(torch.arange(60.0)[None], view, Counts((30,), (60,)))
    kept, merged = (n[0] for n in method.planned(2, Counts((30,), (60,))))
    assert merged > 2
    assert out.order[0, kept:].tolist() == [59 - kept - i for i in range(merged)]
    assert torch.equal(out.embeddings, torch.ones_like(out.embeddings))


# -- on a model ------------------------------------------------------------------------------------------------------


def cut_by_hand(counts: list[tuple[int, int]]) -> Any:
    def cut(number: int, front: Front) -> Left:
        text = front.text
        behind = list(range(front.first[-1] + 1, len(front.embeddings)))[: len(text)]
        raters = slow_raters(front.embeddings[front.first], front.embeddings[behind]) if text else []
        asking = [text[i] for i in raters] or [len(front.hidden) - 1]
        scores = front.attention[:, asking][:, :, front.visual].mean(dim=(0, 1)).tolist()
        slots, vectors = slow_cut(scores, front.hidden[front.visual], *counts[number])
        return Left([front.visual[i] for i in slots], vectors)

    return cut


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("merging", [True, False])
def test_logits_and_eight_tokens_equal_a_model_cut_by_hand(positions: Any, side: Any, merging: bool) -> None:
    """Rows of one and of two pictures, so that they keep different numbers of tokens."""
    model, inputs = tiny_llava(num_layers=6), tiny_inputs((1, 2, 1), padding=side, seed=3)
    pictures = inputs["pixel_values"].split([1, 2, 1])
    chosen = make("sparsevlm", layers=(1, 3, 5), merging=merging)
    with torch.no_grad():
        with tessella.reduce(model, chosen, keep="1/4", positions=positions) as run:
            logits = run.expand(model(**inputs).logits)
            tokens = model.generate(**inputs, max_new_tokens=8, suppress_tokens=[IMAGE_TOKEN])[:, -8:]
            kept = [sum(len(picture) for picture in row) for row in run.kept]
        assert kept == [4, 8, 4]
        for row, pixels in enumerate(pictures):
            real = inputs["attention_mask"][row].nonzero()[:, 0]
            ids = inputs["input_ids"][row, real].tolist()
            counts = chain(chosen, ids.count(IMAGE_TOKEN), kept[row])
            assert all(merged >= merging for _, merged in counts)
            reference = LayerByLayer(model, ids, pixels, (1, 3, 5), cut_by_hand(counts), positions)
            slots, want = reference.logits()
            text = [i for i, slot in enumerate(slots) if ids[slot] != IMAGE_TOKEN]
            ours = logits[row, [int(real[0]) + slots[i] for i in text]].double()
            torch.testing.assert_close(ours, want[text], rtol=1e-4, atol=1e-4)
            if side == "left":
                assert tokens[row].tolist() == reference.greedy(8)


def test_without_text_behind_the_picture_the_last_token_judges() -> None:
    model, inputs = tiny_llava(num_layers=6), tiny_inputs((1,), text_length=0, seed=2)
    ids = inputs["input_ids"][0].tolist()
    assert ids[-1] == IMAGE_TOKEN
    method = make("sparsevlm", layers=(1, 3, 5))
    with torch.no_grad():
        with tessella.reduce(model, method, keep=4, positions="original") as run:
            ours = run.expand(model(**inputs).logits)[0, :3].double()
            kept = run.kept[0][0].tolist()
        cut = cut_by_hand(chain(method, 16, 4))
        slots, want = LayerByLayer(model, ids, inputs["pixel_values"], (1, 3, 5), cut, "original").logits()
    torch.testing.assert_close(ours, want[:3], rtol=1e-4, atol=1e-4)
    assert kept == [slot - 3 for slot in slots[3:]]


def test_raters_are_found_among_all_visual_tokens_once() -> None:
    """Behind the connector's own cut they are found among what is left; later cuts do not change them."""
    model, inputs = tiny_llava(num_layers=6), tiny_inputs((1,), seed=4)
    seen = []

    class Spy(type(make("sparsevlm"))):  # type: ignore[misc]
        def score(self, view: Any) -> Tensor:
            seen.append(view.state["raters"][0, 0].nonzero()[:, 0].tolist())
            return super().score(view)

    spy = Spy(layers=(1, 3, 5))
    with torch.no_grad(), tessella.reduce(model, spy, keep=4):
        model(**inputs)
        ids = inputs["input_ids"][0]
        text = model.get_input_embeddings()(ids[ids != IMAGE_TOKEN])
        image = model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
        raters = [3 + t for t in slow_raters(torch.cat(list(image)), text[3:])]
    assert seen == [raters] * 3


def test_a_qwen_keeps_its_positions() -> None:
    family = tiny_family("qwen2_5_vl")
    model, inputs = family.model(), family.inputs([[(32, 32)]])
    with torch.no_grad(), tessella.reduce(model, make("sparsevlm", layers=(1,), ratios=(0.5,))) as run:
        logits = model(**inputs).logits
        assert run.report.last.layers[:2] == (16, 9)  # type: ignore[union-attr]
        assert torch.isfinite(logits).all()


def test_the_embedded_model_runs_on_the_papers_layers_scaled() -> None:
    model, _ = tessella.load("mini")
    with tessella.reduce(model, "sparsevlm", keep=16) as run:
        assert "layers=(1, 2, 4)" in run.report.notes[0]


def test_layers_are_counted_by_inputs() -> None:
    """The paper prunes the outputs of layers 2, 6 and 15."""
    steps = make("sparsevlm").steps(INFO, None)
    assert [(s.at_layer, s.captures.decoder, len(s.observes)) for s in steps] == [
        (3, (2,), 1),
        (7, (6,), 0),
        (16, (15,), 0),
    ]
