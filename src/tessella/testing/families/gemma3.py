"""Gemma 3: sliding windows on most layers, pictures that see all of themselves, patches pooled 4 to 1."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .parts import PATCH, picture_size, text_sizes, vision_sizes
from .text import chat_template, word_tokenizer

PICTURE, NUM_TOKENS, WINDOW = 8 * PATCH, 16, 8
HEAD_DIM, QUERY_SCALAR = 8, 2  # normalised queries and keys: a smaller scalar than HEAD_DIM makes attention uneven


class Gemma3(TinyFamily):
    """8 x 8 patches make 4 x 4 visual tokens. A window of 8 is half a picture; layer 1 of every three sees all."""

    id = "gemma3"
    architecture = "Gemma3ForConditionalGeneration"
    sizes = ((56, 56), (120, 60))
    image_text = "<start_of_image>"

    def config(self, num_layers: int = 4) -> Any:
        from transformers import Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

        tokenizer = self.processor().tokenizer
        return Gemma3Config(
            vision_config=SiglipVisionConfig(**vision_sizes(image_size=PICTURE), vision_use_head=False),
            text_config=Gemma3TextConfig(
                **text_sizes(num_layers),
                head_dim=HEAD_DIM,
                query_pre_attn_scalar=QUERY_SCALAR,
                sliding_window=WINDOW,
                layer_types=["full_attention" if n % 3 == 1 else "sliding_attention" for n in range(num_layers)],
            ),
            mm_tokens_per_image=NUM_TOKENS,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
            image_token_index=tokenizer.image_token_id,
            tie_word_embeddings=False,  # tied, a random model repeats its last token
        )

    def processor(self) -> Any:
        from transformers import Gemma3ImageProcessorPil, Gemma3Processor

        special = {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        }
        return Gemma3Processor(
            image_processor=Gemma3ImageProcessorPil(size=picture_size(PICTURE, PICTURE)),
            tokenizer=word_tokenizer(special),
            image_seq_length=NUM_TOKENS,
            chat_template=chat_template(image="<start_of_image>"),
        )
