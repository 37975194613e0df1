"""Padding of pictures: by their size as the specification has it, and read off the pixels of a real processor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from tessella.ops.padding import blank_margins, padded_share, square_margins

SIDE, GRID = 336, 24
SIZES = [(640, 427), (300, 500), (1000, 130), (500, 500), (333, 332)]


def padded_areas(width: int, height: int, grid: int, side: int) -> np.ndarray:
    """Patch by patch: the share of its area outside the picture in the middle of a square."""
    cell, longer = side // grid, max(width, height)
    beside, above = ((longer - size) / (2 * longer) * side for size in (width, height))
    out = np.zeros((grid, grid))
    for r, c in itertools.product(range(grid), repeat=2):
        tall = max(0.0, min((r + 1) * cell, side - above) - max(r * cell, above))
        wide = max(0.0, min((c + 1) * cell, side - beside) - max(c * cell, beside))
        out[r, c] = 1 - tall * wide / cell**2
    return out


@given(width=st.integers(1, 900), height=st.integers(1, 900), grid=st.integers(1, 9), cell=st.integers(1, 14))
def test_padded_share_is_the_area_outside_the_picture(width: int, height: int, grid: int, cell: int) -> None:
    side = grid * cell
    got = padded_share(square_margins(width, height, side), (side, side), (grid, grid))
    np.testing.assert_allclose(got.numpy(), padded_areas(width, height, grid, side), atol=1e-9)


def test_what_an_encoder_does_not_cut_is_not_counted() -> None:
    got = padded_share(torch.tensor([0, 3, 0, 0]), (11, 10), (2, 2))  # patches of 5 x 5; the last line is nobody's
    assert got[:, 0].tolist() == pytest.approx([0.0, 0.4])


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_margins_of_a_real_processor_are_seen(width: int, height: int) -> None:
    processor = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = torch.as_tensor(processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"][0])
    seen, said = blank_margins(picture), square_margins(width, height, SIDE)
    assert (seen - said).abs().max() < 3
    shares = [padded_share(margins, (SIDE, SIDE), (GRID, GRID)) for margins in (seen, said)]
    assert (shares[0] - shares[1]).abs().max() < 3 / 14
    assert ((shares[0] > 0.5) != (shares[1] > 0.5)).any(dim=1).sum() <= 2  # lines at the border, where pixels decide


def test_only_lines_of_the_mean_colour_at_the_border_are_padding() -> None:
    picture = torch.full((3, 8, 6), 0.7)
    picture[:, 0] = 0.01
    picture[:, 4] = 0  # a line in the middle is no padding
    picture[:, :, 5] = 0
    picture[:, 7] = -2.0  # nor is a black bar
    assert blank_margins(picture).tolist() == [1, 0, 0, 0]
    picture[:, 7, 5] = 0
    assert blank_margins(picture).tolist() == [1, 0, 0, 1]


def test_a_picture_of_nothing_but_the_mean_colour_is_not_padded() -> None:
    assert blank_margins(torch.zeros(3, 5, 5)).tolist() == [0, 0, 0, 0]
