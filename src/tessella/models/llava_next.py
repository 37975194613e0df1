"""LLaVA-NeXT: a thumbnail and a mosaic of tiles, un-padded, with a newline token behind each line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

from .footprint import Footprint
from .llava_mosaic import MosaicLlava, sizes_of


class LlavaNextAdapter(MosaicLlava):
    """`LlavaNextForConditionalGeneration`."""

    model_types = ("llava_next",)
    entry_types = (LlavaNextModel,)

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        return [(self.mosaic(size),) for size in sizes_of(arguments)]
