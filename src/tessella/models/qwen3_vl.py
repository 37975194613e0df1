"""Qwen3-VL: features of early encoder blocks join early decoder layers; times stand between the frames of a clip."""

from __future__ import annotations

from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from .adapter import HALF_STATISTICS, Statistics
from .qwen_like import QwenLike


class Qwen3VLAdapter(QwenLike):
    """`Qwen3VLForConditionalGeneration`. Methods see features of the last encoder block, not the deep-stack ones."""

    model_types = ("qwen3_vl",)
    entry_types = (Qwen3VLModel,)
    deepstack = "_deepstack_process"

    def usual_statistics(self) -> Statistics:
        return HALF_STATISTICS
