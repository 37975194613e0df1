"""evs against its specification: counts, first frames, ties, clips among pictures, drift and cuts."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts, resolve_counts
from tessella.core.errors import LayoutError, MethodError
from tessella.core.layout import Block, Layout
from tessella.core.registry import make
from tessella.testing import ArrayView
from tessella.testing.families import tiny_family
from tessella.testing.family_cases import Row, inputs_of, prompts, tiny_model

LOUD = 30.0
Clip = tuple[int, int, int]  # frames, rows, columns
CLIPS: tuple[Clip, ...] = ((5, 2, 3), (3, 4, 2), (1, 3, 3), (8, 1, 1))


def laid(prompts: Sequence[Sequence[Clip]]) -> Layout:
    """Clips and pictures of each prompt, one after the other."""
    blocks = [[Block(i, r, c, frame=f) for i, (t, r, c) in enumerate(clips) for f in range(t)] for clips in prompts]
    return Layout.build([range(sum(b.num_tokens for b in row)) for row in blocks], blocks)


def view_of(prompts: Sequence[Sequence[Clip]], tokens: Sequence[Tensor] | None = None) -> ArrayView:
    layout = laid(prompts)
    embeddings = torch.full((len(prompts), max(layout.num_tokens), 6), LOUD)
    for b, count in enumerate(layout.num_tokens):
        embeddings[b, :count] = torch.randn(count, 6) if tokens is None else tokens[b]
    return ArrayView(embeddings=embeddings, layout=layout)


def kept(view: ArrayView, keeps: Sequence[int], **settings: object) -> list[list[int]]:
    reduction = make("evs", **settings).reduce(view, Counts(tuple(keeps), view.layout.num_tokens))
    assert reduction.num_kept == tuple(reduction.keep.sum(dim=1).tolist())
    return [row.nonzero()[:, 0].tolist() for row in reduction.keep]


def slowly(tokens: Tensor, clip: Clip, keep: int) -> list[int]:
    """The specification, token by token, in float64."""
    frames, size = clip[0], clip[1] * clip[2]
    score = []
    for t in range(frames):
        for p in range(size):
            one, before = tokens[t * size + p].double(), tokens[(t - 1) * size + p].double()
            score.append(255.0 if t == 0 else float(1 - one @ before / (one.norm() * before.norm())))
    order = sorted(range(len(score)), key=lambda i: (-score[i], i))
    return sorted(order[: max(size, keep)])


@pytest.mark.parametrize("keeps", [(12, 9, 4, 3), (1, 1, 1, 1), (30, 24, 9, 8), (29, 10, 1, 7)])
def test_equals_the_specification_in_a_ragged_batch(keeps: tuple[int, ...]) -> None:
    view = view_of([[clip] for clip in CLIPS])
    got = kept(view, keeps)
    for b, (clip, keep) in enumerate(zip(CLIPS, keeps, strict=True)):
        assert got[b] == slowly(view.tokens.embeddings[b], clip, keep)


def test_a_keep_is_an_exact_share_rounded_down() -> None:
    """A tenth of ten tokens is one, where int(10 * (1 - 0.9)) is none."""
    card, layout = make("evs").card, laid([[(10, 1, 1)], [(3, 3, 3)]])
    units = layout.split(card.unit)

    def counts(keep: object) -> tuple[int, ...]:
        budget = Budget(keep)
        return resolve_counts(budget, layout, units, scope="image", rounding=card.rounding, min_keep=1).num_keep

    assert counts(Fraction(1, 10)) == (1, 2)
    assert counts(0.3) == (3, 8)


def test_a_static_clip_keeps_its_first_frame_and_the_earliest_tokens() -> None:
    still = torch.eye(6).repeat(4, 1)  # exact under any rounding
    assert kept(view_of([[(4, 2, 3)]], [still]), [9]) == [list(range(9))]


def test_vectors_without_length_are_taken_for_changes_and_counted() -> None:
    tokens = torch.zeros(12, 6)
    assert kept(view_of([[(4, 1, 3)]], [tokens]), [5]) == [[0, 1, 2, 3, 4]]


def test_clips_and_pictures_of_one_prompt_compete_under_scope_prompt() -> None:
    """First frames and the picture stay whole; places of two clips are not taken for one another."""
    view = view_of([[(3, 1, 2), (1, 2, 2), (3, 1, 2)]])
    tokens = view.tokens.embeddings[0]
    first, second = slowly(tokens[:6], (3, 1, 2), 6), slowly(tokens[10:], (3, 1, 2), 6)
    assert len(first) == len(second) == 6
    score = make("evs").score(view)[0]  # type: ignore[attr-defined]
    want = torch.cat([make("evs").score(view_of([[(3, 1, 2)]], [t])) for t in (tokens[:6], tokens[10:])], dim=1)[0]  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.cat([score[:6], score[10:]]), want)
    assert score[6:10].tolist() == [255.0] * 4
    got = kept(view, [9])[0]
    assert got[:2] == [0, 1]
    assert set(range(6, 12)) < set(got)
    assert len(got) == 9


# -- ours: the last kept frame, and frame by frame -------------------------------------------------------------------


def drifting(frames: int = 9) -> Tensor:
    """One place whose vector turns by ten degrees a frame, and one that jumps by twelve once."""
    angle = torch.stack([torch.arange(frames) * 10.0, torch.where(torch.arange(frames) < 4, 0.0, 12.0)], dim=1)
    angle = angle.deg2rad().flatten()
    return torch.stack([angle.cos(), angle.sin(), *[torch.zeros_like(angle)] * 4], dim=1)


def test_slow_change_is_seen_from_the_last_kept_frame_only() -> None:
    view = view_of([[(9, 1, 2)]], [drifting()])
    assert kept(view, [3]) == [[0, 1, 9]], "the jump is the largest change between two frames"
    assert kept(view, [3], reference_frame="last_kept") == [[0, 1, 10]], "50 degrees behind the first frame"
    assert kept(view, [4], reference_frame="last_kept") == [[0, 1, 6, 12]], "30 and 60"


def passed(tokens: Tensor, clip: Clip, threshold: float) -> set[int]:
    """What changes by more than a threshold since the last such frame of its place, first frames left out."""
    frames, size = clip[0], clip[1] * clip[2]
    unit = torch.nn.functional.normalize(tokens.double(), dim=1)
    out = set()
    for p in range(size):
        reference = p
        for i in range(p + size, frames * size, size):
            if 1 - unit[i] @ unit[reference] > threshold:
                reference = i
                out.add(i)
    return out


@pytest.mark.parametrize("keep", [6, 7, 11, 20, 29, 30])
def test_what_changed_most_since_the_last_kept_frame_is_kept(keep: int) -> None:
    """Some threshold that the count has room for explains the choice, and a lower one has no room."""
    clip, other = (5, 2, 3), (3, 1, 2)
    view = view_of([[clip], [other]])
    for b, (mine, count) in enumerate(((clip, keep), (other, 3))):
        size = mine[1] * mine[2]
        tokens = view.tokens.embeddings[b, : mine[0] * size]
        got = set(kept(view, [keep, 3], reference_frame="last_kept")[b])
        unit = torch.nn.functional.normalize(tokens.double(), dim=1)
        levels = sorted({0.0, *(1 - unit @ unit.T).flatten().tolist()})
        fitting = [t for t in levels if len(passed(tokens, mine, t + 1e-6)) <= count - size]
        explained = [t for t in fitting if passed(tokens, mine, t + 1e-6) <= got]
        assert len(got) == count
        assert explained, "no threshold keeps a part of what was kept"
        below = levels[max(levels.index(explained[0]) - 1, 0)]
        assert explained[0] == levels[0] or len(passed(tokens, mine, below + 1e-6)) > count - size


def test_a_cut_takes_the_count_unless_frames_have_shares() -> None:
    turned = torch.eye(6).roll(1, dims=1)
    tokens = torch.cat([torch.eye(6), torch.eye(6), turned, turned])
    view = view_of([[(4, 2, 3)]], [tokens])
    assert kept(view, [12]) == [[*range(6), *range(12, 18)]]
    assert kept(view, [13], per_frame=True) == [[*range(6), 6, 7, 8, 12, 13, 18, 19]]


def test_shares_of_frames_never_exceed_what_is_asked_for() -> None:
    """Also of a count below the first frame, as another method's budget may be."""
    view = view_of([[(3, 1, 4), (1, 1, 2)], [(4, 1, 3)]])
    method = make("evs")
    for keeps in ((3, 1), (6, 3), (9, 7), (14, 12)):
        share = method.allocate(torch.zeros(2, 14), view, Counts(keeps, view.layout.num_tokens))  # type: ignore[attr-defined]
        assert tuple(share.quota.sum(dim=1).tolist()) == keeps
        assert (share.quota >= 0).all()
        for group, quota in zip(share.group, share.quota, strict=True):
            sizes = torch.bincount(group[group >= 0], minlength=len(quota))
            assert (quota <= sizes).all()
    assert share.quota.tolist() == [[4, 4, 4, 2], [3, 3, 3, 3]]


# -- what is refused -------------------------------------------------------------------------------------------------


def test_bad_settings_and_bad_clips_are_one_line() -> None:
    with pytest.raises(MethodError, match=r"reference_frame must be one of .*; got 'next'"):
        make("evs", reference_frame="next")
    whole = laid([[(3, 1, 2)]])
    rest = whole.gather(torch.tensor([[0, 1, 2, 5]]), (0,))
    with pytest.raises(LayoutError, match=r"evs needs whole clips; item 0 has 4 of 6 tokens\. Put evs first"):
        kept(ArrayView(embeddings=torch.randn(1, 4, 6), layout=rest), [3])
    frames = whole.split("frame").layout
    with pytest.raises(MethodError, match="shows them one at a time; use scope 'image'"):
        kept(ArrayView(embeddings=torch.randn(3, 2, 6), layout=frames), [1, 1, 1])


# -- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision", "llava_next_video"])
def test_a_clip_is_cut_beside_a_whole_picture(name: str) -> None:
    family = tiny_family(name)
    model, inputs = tiny_model(family), inputs_of(family, prompts(family)["mixed"])
    with torch.no_grad(), tessella.reduce(model, "evs", keep=0.5) as run:
        logits = model(**inputs).logits
    assert torch.isfinite(logits).all()
    (images,), (blocks,) = run.kept, run.blocks
    clip = next(i for i, mine in enumerate(blocks) if mine[-1].frame > 0)
    patches = [sum(b.num_tokens for b in mine if b.columns) for mine in blocks]
    first = blocks[clip][0].num_tokens
    assert images[clip].tolist()[:first] == list(range(first))
    assert sum(i < patches[clip] for i in images[clip].tolist()) == max(first, patches[clip] // 2) < patches[clip]
    newlines = [sum(b.num_tokens for b in mine) - n for mine, n in zip(blocks, patches, strict=True)]
    assert len(images[clip]) == max(first, patches[clip] // 2) + newlines[clip]
    assert len(images[1 - clip]) == patches[1 - clip] + newlines[1 - clip]
    assert "evs: pictures and the first frame of every clip stay whole" in run.report.notes


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_two_clips_are_cut_each_by_itself(name: str) -> None:
    family = tiny_family(name)
    model, size = tiny_model(family), family.sizes[0]
    both = inputs_of(family, Row((), ((4, size), (4, size))))
    with torch.no_grad(), tessella.reduce(model, "evs", keep=0.75) as run:
        model(**both)
        counts = [sum(b.num_tokens for b in mine if b.columns) for mine in run.blocks[0]]
        first = [mine[0].num_tokens for mine in run.blocks[0]]
    for count, least, there in zip(map(len, run.kept[0]), first, counts, strict=True):
        assert count - (count > there) >= max(least, there * 3 // 4)
    assert all(len(k) < n for k, n in zip(run.kept[0], counts, strict=True))


@pytest.mark.parametrize("name", ["internvl", "smolvlm", "llava"])
def test_models_that_show_frames_as_pictures_are_refused(name: str) -> None:
    verdict = tessella.can_apply(tiny_model(tiny_family(name)), "evs")
    assert not verdict
    assert verdict.reason.startswith("evs needs the frames of a clip; this ")
