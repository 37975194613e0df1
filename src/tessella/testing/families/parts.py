"""The sizes that tiny models share, as arguments of their configs."""

from __future__ import annotations

from typing import Any

VOCABULARY = 160  # special tokens and words
SIZE, PATCH = 28, 7  # pixels of a square picture or tile and of a patch: 4 x 4 patches


def vision_sizes(**other: Any) -> dict[str, Any]:
    """An encoder with 4 layers of width 32 and 4 heads, for CLIP and SigLIP configs."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    return {**sizes, "image_size": SIZE, "patch_size": PATCH, **other}


def text_sizes(num_layers: int, **other: Any) -> dict[str, Any]:
    """A language model of width 32 with 4 heads, 2 of keys and values, for Llama, Qwen and Gemma configs."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": num_layers, "num_attention_heads": 4}
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return {**sizes, **tokens, "num_key_value_heads": 2, "max_position_embeddings": 1024, **other}


def tile_grids(*grids: tuple[int, int], size: int = SIZE) -> list[list[int]]:
    """Pixels (height, width) of grids of so many rows and columns of tiles."""
    return [[rows * size, columns * size] for rows, columns in grids]


def picture_size(height: int = SIZE, width: int = SIZE) -> dict[str, int]:
    return {"height": height, "width": width}
