"""A tiny CLIP model with random weights in a folder of its own, with a tokenizer that ends and pads texts as CLIP's."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

WORDS = ("what", "color", "is", "the", "star", "red", "?")
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH, DIMENSIONS = 8, 12


def clip_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {w: i for i, w in enumerate([*WORDS, START, END])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(mark, vocabulary[mark]) for mark in (START, END)]
    inner.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=START, eos_token=END, pad_token=END, unk_token=END, model_max_length=LENGTH
    )


def tiny_clip(width: int = 32) -> CLIPModel:
    """A CLIP whose vision half is that of `tiny_llava`, unless another width is given."""
    torch.manual_seed(3)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text = CLIPTextConfig(
        vocab_size=len(WORDS) + 2,
        hidden_size=16,
        max_position_embeddings=LENGTH,
        bos_token_id=7,
        eos_token_id=8,
        pad_token_id=8,
        **layers,
    )
    vision = CLIPVisionConfig(hidden_size=width, image_size=28, patch_size=7, **{**layers, "num_hidden_layers": 4})
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=DIMENSIONS)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


def save_clip(folder: Path, width: int = 32) -> CLIPModel:
    """Write a tiny CLIP with its tokenizer; returns the model."""
    model = tiny_clip(width)
    model.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    return model
