"""Tiny models of real architectures with random weights, and inputs for them: what model tests run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

IMAGE_TOKEN, PAD, BOS, EOS = 5, 0, 1, 2
VOCABULARY = 64
GRID = (4, 4)
NUM_VISUAL = GRID[0] * GRID[1]
_SIZE, _PATCH = 28, 7


def tiny_llava(
    encoder: Literal["clip", "siglip"] = "clip",
    *,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    num_layers: int = 4,
) -> LlavaForConditionalGeneration:
    """A LLaVA with 4 encoder and `num_layers` decoder layers of width 32 and 16 visual tokens a picture, in eval mode.

    Weights are scaled up, so that attention is far from uniform and a wrong mask or position shows.
    """
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes = {"image_size": _SIZE, "patch_size": _PATCH}
    clip = encoder == "clip"
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, **sizes) if clip else SiglipVisionConfig(**vision, **sizes),
        text_config=LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCABULARY,
            max_position_embeddings=256,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        ),
        image_token_index=IMAGE_TOKEN,
        vision_feature_select_strategy="default" if clip else "full",
        vision_feature_layer=-2,
        image_seq_length=NUM_VISUAL,
    )
    config._attn_implementation = attention
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "embed" not in name:
                torch.nn.init.normal_(weight, std=1.4 / weight[0].numel() ** 0.5)
            elif "embed" in name or "embedding" in name:
                torch.nn.init.normal_(weight, std=0.5)
    torch.random.set_rng_state(state)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None  # random models should not stop early
    return model.to(dtype).eval()


def tiny_inputs(
    images_per_row: Sequence[int] = (1,),
    *,
    text_length: int = 6,
    padding: Literal["left", "right"] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Inputs for `tiny_llava`: rows with that many pictures, each between random text.

    Rows of different lengths need `padding`; text grows by one token a row, so that even equal picture counts differ.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = []
    for number, images in enumerate(images_per_row):
        row = [BOS]
        for _ in range(images):
            row += _words(2, generator) + [IMAGE_TOKEN] * NUM_VISUAL
        rows.append(row + _words(text_length + (number if padding else 0), generator))
    longest = max(map(len, rows))
    if padding is None and any(len(r) != longest for r in rows):
        raise ValueError("rows of different lengths need padding='left' or 'right'")
    left = padding == "left"
    fill = [[PAD] * (longest - len(r)) for r in rows]
    ids = [f + r if left else r + f for r, f in zip(rows, fill, strict=True)]
    ones = [
        [0] * len(f) + [1] * len(r) if left else [1] * len(r) + [0] * len(f) for r, f in zip(rows, fill, strict=True)
    ]
    out: dict[str, Any] = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(ones)}
    if sum(images_per_row):
        pixels = torch.randn(sum(images_per_row), 3, _SIZE, _SIZE, generator=generator)
        out["pixel_values"] = pixels.to(dtype)
    return out


def _words(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(IMAGE_TOKEN + 1, VOCABULARY, (count,), generator=generator).tolist()
