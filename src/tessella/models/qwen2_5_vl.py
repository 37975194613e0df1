"""Qwen2.5-VL: most encoder blocks attend within windows, by which the patches are ordered."""

from __future__ import annotations

from typing import Any

from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from .qwen_like import QwenLike


class Qwen2_5_VLAdapter(QwenLike):
    """`Qwen2_5_VLForConditionalGeneration`."""

    model_types = ("qwen2_5_vl",)
    entry_types = (Qwen2_5_VLModel,)

    def global_layers(self, vision: Any) -> tuple[int, ...]:
        return tuple(vision.fullatt_block_indexes)

    @property
    def window(self) -> int:
        vision = self.entry.config.vision_config
        return int(vision.window_size) // int(vision.spatial_merge_size) // int(vision.patch_size)
