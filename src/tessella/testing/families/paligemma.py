"""PaliGemma: a prompt whose tokens all see each other, pictures first; a Gemma or, as PaliGemma 2, a Gemma 2."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from .base import TinyFamily
from .parts import PATCH, SIZE, picture_size, text_sizes, vision_sizes
from .text import chat_template, word_tokenizer

NUM_TOKENS, WINDOW = (SIZE // PATCH) ** 2, 8


@dataclass(frozen=True)
class PaliGemma(TinyFamily):
    """With `text="gemma2"` the even layers have a sliding window of 8 tokens, half a picture.

    Gemma 2 bounds its attention scores, which only `eager` does: for its layers `eager` takes the place of `sdpa`.
    """

    text: Literal["gemma", "gemma2"] = "gemma"

    id = "paligemma"
    architecture = "PaliGemmaForConditionalGeneration"
    sizes = ((28, 28), (60, 40))

    def config(self, num_layers: int = 4) -> Any:
        from transformers import Gemma2Config, GemmaConfig, PaliGemmaConfig, SiglipVisionConfig

        processor = self.processor()
        sizes = text_sizes(num_layers, head_dim=8, vocab_size=len(processor.tokenizer))
        windows = {"sliding_window": WINDOW, "query_pre_attn_scalar": 8}
        return PaliGemmaConfig(
            vision_config=SiglipVisionConfig(**vision_sizes(), vision_use_head=False),
            text_config=GemmaConfig(**sizes) if self.text == "gemma" else Gemma2Config(**sizes, **windows),
            image_token_index=processor.image_token_id,
            vocab_size=sizes["vocab_size"],
            hidden_size=sizes["hidden_size"],
            projection_dim=sizes["hidden_size"],
            tie_word_embeddings=False,
        )

    def model(self, *, attention: str | dict[str, str] = "sdpa", **other: Any) -> Any:
        if attention == "sdpa" and self.text == "gemma2":
            attention = {"": "sdpa", "vision_config": "sdpa", "text_config": "eager"}
        return super().model(attention=attention, **other)

    def processor(self) -> Any:
        from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

        pictures = SiglipImageProcessorPil(size=picture_size())
        pictures.image_seq_length = NUM_TOKENS
        return PaliGemmaProcessor(
            image_processor=pictures,
            tokenizer=word_tokenizer({"image_token": "<image>"}, bos=False),
            chat_template=chat_template(),
        )

    def encode(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Without the labels, which are all empty for a prompt that has no answer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, about how the processor makes the labels
            inputs = super().encode(*args, **kwargs)
        return {name: value for name, value in inputs.items() if name != "labels"}
