"""Pictures as rows of patches against the real processor, and smaller pictures in front of a Qwen2.5-VL by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

import tessella
from tessella.core.errors import UnsupportedError
from tessella.models.patch_order import PatchOrder
from tessella.testing.families import tiny_family

QWEN = tiny_family("qwen2_5_vl")
SIZES = [[(72, 48), (56, 88)], [(40, 24)]]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    return QWEN.model()


def order_of(model: Any) -> PatchOrder:
    vision = model.config.vision_config
    return PatchOrder(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)


def test_order_of_a_small_picture() -> None:
    """Two tokens side by side, of two patches a side, of one pixel: the merge group's patches stand together."""
    picture = torch.arange(8.0).reshape(1, 2, 4)
    rows = PatchOrder(patch=1, merge=2, together=2).rows_of(picture)
    assert rows.tolist() == [[v, v] for v in (0, 1, 4, 5, 2, 3, 6, 7)]


def test_rows_of_the_real_processor(model: Any) -> None:
    order = order_of(model)
    inputs = QWEN.inputs(SIZES)
    sizes = inputs["image_grid_thw"].prod(dim=1).tolist()
    for rows, (t, h, w) in zip(inputs["pixel_values"].split(sizes), inputs["image_grid_thw"].tolist(), strict=True):
        (picture,) = order.frames_of(rows, (t, h // order.merge, w // order.merge))
        assert picture.shape == (3, h * order.patch, w * order.patch)
        assert torch.equal(order.rows_of(picture), rows)


def test_frames_of_a_clip() -> None:
    order = PatchOrder(patch=2, merge=2, together=2)
    frames = [torch.randn(3, 8, 12) for _ in range(2)]
    rows = torch.cat([order.rows_of(f) for f in frames])
    for mine, theirs in zip(order.frames_of(rows, (2, 2, 3)), frames, strict=True):
        assert torch.equal(mine, theirs)


def by_hand(model: Any, inputs: dict[str, Tensor], row: int, shapes: list[tuple[int, int]]) -> dict[str, Tensor]:
    """The prompt of one row with its pictures at these grids of tokens, resized as `downsample` says it does."""
    order, first = order_of(model), sum(len(r) for r in SIZES[:row])
    grids = inputs["image_grid_thw"].tolist()
    all_rows = inputs["pixel_values"].split([t * h * w for t, h, w in grids])
    ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()
    rows, small, out, place = [], [], [], 0
    for (height, width), (_, h, w), mine in zip(shapes, grids[first:], all_rows[first:], strict=False):
        (picture,) = order.frames_of(mine, (1, h // order.merge, w // order.merge))
        size = (height * order.token, width * order.token)
        rows.append(order.rows_of(interpolate(picture[None], size, mode="bicubic", antialias=True)[0]))
        small.append([1, height * order.merge, width * order.merge])
        start = ids.index(model.config.image_token_id, place)
        count = h * w // order.merge**2
        out += ids[place:start] + [model.config.image_token_id] * (height * width)
        place = start + count
    tokens = torch.tensor([out + ids[place:]])
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "mm_token_type_ids": (tokens == model.config.image_token_id).int(),
        "pixel_values": torch.cat(rows),
        "image_grid_thw": torch.tensor(small),
    }


def test_downsample_is_a_prompt_with_smaller_pictures(model: Any) -> None:
    """Pictures of several sizes in a padded batch, greedy, and on the cache in a second turn."""
    inputs = QWEN.inputs(SIZES)
    with tessella.reduce(model, "downsample", keep=0.5) as run:
        first = model.generate(**inputs, max_new_tokens=5, return_dict_in_generate=True, do_sample=False)
        shapes = [[(b.rows, b.columns) for b in row] for row in run.layout.blocks]
        again = follow(inputs, first.sequences)
        second = model.generate(**again, past_key_values=first.past_key_values, max_new_tokens=3, do_sample=False)
    assert shapes == [[(4, 6), (7, 5)], [(2, 4)]]
    length = inputs["input_ids"].shape[1]
    for row, grids in enumerate(shapes):
        prompt = by_hand(model, inputs, row, grids)
        assert new_tokens(model, prompt, 5) == first.sequences[row, length:].tolist()
        added = again["input_ids"][row : row + 1, length:]
        longer = torch.cat([prompt["input_ids"], added], dim=1)
        kinds = torch.cat([prompt["mm_token_type_ids"], torch.zeros_like(added).int()], dim=1)
        turn = {"input_ids": longer, "attention_mask": torch.ones_like(longer), "mm_token_type_ids": kinds}
        assert new_tokens(model, {**prompt, **turn}, 3) == second[row, -3:].tolist()


def test_downsample_leaves_clips_alone(model: Any) -> None:
    inputs = QWEN.inputs([[(72, 48)]], videos=[[(2, (40, 40))]])
    with (
        tessella.reduce(model, "downsample", keep=0.5),
        pytest.raises(UnsupportedError, match="downsample changes pictures, but the prompts hold a video"),
    ):
        model(**inputs)


def follow(inputs: dict[str, Tensor], sequences: Tensor) -> dict[str, Tensor]:
    """The whole conversation with four more tokens, without its pixels."""
    ids = torch.cat([sequences, torch.tensor([[21, 33, 45, 57]]).expand(len(sequences), -1)], dim=1)
    more = ids.shape[1] - inputs["input_ids"].shape[1]
    ones = torch.ones(len(ids), more, dtype=torch.long)
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([inputs["attention_mask"], ones], dim=1),
        "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], 0 * ones], dim=1),
    }


def new_tokens(model: Any, prompt: dict[str, Tensor], count: int) -> list[int]:
    out = model.generate(**prompt, max_new_tokens=count, do_sample=False)
    return out[0, prompt["input_ids"].shape[1] :].tolist()
