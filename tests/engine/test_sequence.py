"""Cuts of sequences against a slow reference that walks over tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.core.layout import Block, Layout
from tessella.core.reduction import Reduction
from tessella.engine.sequence import make_cut, positions_after, whole_prompt


def two_rows(rows_of_first: int, rows_of_second: int) -> tuple[Layout, int]:
    """A row with one picture, a row with two; three text tokens in front of each picture and two at the end."""
    blocks = [
        [Block(0, rows_of_first, 2)],
        [Block(0, rows_of_second, 2), Block(1, rows_of_first, 2)],
    ]
    slots = []
    for row in blocks:
        at, mine = 0, []
        for block in row:
            mine += range(at + 3, at + 3 + block.num_tokens)
            at += 3 + block.num_tokens
        slots.append(mine)
    return Layout.build(slots, blocks), max(s[-1] for s in slots) + 3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000), st.sampled_from(["prompt", "image"]))
def test_a_cut_keeps_text_and_kept_tokens_in_order(first: int, second: int, seed: int, unit: str) -> None:
    layout, length = two_rows(first, second)
    generator = torch.Generator().manual_seed(seed)
    units = layout.split(unit)
    keep = (torch.rand(units.index.shape, generator=generator) < 0.5) & (units.index >= 0)
    num_kept = tuple(keep.sum(dim=1).tolist())
    segment = whole_prompt(layout, 2, length, torch.device("cpu"), None)
    hidden = torch.randn(2, length, 3, generator=generator)
    cut = make_cut(segment, units, Reduction(keep, num_kept), num_kept, 1, "compact", None)
    out = cut.apply(hidden)
    positions = positions_after(cut.segment, torch.arange(length)[None])
    for row in range(2):
        dropped = set()
        for u in range(len(units)):
            if units.source_row[u] == row:
                slots = units.layout.slot[u]
                dropped |= {int(slots[i]) for i in range(units.num_tokens[u]) if not keep[u, i]}
        left = [s for s in range(length) if s not in dropped]
        pad = out.shape[1] - len(left)
        assert torch.equal(out[row, pad:], hidden[row, left])
        assert cut.segment.places[row, pad:].tolist() == left
        assert positions[row, pad:].tolist() == list(range(len(left)))
        assert cut.segment.num_padding[row] == pad
        visual = [left.index(s) + pad for s in layout.slot[row, : layout.num_tokens[row]].tolist() if s in left]
        assert cut.segment.visual[row, : len(visual)].tolist() == visual
        assert cut.segment.layout.slot[row, : len(visual)].tolist() == [left[v - pad] for v in visual]
    assert (cut.segment.padded is None) == (cut.segment.num_padding == (0, 0))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000), st.sampled_from(["prompt", "image"]))
def test_two_compact_cuts_number_what_is_left(first: int, second: int, seed: int, unit: str) -> None:
    """Positions after a second cut count real tokens only, whatever padding the first one left."""
    layout, length = two_rows(first, second)
    generator = torch.Generator().manual_seed(seed)
    segment, positions = whole_prompt(layout, 2, length, torch.device("cpu"), None), torch.arange(length)[None]
    for layer in (1, 2):
        units = segment.layout.split(unit)
        keep = (torch.rand(units.index.shape, generator=generator) < 0.6) & (units.index >= 0)
        num_kept = tuple(keep.sum(dim=1).tolist())
        cut = make_cut(segment, units, Reduction(keep, num_kept), num_kept, layer, "compact", None)
        positions = positions_after(cut.segment, positions, segment.num_padding)
        segment = cut.segment
        assert segment.shift is not None
        for row in range(2):
            pad = segment.num_padding[row]
            assert positions[row, pad:].tolist() == list(range(segment.length - pad))
            assert segment.shift[row] == length - (segment.length - pad)


@pytest.mark.parametrize("policy", ["compact", "original"])
def test_order_and_vectors_land_where_the_policy_says(policy: str) -> None:
    layout = Layout.single(1, 1, 4, first_slot=1)  # slots 1..4 of a prompt of 6
    units = layout.split("image")
    keep = torch.tensor([[True, False, True, True]])
    order = torch.tensor([[2, 3, 0]])
    vectors = torch.tensor([[[20.0], [30.0], [10.0]]])
    segment = whole_prompt(layout, 1, 6, torch.device("cpu"), None)
    hidden = torch.arange(6.0)[None, :, None]
    new = make_cut(segment, units, Reduction(keep, (3,), vectors, order=order), (3,), 0, policy, vectors)
    moved = make_cut(segment, units, Reduction(keep, (3,), order=order), (3,), 0, policy, None)
    if policy == "compact":
        assert new.apply(hidden)[0, :, 0].tolist() == [0, 20, 30, 10, 5]
        assert moved.apply(hidden)[0, :, 0].tolist() == [0, 3, 4, 1, 5]
        assert moved.segment.visual.tolist() == [[3, 1, 2]]
        assert positions_after(moved.segment, torch.arange(6)[None]).tolist() == [[0, 1, 2, 3, 4]]
    else:
        assert new.apply(hidden)[0, :, 0].tolist() == [0, 10, 20, 30, 5]
        assert moved.apply(hidden)[0, :, 0].tolist() == [0, 1, 3, 4, 5]
        assert positions_after(moved.segment, torch.arange(6)[None]).tolist() == [[0, 1, 3, 4, 5]]


def test_two_cuts_compose() -> None:
    layout = Layout.single(2, 1, 6, first_slot=2)
    segment = whole_prompt(layout, 2, 9, torch.device("cpu"), None)
    hidden = torch.arange(18.0).view(2, 9, 1)
    first = torch.tensor([[True, True, False, True, False, False], [False, True, True, True, True, True]])
    cut = make_cut(segment, layout.split("image"), Reduction(first), (3, 5), 1, "original", None)
    middle = cut.apply(hidden)
    units = cut.segment.layout.split("image")
    assert units.num_tokens == (3, 5)
    second = torch.tensor([[False, True, True, False, False], [True, False, False, False, True]])
    last = make_cut(cut.segment, units, Reduction(second), (2, 2), 3, "original", None)
    out = last.apply(middle)
    assert out[0, :, 0].tolist() == [0, 1, 3, 5, 8]
    assert out[1, :, 0].tolist() == [9, 10, 12, 16, 17]
    assert last.segment.padded is None
    assert last.segment.places.tolist() == [[0, 1, 3, 5, 8], [0, 1, 3, 7, 8]]
