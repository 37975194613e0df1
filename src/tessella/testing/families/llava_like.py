"""What LLaVA, LLaVA-NeXT and LLaVA-NeXT-Video share: a CLIP encoder, a Llama, and how pictures are cut."""

from __future__ import annotations

from typing import Any

from .clips import ClipProcessor
from .parts import PATCH, SIZE, picture_size, text_sizes, tile_grids, vision_sizes
from .text import chat_template, word_tokenizer

GRIDS = tile_grids((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))  # those of the published LLaVA-NeXT models
CROP = {"size": {"shortest_edge": SIZE}, "crop_size": picture_size()}  # how a picture or frame becomes a square


def clip_and_llama(num_layers: int) -> dict[str, Any]:
    """Arguments of a config that reads the encoder's last layer but one, without the class token."""
    from transformers import CLIPVisionConfig, LlamaConfig

    return {
        "vision_config": CLIPVisionConfig(**vision_sizes()),
        "text_config": LlamaConfig(**text_sizes(num_layers)),
        "image_token_index": _tokenizer().image_token_id,
        "vision_feature_select_strategy": "default",
        "vision_feature_layer": -2,
        "image_seq_length": (SIZE // PATCH) ** 2,
    }


def words_and_patches() -> dict[str, Any]:
    """Arguments of a processor, but for the parts that read pixels."""
    return {
        "tokenizer": _tokenizer(),
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": chat_template(),
    }


def video_token_index() -> int:
    return _tokenizer().video_token_id


def picture_clips(name: str, **settings: Any) -> ClipProcessor:
    """The stand-in for the video processor `name`, whose `settings` mean what they mean to CLIP's image processor."""
    from transformers import CLIPImageProcessorPil

    return ClipProcessor(name, settings, CLIPImageProcessorPil(**settings))


def _tokenizer() -> Any:
    return word_tokenizer({"image_token": "<image>", "video_token": "<video>"})
