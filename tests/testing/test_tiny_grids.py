"""What is special about the pictures and clips of Qwen-like and pixel-shuffle families shows in their tiny models."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoProcessor

from tessella.testing.families import tiny_family
from tessella.testing.families.pixel_frames import even_metadata

QWEN_LIKE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        *[(name, [9 * 6, 5 * 5, 3 * 9, 11 * 7]) for name in QWEN_LIKE],
        ("internvl", [16, 16 * (2 + 1), 16 * (3 + 1), 16 * (4 + 1)]),
        ("idefics3", [16 * (2 + 1), 16 * (4 + 1), 16 * (2 + 1)]),
        ("smolvlm", [16 * (2 + 1), 16 * (4 + 1), 16 * (2 + 1)]),
    ],
)
def test_a_picture_has_the_tokens_that_its_size_gives(name: str, counts: list[int]) -> None:
    """2 x 2 patches a token; tiles, and where there are several the whole picture after them."""
    family = tiny_family(name)
    marker = family.config().image_token_id
    assert [int((family.inputs([[size]])["input_ids"] == marker).sum()) for size in family.sizes] == counts


@pytest.mark.parametrize(
    ("name", "block", "corner", "seen"),
    [
        ("qwen2_5_vl", 0, "first", 16),  # a window of 4 x 4
        ("qwen2_5_vl", 0, "last", 2),  # what is left of 9 x 6 at the lower right: 2 rows of 1
        ("qwen2_5_vl", 1, "first", 54),
        ("qwen2_vl", 0, "last", 54),
    ],
)
def test_how_far_a_block_sees(name: str, block: int, corner: str, seen: int) -> None:
    """The tokens that change behind a block when a corner of the picture does."""
    family = tiny_family(name)
    model, inputs = family.model(), family.inputs()
    changed = inputs["pixel_values"].clone()
    changed[0 if corner == "first" else -1] += 1
    output, other = (
        outputs_of(model, model.model.visual.blocks[block], {**inputs, "pixel_values": pixels})
        for pixels in (inputs["pixel_values"], changed)
    )
    patches = (output - other).abs().amax(dim=-1) > 1e-6
    assert int(patches.sum()) == 4 * seen


@pytest.mark.parametrize("name", QWEN_LIKE)
def test_positions_of_a_picture_have_three_axes(name: str) -> None:
    family = tiny_family(name)
    inputs = family.inputs()
    positions, _ = family.model().model.get_rope_index(**without_pixels(inputs))
    picture = positions[:, 0, inputs["input_ids"][0] == family.config().image_token_id]
    first = int(picture[0, 0])
    assert picture[0].tolist() == [first] * 54
    assert picture[1].tolist() == [first + row for row in range(6) for _ in range(9)]
    assert picture[2].tolist() == [first + column for _ in range(6) for column in range(9)]


@pytest.mark.parametrize(
    ("name", "blocks", "times"),
    [
        ("qwen2_vl", [60], [0, 1, 2]),
        ("qwen2_5_vl", [60], [0, 2, 4]),
        ("qwen3_vl", [20] * 3, None),
        ("glm4v", [20] * 3, None),
    ],
)
def test_a_clip_is_one_block_of_tokens_or_one_a_time(name: str, blocks: list[int], times: list[int] | None) -> None:
    """5 frames are 3 times. Qwen2.5-VL counts two positions a second; later families write the time between frames."""
    family = tiny_family(name)
    inputs = family.inputs(videos=[[(5, (40, 32))]])
    kinds = [(kind, len(list(run))) for kind, run in groupby(inputs["mm_token_type_ids"][0].tolist())]
    assert [length for kind, length in kinds if kind == 2] == blocks
    positions, _ = family.model().model.get_rope_index(**without_pixels(inputs))
    clip = positions[0, 0, inputs["mm_token_type_ids"][0] == 2]
    steps = (clip - clip[0]).unique().tolist()
    assert steps == times if times else len(steps) == 3


def test_glm4v_marks_clips_with_the_token_of_pictures() -> None:
    family = tiny_family("glm4v")
    inputs = family.inputs(videos=[[(4, (40, 32))]])
    marked = inputs["input_ids"] == family.config().image_token_id
    assert torch.equal(marked, inputs["mm_token_type_ids"] == 2)
    assert family.config().video_token_id not in inputs["input_ids"]


@pytest.mark.parametrize("name", ["glm4v", "smolvlm"])
def test_a_call_that_holds_pictures_and_clips_is_refused(name: str) -> None:
    """By transformers itself, in 5.18 less clearly: the tiny model shows a limit of the family."""
    family = tiny_family(name)
    inputs = family.inputs([[family.sizes[0]]], videos=[[(4, (40, 32))]])
    with pytest.raises((ValueError, IndexError), match=r"do not match|out of bounds"):
        family.model()(**inputs)


@pytest.mark.parametrize("feature", [0, 1])
def test_each_deep_feature_of_qwen3_vl_matters(feature: int) -> None:
    family = tiny_family("qwen3_vl")
    model, inputs = family.model(), family.inputs()
    assert len(model.model.visual.deepstack_merger_list) == 2
    logits = model(**inputs).logits[:, -1]
    model.model.visual.deepstack_merger_list[feature].register_forward_hook(lambda *args: args[-1] * 0)
    assert (model(**inputs).logits[:, -1] - logits).abs().max() > 0.1


def test_internvl_reads_a_class_token_before_the_patches() -> None:
    family = tiny_family("internvl")
    model = family.model()
    encoded = model.model.vision_tower(family.inputs([[(80, 40)]])["pixel_values"]).last_hidden_state
    assert encoded.shape == (2 + 1, 1 + 64, 32)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_rows_with_fewer_tiles_are_padded_with_black_ones(name: str) -> None:
    family = tiny_family(name)
    pixels = family.inputs([[(64, 30)], [(50, 50)]])["pixel_values"]
    black = (pixels == 0).flatten(2).all(dim=-1)
    assert black.tolist() == [[False, False, False, True, True], [False] * 5]


@pytest.mark.skipif(find_spec("torchvision") is None, reason="the real video processors need torchvision")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in GLM-4V's processor
@pytest.mark.parametrize("name", [*QWEN_LIKE, "internvl", "smolvlm"])
def test_clips_are_those_of_the_processor_that_a_saved_folder_gives(name: str, tmp_path: Path) -> None:
    """Soft pixels, which the two back ends round alike but for one of 255 levels."""
    family = tiny_family(name)
    clip = np.random.default_rng(0).integers(64, 192, (5, 32, 40, 3), dtype=np.uint8)
    text = [f"a cat {family.video_text} what"]
    family.processor().save_pretrained(tmp_path)
    real = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    expected = real(text=text, videos=[clip], video_metadata=[even_metadata(5)], return_tensors="pt")
    inputs = family.encode(text, [[]], [[clip]])
    assert set(inputs) == set(expected)
    for key, value in inputs.items():
        assert value.shape == expected[key].shape
        assert (value.double() - expected[key].double()).abs().max() < (0.04 if "pixel_values" in key else 1e-6), key


def without_pixels(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in inputs.items() if not name.startswith("pixel_values")}


def outputs_of(model: nn.Module, module: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """What `module` returns while the model reads `inputs`."""
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda *args: seen.append(args[-1]))
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    return seen[0]
