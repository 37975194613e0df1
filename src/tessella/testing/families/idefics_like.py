"""What Idefics3 and SmolVLM share: tiles that name their row and column, then the whole picture, shuffled patches."""

from __future__ import annotations

from typing import Any

from .parts import text_sizes, vision_sizes
from .text import chat_template, word_tokenizer

TILE, PATCH, SHUFFLE = 32, 4, 2  # pixels of a tile and of a patch, patches of a visual token's side
LONG_SIDE = 64  # pixels to which every picture is scaled, so it has 2 tiles that way
SIZES = ((64, 30), (50, 50), (30, 70))  # tiles: 2 in a row, 2 x 2, 2 in a column
TOKENS_PER_TILE = (TILE // PATCH // SHUFFLE) ** 2
TOKENS = {
    "image_token": "<image>",
    "video_token": "<video>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    "newline_token": "\n",  # between rows of tiles
    **{f"tile_{r}_{c}_token": f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)},
}


def tokenizer() -> Any:
    return word_tokenizer(TOKENS)


def shuffled_config(num_layers: int) -> dict[str, Any]:
    """Arguments of the model's config."""
    return {
        "vision_config": vision_sizes(image_size=TILE, patch_size=PATCH),
        "text_config": {"model_type": "llama", **text_sizes(num_layers)},
        "image_token_id": tokenizer().image_token_id,
        "scale_factor": SHUFFLE,
    }


def tile_settings() -> dict[str, Any]:
    """Arguments of an image or video processor."""
    return {"size": {"longest_edge": LONG_SIDE}, "max_image_size": {"longest_edge": TILE}}


def words_and_tiles() -> dict[str, Any]:
    """Arguments of a processor, but for the parts that read pixels."""
    return {"tokenizer": tokenizer(), "image_seq_len": TOKENS_PER_TILE, "chat_template": chat_template()}
