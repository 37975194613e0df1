"""aot against its specification, step by step in float64: anchors, transport, pooling, clips, slots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import LayoutError, MethodError
from tessella.core.layout import Block, Layout
from tessella.core.model_info import PaperLayer
from tessella.core.reduction import Reduction
from tessella.core.registry import make
from tessella.core.view import Unpooled
from tessella.ops.transport import sinkhorn_until
from tessella.reduction import aot
from tessella.reduction.aot import budget_near, half_or_most
from tessella.testing import CHECKS, ArrayView, contract
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.family_cases import inputs_of, prompts, tiny_model

LOUD, CHANNELS, SHALLOW, DEEP = 30.0, 7, 5, 21
Clip = tuple[int, int, int]  # frames, and rows and columns of tokens, each the mean of 2 x 2 rows of the connector
CLIPS: tuple[Clip, ...] = ((4, 3, 4), (7, 2, 3), (1, 3, 3))


def laid(clips: Sequence[Clip], scale: int = 1) -> Layout:
    blocks = [[Block(0, r * scale, c * scale, frame=f) for f in range(t)] for t, r, c in clips]
    return Layout.build([range(sum(b.num_tokens for b in row)) for row in blocks], blocks)


def drawn(clip: Clip, name: int, *channels: int) -> Tensor:
    """Rows of a clip, the same alone as in any batch."""
    generator = torch.Generator().manual_seed(hash((clip, name)) % 2**31)
    return torch.rand(clip[0], 2 * clip[1], 2 * clip[2], *channels, generator=generator)


def pooled(rows: Tensor) -> Tensor:
    """Means of 2 x 2 rows: [T, 2 R, 2 C, D] to [T R C, D]."""
    frames, down, across, channels = rows.shape
    return rows.view(frames, down // 2, 2, across // 2, 2, channels).mean(dim=(2, 4)).reshape(-1, channels)


def view_of(clips: Sequence[Clip], dtype: torch.dtype = torch.float32) -> ArrayView:
    """A ragged batch of clips that are pooled behind the connector, with loud padding."""
    small, large = laid(clips), laid(clips, 2)

    def padded(parts: Sequence[Tensor], layout: Layout) -> Tensor:
        out = torch.full((len(clips), max(layout.num_tokens), *parts[0].shape[1:]), LOUD, dtype=parts[0].dtype)
        for row, part in zip(out, parts, strict=True):
            row[: len(part)] = part
        return out

    def pool(values: Tensor) -> Tensor:
        items = zip(values, clips, strict=True)
        return padded([pooled(v[: t * r * c * 4].view(t, 2 * r, 2 * c, -1)) for v, (t, r, c) in items], small)

    rows = padded([drawn(c, 0, CHANNELS).sub(0.5).flatten(0, 2) for c in clips], large).to(dtype)
    received = {n: padded([drawn(c, n).flatten() for c in clips], large) for n in (SHALLOW, DEEP)}
    unpooled = Unpooled(rows, large, lambda layer: received[layer], pool)
    return ArrayView(embeddings=pool(rows), layout=small, unpooled=unpooled)


def answer(clips: Sequence[Clip], keeps: Sequence[int] | None = None, **settings: object) -> Reduction:
    view = view_of(clips)
    there = view.layout.num_tokens
    counts = Counts(there, there, asked=False) if keeps is None else Counts(tuple(keeps), there)
    return make("aot", **settings).reduce(view, counts)


# -- a slow reference ------------------------------------------------------------------------------------------------


def anchors_of(shallow: Tensor, deep: Tensor, budget: int) -> list[int]:
    """Places of a frame's anchors, steps 1 and 2."""
    down, across = shallow.shape
    local = budget // 2
    windows: dict[tuple[int, int], list[int]] = {}
    for place in range(shallow.numel()):
        windows.setdefault((place // across * 3 // down, place % across * 3 // across), []).append(place)
    picks = []
    for window in windows.values():
        window.sort(key=lambda p: -float(shallow.flatten()[p]))
        picks += window[: local // len(windows)]
    rest = sorted((p for p in range(shallow.numel()) if p not in picks), key=lambda p: -float(deep.flatten()[p]))
    return sorted(picks + rest[: budget - local])


def scaled(costs: list[Tensor]) -> list[Tensor]:
    """Plans of several matrices whose iterations stop together."""
    kernels = [(-c / 0.1).exp() for c in costs]
    r, c = ([torch.ones(k.shape[axis], dtype=torch.float64) for k in kernels] for axis in (0, 1))
    for _ in range(100):
        before = r
        r = [1 / len(k) / (k @ y) for k, y in zip(kernels, c, strict=True)]
        c = [1 / k.shape[1] / (k.T @ x) for k, x in zip(kernels, r, strict=True)]
        moved = torch.cat([(x - y).abs() for x, y in zip(r, before, strict=True)])
        if moved.mean() < 1e-2:
            break
    return [x[:, None] * k * y for x, k, y in zip(r, kernels, c, strict=True)]


def cosines(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.normalize(one, dim=1) @ torch.nn.functional.normalize(other, dim=1).T


def within(rows: Tensor, anchors: list[list[int]]) -> Tensor:
    """Steps 3 to 7 for the frames `[T, R, C, D]` of a clip."""
    frames, down, across, _ = rows.shape
    flat, costs, rest = rows.flatten(1, 2), [], []
    last = (max(down - 1, 1), max(across - 1, 1))
    place = torch.tensor([[i / last[0], j / last[1]] for i in range(down) for j in range(across)]).double()
    for t in range(frames):
        others = [p for p in range(down * across) if p not in anchors[t]]
        far = (place[others][:, None] - place[anchors[t]]).norm(dim=2)
        costs.append(1 - cosines(flat[t, others], flat[t, anchors[t]]) + 0.5 * far)
        rest.append(others)
    out = flat.clone()
    for t, plan in enumerate(scaled(costs)):
        nearest = cosines(flat[t, rest[t]], flat[t, anchors[t]]).argmax(dim=1)
        for j, anchor in enumerate(anchors[t]):
            moved = (flat[t, anchor] + plan[:, j] @ flat[t, rest[t]]) / (1 + plan[:, j].sum())
            mine = [p for p, n in zip(rest[t], nearest.tolist(), strict=True) if n == j]
            hard = (flat[t, anchor] + flat[t, mine].sum(dim=0)) / (1 + len(mine))
            out[t, anchor] = 0.9 * moved + 0.1 * hard
    return out.view_as(rows)


def between(frames: list[Tensor], keep_ratio: float) -> list[Tensor]:
    """Steps 9 to 13 for the kept tokens of a short clip's frames."""
    anchors = frames[0].clone()
    out = [frames[0]]
    for t, tokens in enumerate(frames[1:], start=1):
        cost = 1 - cosines(tokens, anchors).clamp(-1 + 1e-6, 1 - 1e-6)
        (plan,) = scaled([(cost - cost.min()) * (1 - math.exp(-(t**2) / 4.5))])
        share = plan / plan.sum(dim=1, keepdim=True)
        most = share.max(dim=1).values
        apart = most < torch.quantile(most, keep_ratio)
        out.append(tokens[apart])
        share = share[~apart]
        anchors = (anchors + share.T @ tokens[~apart]) / (1 + share.sum(dim=0))[:, None]
    return [*out, anchors] if len(frames) > 1 else out


def slowly(clip: Clip, budget: int, length: int, keep_ratio: float = 0.3) -> Tensor:
    """The whole sequence of a clip in float64."""
    rows = drawn(clip, 0, CHANNELS).sub(0.5).double()
    pairs = zip(drawn(clip, SHALLOW), drawn(clip, DEEP), strict=True)
    anchors = [anchors_of(shallow, deep, budget) for shallow, deep in pairs]
    marks = torch.zeros(clip[0], 4 * clip[1] * clip[2], 1)
    for mark, mine in zip(marks, anchors, strict=True):
        mark[mine] = 1
    share = pooled(marks.view(*rows.shape[:3], 1)).view(clip[0], -1)
    tokens = pooled(within(rows, anchors)).view(*share.shape, -1)
    kept = [t[s >= min(0.5, float(s.max()))] for t, s in zip(tokens, share, strict=True)]
    return torch.cat(
        [x for start in range(0, clip[0], length) for x in between(kept[start : start + length], keep_ratio)]
    )


@pytest.mark.parametrize(("budget", "length", "keep_ratio"), [(12, 2, 0.3), (14, 3, 0.1), (9, 4, 0.6), (20, 1, 0.3)])
def test_equals_the_specification_in_a_ragged_batch(budget: int, length: int, keep_ratio: float) -> None:
    reduction = answer(CLIPS, budget_per_frame=budget, clip_frames=length, keep_ratio=keep_ratio)
    assert reduction.num_kept == tuple(reduction.keep.sum(dim=1).tolist())
    for b, clip in enumerate(CLIPS):
        want = slowly(clip, budget, length, keep_ratio)
        assert reduction.num_kept[b] == len(want), "another number of tokens, or no slot for some"
        assert reduction.embeddings is not None
        torch.testing.assert_close(reduction.embeddings[b, : len(want)].double(), want, rtol=1e-4, atol=1e-5)


def test_a_cell_is_kept_from_one_half_on_or_where_none_is_by_its_share() -> None:
    share = torch.tensor([[0.49, 0.5, 0.7, 0.0], [0.2, 0.0, 0.3, 0.9], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4, [True] * 3 + [False], [True] * 4])
    assert half_or_most(share, mask).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_frames_of_a_clip_end_their_iterations_together_and_clips_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def spy(*args: Any, together: Tensor | None) -> Tensor:
        told.append(None if together is None else together.tolist())
        return sinkhorn_until(*args, together=together)

    monkeypatch.setattr(aot, "sinkhorn_until", spy)
    answer(CLIPS, clip_frames=3)
    assert told == [[0] * 4 + [1] * 7 + [2], None, None], "within frames; two steps between them, each clip by itself"


def test_a_keep_ratio_of_one_drops_only_the_surest_token() -> None:
    """The quantile 1 is the maximum, which alone is not below it."""
    method = make("aot", keep_ratio=1.0)
    kept = torch.rand(3, 8) < 0.8
    _, alone, into = method.transported(torch.randn(3, 8, 5), kept, [[0, 1, 2]])  # type: ignore[attr-defined]
    assert torch.equal(alone[0], kept[0])
    assert (kept.sum(dim=1) - alone.sum(dim=1)).tolist() == [0, 1, 1]
    assert torch.equal(into >= 0, kept & ~alone)


def test_windows_round_down_and_a_keep_finds_the_budget_that_fits() -> None:
    """V=207 has 203 anchors, as in the authors' code; of a keep the V is sought whose anchors come nearest."""
    layout, method = Layout.single(1, 27, 27), make("aot")
    counts = {}
    for v in (126, 180, 207, 729):
        anchors = method.anchors(torch.rand(1, 729), torch.rand(1, 729), layout, [v])  # type: ignore[attr-defined]
        counts[v] = int(anchors.sum())
    assert counts == {126: 126, 180: 180, 207: 203, 729: 725}
    assert [budget_near(float(n), 729, 9, 0.5) for n in (126, 180, 203, 1, 5000)] == [126, 180, 207, 1, 729]
    assert budget_near(16.0, 54, 9, 0.5) == 18, "of 16, windows would have none"


def test_the_count_of_a_keep_follows_the_length_of_clips() -> None:
    """Without pooling, tokens are anchors: n (2 + r (L - 1)) of a clip, and n of a frame that is alone."""
    layout = Layout.build([range(16 * 81)], [[Block(0, 9, 9, frame=f) for f in range(16)]])
    view = ArrayView(embeddings=torch.randn(1, 16 * 81, 5), layout=layout, attention_received=torch.rand(1, 16 * 81))
    for keep in (130, 390, 700):
        for length, factor in ((1, 16), (2, 8 * 2.3), (4, 4 * 2.9), (16, 6.5)):
            num_kept = make("aot", clip_frames=length).reduce(view, Counts((keep,), (16 * 81,))).num_kept
            assert num_kept is not None
            most = 81 * 16 if length == 1 else 81 * factor
            assert abs(num_kept[0] - min(keep, most)) <= factor * 5, (keep, length)


def test_mass_by_row_moves_an_anchor_further() -> None:
    still, moved = (answer(CLIPS[:1], budget_per_frame=10, clip_frames=1, mass=m) for m in ("uniform", "row"))
    assert torch.equal(still.keep, moved.keep)
    assert still.embeddings is not None
    assert moved.embeddings is not None
    before = view_of(CLIPS[:1]).tokens.embeddings[0][still.keep[0]]
    far = [(r.embeddings[0] - before).norm(dim=1).mean() for r in (still, moved)]
    assert far[1] > 3 * far[0]


def test_without_an_early_stop_the_plan_is_doubly_stochastic() -> None:
    cost, there = torch.rand(2, 9, 4), torch.ones(2, 9, dtype=torch.bool)
    early, late = (make("aot", tolerance=t).plan(cost, there, there[:, :4]) for t in (1e-2, None))  # type: ignore[attr-defined]
    torch.testing.assert_close(late.sum(dim=2), torch.full((2, 9), 1 / 9))
    assert not torch.allclose(early.sum(dim=2), late.sum(dim=2), rtol=1e-3)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("length", [None, 2])
def test_clips_keep_the_contract(check: str, length: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "_items", lambda method: contract.CLIPS)
    CHECKS[check](make("aot", clip_frames=length))


@pytest.mark.parametrize("length", [3, 7])
def test_a_clip_is_the_same_alone_and_beside_others(length: int) -> None:
    together = answer(CLIPS, (20, 14, 4), clip_frames=length)
    for b, (clip, keep) in enumerate(zip(CLIPS, (20, 14, 4), strict=True)):
        alone = answer([clip], [keep], clip_frames=length)
        size = alone.keep.shape[1]
        assert alone.num_kept is not None
        count = alone.num_kept[0]
        assert torch.equal(together.keep[b, :size], alone.keep[0])
        assert not together.keep[b, size:].any()
        for name in ("order", "source", "embeddings"):
            one, other = getattr(alone, name)[0], getattr(together, name)[b]
            width = size if name == "source" else count
            torch.testing.assert_close(other[:width], one[:width], msg=name)


def test_an_anchor_without_a_slot_is_not_repeated() -> None:
    """Two frames that hold nearly all tokens leave no room for all of the first one's updated anchors."""
    clip = (2, 3, 4)
    reduction, wanted = answer([clip], budget_per_frame=44, clip_frames=2), slowly(clip, 44, 2)
    assert reduction.num_kept == (24,)
    assert len(wanted) > 24
    assert reduction.embeddings is not None
    torch.testing.assert_close(reduction.embeddings[0].double(), wanted[:24], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_worked_out_in_float32() -> None:
    view = view_of(CLIPS, torch.bfloat16)
    counts = Counts(view.layout.num_tokens, view.layout.num_tokens, asked=False)
    reduction, exact = make("aot").reduce(view, counts), answer(CLIPS)
    assert reduction.embeddings is not None
    assert reduction.embeddings.dtype == torch.bfloat16
    assert torch.equal(reduction.keep.sum(dim=1), exact.keep.sum(dim=1))


def test_tokens_without_variance_give_a_sane_answer() -> None:
    tokens = torch.ones(1, 4 * 9, 5)
    layout = laid([(4, 3, 3)])
    view = ArrayView(embeddings=tokens, layout=layout, attention_received=torch.ones(1, 36))
    reduction = make("aot", clip_frames=4).reduce(view, Counts((18,), (36,)))
    assert reduction.embeddings is not None
    torch.testing.assert_close(reduction.embeddings, torch.ones_like(reduction.embeddings))


# -- what is refused -------------------------------------------------------------------------------------------------


def test_bad_settings_and_bad_clips_are_one_line() -> None:
    for name, value in (("keep_ratio", 1.5), ("global_share", -1.0)):
        with pytest.raises(MethodError, match=rf"aot: {name} is a share in \[0, 1\]; got {value}"):
            make("aot", **{name: value})
    with pytest.raises(MethodError, match="aot: budget_per_frame must be >= 1; got 0"):
        make("aot", budget_per_frame=0)
    with pytest.raises(MethodError, match=r"mass must be one of .*; got 'column'"):
        make("aot", mass="column")
    with pytest.raises(MethodError, match="budget_per_frame=9 fixes what is kept, so it takes no keep"):
        answer(CLIPS, (5, 5, 5), budget_per_frame=9)
    rest = laid([(2, 2, 2)]).gather(torch.tensor([[0, 1, 2, 3, 4]]), (0,))
    with pytest.raises(LayoutError, match="a whole grid is needed"):
        make("aot").reduce(ArrayView(embeddings=torch.randn(1, 5, 6), layout=rest), Counts((3,), (5,)))
    two = Layout.build([range(8)], [[Block(0, 2, 2), Block(1, 2, 2)]])
    with pytest.raises(MethodError, match="this scope joins several; use scope 'image'"):
        make("aot").reduce(ArrayView(embeddings=torch.randn(1, 8, 6), layout=two), Counts((3,), (8,)))


# -- models ----------------------------------------------------------------------------------------------------------


def test_layers_are_the_papers_or_the_nearest_that_see_whole_pictures() -> None:
    info = default_info()
    assert make("aot").captures(info).encoder == (5, info.feature_layer - 1)
    assert isinstance(make("aot").shallow_layer, PaperLayer)  # type: ignore[attr-defined]
    model = tiny_model(tiny_family("qwen2_5_vl"))
    with tessella.reduce(model, "aot", keep=0.3) as run:
        captures = run._plan.captures.encoder
        assert set(captures) <= set(run._adapter.info.global_layers)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision", "llava_next_video"])
@pytest.mark.parametrize("length", [None, 2])
def test_clips_and_pictures_of_one_prompt_are_cut(name: str, length: int | None) -> None:
    family = tiny_family(name)
    model, inputs = tiny_model(family), inputs_of(family, prompts(family)["mixed"])
    method = make("aot", clip_frames=length)
    with torch.no_grad(), tessella.reduce(model, method, keep=0.4) as run:
        logits = model(**inputs).logits
    assert torch.isfinite(logits).all()
    for kept, blocks in zip(run.kept[0], run.blocks[0], strict=True):
        patches = sum(b.rows * b.columns for b in blocks)
        newlines = sum(b.num_tokens for b in blocks) - patches
        assert 0 < len(kept) - newlines < patches * 2 // 3


def test_pictures_are_cut_on_the_embedded_model() -> None:
    model, processor = tessella.load("mini")
    with tessella.reduce(model, "aot", keep=49) as run:
        image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
        text = processor.tokenizer.decode([model.config.image_token_id]) * 196
        ids = processor.tokenizer(text, return_tensors="pt").input_ids
        model(input_ids=ids, pixel_values=image)
    assert len(run.kept[0][0]) == 45, "the next number that windows allow is 54"
