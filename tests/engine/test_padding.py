"""What a view says of padding: read off each picture's pixels, for tokens wherever they stand, also after a cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tessella
from spying import Spy, seen_by
from tessella.core.budget import Budget
from tessella.core.errors import UnsupportedError
from tessella.core.pipeline import Part, Pipeline
from tessella.testing.families import tiny_family
from tessella.testing.tiny import tiny_inputs, tiny_llava


def letterboxed(**options: object) -> dict[str, Tensor]:
    """Two pictures of 4 x 4 patches of 7 pixels in the first row of a batch, one in the second."""
    inputs = tiny_inputs((2, 1), padding="left", **options)  # type: ignore[arg-type]
    inputs["pixel_values"][0, :, :7] = 0  # the first row of patches
    inputs["pixel_values"][0, :, 24:] = 0  # and four of the seven lines of the last
    inputs["pixel_values"][2, :, :, :7] = 0  # the first column
    return inputs


ABOVE = [[1.0] * 4, [0.0] * 4, [0.0] * 4, [4 / 7] * 4]
BESIDE = [[1.0, 0.0, 0.0, 0.0]] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_token_knows_its_padding(dtype: torch.dtype) -> None:
    seen = seen_by(lambda view: view.padding(), tiny_llava(dtype=dtype), letterboxed(dtype=dtype))
    assert (seen.shape, seen.dtype) == ((2, 32), torch.float32)
    torch.testing.assert_close(seen[0], torch.tensor([*ABOVE, *[[0.0] * 4] * 4]).flatten())
    torch.testing.assert_close(seen[1, :16], torch.tensor(BESIDE).flatten())
    assert seen[1, 16:].tolist() == [0.0] * 16  # padding of the batch


def test_what_is_left_of_a_cut_keeps_its_padding() -> None:
    model, inputs = tiny_llava(), letterboxed()
    last = Spy(lambda view: (view.padding(), view.layout), at_layer=2)
    first = Spy(lambda view: None, at_layer=1)  # keeps the first half of each picture
    with torch.no_grad(), tessella.reduce(model, Pipeline((Part(first, Budget(8)), Part(last, Budget(4))))):
        model(**inputs)
    padding, layout = last.seen[0]
    for picture, want in zip(padding, (ABOVE, [[0.0] * 4] * 4, BESIDE), strict=True):
        torch.testing.assert_close(picture[:8], torch.tensor(want).flatten()[:8])
    assert layout.num_tokens == (8, 8, 8)


@pytest.mark.parametrize("family", ["llava_next", "idefics3", "llava_onevision"])
def test_tiles_are_not_padded(family: str) -> None:
    tiny = tiny_family(family)
    inputs = tiny.inputs()
    inputs["pixel_values"][..., :5, :] = 0
    assert float(seen_by(lambda view: view.padding(), tiny.model(), inputs).abs().max()) == 0.0


def test_a_picture_of_patches_is_put_together_first() -> None:
    tiny = tiny_family("qwen2_5_vl")
    inputs = tiny.inputs()
    inputs["pixel_values"][: len(inputs["pixel_values"]) // 2] = 0
    seen = seen_by(lambda view: view.padding(), tiny.model(), inputs)
    rows, columns = seen_by(lambda view: view.layout.grids, tiny.model(), inputs)[0]
    assert seen[0].view(rows, columns)[: rows // 2].eq(1).all()
    assert seen[0].view(rows, columns)[rows // 2 :].eq(0).all()


def test_pictures_without_pixels_are_refused() -> None:
    model, inputs = tiny_llava(), letterboxed()
    with torch.no_grad():
        features = model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
        with pytest.raises(UnsupportedError, match="spy reads padding off pixels; the call was given mm_encoder_out"):
            seen_by(lambda view: view.padding(), model, {**inputs, "mm_encoder_outputs": {"image": features}})
