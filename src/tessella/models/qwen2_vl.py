"""Qwen2-VL: every encoder block attends to a whole picture or frame."""

from __future__ import annotations

from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from .qwen_like import QwenLike


class Qwen2VLAdapter(QwenLike):
    """`Qwen2VLForConditionalGeneration`."""

    model_types = ("qwen2_vl",)
    entry_types = (Qwen2VLModel,)
