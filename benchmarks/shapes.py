"""Models with random weights in the shapes that the benchmarks measure, and prompts for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE_TOKEN, FIRST_WORD = 5, 6


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA: a CLIP encoder with a class token, and a Llama."""

    name: str
    image_size: int
    patch_size: int
    encoder_width: int
    encoder_layers: int
    encoder_heads: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int = 32_000

    @property
    def num_visual(self) -> int:
        return (self.image_size // self.patch_size) ** 2


SMALL = Shape("clip-l-336 + llama 896x24", 336, 14, 1024, 24, 16, 896, 24, 14, 2, 4_864)
LLAVA_7B = Shape("llava-1.5-7b", 336, 14, 1024, 24, 16, 4_096, 32, 32, 32, 11_008)
TINY = replace(
    SMALL,
    name="tiny",
    image_size=56,
    encoder_width=32,
    encoder_layers=2,
    encoder_heads=4,
    width=32,
    layers=2,
    heads=4,
    intermediate=64,
    vocabulary=64,
)


def build_model(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int = 0) -> LlavaForConditionalGeneration:
    """The model in eval mode, its weights drawn on the device in its dtype; nothing is downloaded."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=shape.encoder_width,
            intermediate_size=4 * shape.encoder_width,
            num_hidden_layers=shape.encoder_layers,
            num_attention_heads=shape.encoder_heads,
            image_size=shape.image_size,
            patch_size=shape.patch_size,
        ),
        text_config=LlamaConfig(
            hidden_size=shape.width,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            vocab_size=shape.vocabulary,
            max_position_embeddings=4_096,
        ),
        image_token_index=IMAGE_TOKEN,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        image_seq_length=shape.num_visual,
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def build_inputs(
    shape: Shape, batch: int, num_text: int, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> dict[str, Tensor]:
    """One picture a row in front of all but four of `num_text` text tokens; ids, mask and pixels."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(FIRST_WORD, shape.vocabulary, (batch, num_text), generator=generator)
    picture = torch.full((batch, shape.num_visual), IMAGE_TOKEN)
    ids = torch.cat([words[:, :4], picture, words[:, 4:]], dim=1)
    pixels = torch.randn(batch, 3, shape.image_size, shape.image_size, generator=generator)
    return {
        "input_ids": ids.to(device),
        "attention_mask": torch.ones_like(ids).to(device),
        "pixel_values": pixels.to(device, dtype),
    }
