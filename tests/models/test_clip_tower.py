"""The text tower of a CLIP folder: the library's own tensors, and broken folders in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tessella
from clip_folder import DIMENSIONS, LENGTH, clip_tokenizer, save_clip
from tessella import mini
from tessella.core.errors import InputError, UnsupportedError


def test_a_text_is_the_last_padded_position_through_the_projection(tmp_path: Path) -> None:
    model = save_clip(tmp_path)
    tower = tessella.load_text_tower(tmp_path, device="cpu")
    ids = torch.tensor([[7, 0, 1, 2, 3, 4, 6, 8], [7, 5, 4, 8, 8, 8, 8, 8]])
    with torch.no_grad():
        states = model.text_model(input_ids=ids).last_hidden_state
        expected = model.text_projection(states[:, -1])
    torch.testing.assert_close(tower.of_texts(["what color is the star?", "red star"]), expected)
    first_end = model.text_projection(states[1, 3])  # where CLIP itself reads a text
    assert (expected[1] - first_end).abs().max() > 0.1
    assert expected.shape == (2, DIMENSIONS)


def test_a_text_too_long_is_cut_and_ends_with_the_end_token(tmp_path: Path) -> None:
    save_clip(tmp_path)
    tower = tessella.load_text_tower(tmp_path, device="cpu")
    ids = tower.tokens(["star " * 30, "star"])
    assert ids.tolist() == [[7, *[4] * (LENGTH - 2), 8], [7, 4, *[8] * (LENGTH - 2)]]
    assert torch.equal(tower.of_texts(["star " * 30]), tower.of_texts(["star " * 6]))


def test_patches_go_through_the_projection_alone(tmp_path: Path) -> None:
    model = save_clip(tmp_path)
    tower = tessella.load_text_tower(tmp_path, device="cpu")
    hidden = torch.randn(2, 5, 32)
    expected = hidden @ model.visual_projection.weight.detach().T
    torch.testing.assert_close(tower.of_patches(hidden), expected)
    half = tower.of_patches(hidden.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, hidden.bfloat16().float() @ model.visual_projection.weight.detach().T)
    assert not any("vision" in name for name, _ in tower.named_parameters())


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    save_clip(tmp_path, width=48)
    tower = tessella.load_text_tower(tmp_path, device="cpu")
    with pytest.raises(
        UnsupportedError, match=r"^this text tower belongs to a vision encoder of 48 channels; the model's has 32\."
    ):
        tower.of_patches(torch.randn(1, 5, 32))


def test_broken_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        with pytest.raises(InputError) as caught:
            tessella.load_text_tower(folder, device="cpu")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refusal(mini.path()).endswith("is a 'llava' model; a text tower is read from a 'clip' one.")
    assert refusal(tmp_path / "nothing").startswith("there is no model folder")
    save_clip(tmp_path / "clip")
    for name in ("tokenizer.json", "model.safetensors"):
        shutil.copytree(tmp_path / "clip", tmp_path / name)
        (tmp_path / name / name).unlink()
        assert refusal(tmp_path / name).startswith(f"the text tower of '{tmp_path / name}' cannot be loaded: ")
    tensors = load_file(tmp_path / "clip" / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, tmp_path / "clip" / "model.safetensors", metadata={"format": "pt"})
    assert "1 tensors of the text tower" in refusal(tmp_path / "clip")
    assert "are missing, e.g. text_projection.weight." in refusal(tmp_path / "clip")


def test_the_tokenizer_of_these_tests_pads_with_its_end_token() -> None:
    assert clip_tokenizer()(["red"], padding="max_length", max_length=4)["input_ids"] == [[7, 5, 8, 8]]
