"""Regrouping against loops, and back again."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tessella.core.layout import Block, Layout
from tessella.ops.regrouping import regroup, ungroup

clips = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3)


@given(clips=clips)
def test_frames_come_apart_and_together_again(clips: list[tuple[int, int, int]]) -> None:
    blocks = [[Block(0, rows, columns, frame=f) for f in range(frames)] for frames, rows, columns in clips]
    layout = Layout.build([range(sum(b.num_tokens for b in row)) for row in blocks], blocks)
    units, size = layout.split("frame"), (len(clips), max(layout.num_tokens))
    values = torch.randn(*size, 2)
    frames = regroup(values, units.index, units.source_row)
    number = 0
    for item, (count, rows, columns) in enumerate(clips):
        for f in range(count):
            mine = values[item, f * rows * columns : (f + 1) * rows * columns]
            assert torch.equal(frames[number, : rows * columns], mine)
            number += 1
    assert number == len(frames)
    back = ungroup(frames, units.index, units.source_row, size)
    assert torch.equal(back, values * layout.mask[:, :, None])
    assert torch.equal(ungroup(units.layout.mask, units.index, units.source_row, size), layout.mask)
