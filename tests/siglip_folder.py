"""A model folder like the embedded one, but with random weights and an encoder without class token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from tessella import mini


def build_siglip() -> tuple[Any, Any]:
    """The model and its processor: 2 layers each, 14 x 14 visual tokens, the embedded model's tokenizer."""
    processor = AutoProcessor.from_pretrained(mini.path())
    processor.vision_feature_select_strategy = "full"
    processor.num_additional_image_tokens = 0
    tokenizer = processor.tokenizer
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(image_size=112, patch_size=8, **sizes),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **sizes,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=196,
    )
    return LlavaForConditionalGeneration(config).eval(), processor


def write_siglip(folder: Path) -> Path:
    """Save it as an ordinary folder."""
    model, processor = build_siglip()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
