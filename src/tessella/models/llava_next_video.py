"""LLaVA-NeXT-Video: pictures as in LLaVA-NeXT; the frames of clips are pooled in front of the connector."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from transformers.models.llava_next_video.modeling_llava_next_video import LlavaNextVideoModel

from ..core.layout import Block
from .adapter import IMAGE, VIDEO, Modality
from .footprint import Footprint
from .llava_mosaic import MosaicLlava, sizes_of


class LlavaNextVideoAdapter(MosaicLlava):
    """`LlavaNextVideoForConditionalGeneration`. The connector is given patches of pictures, but tokens of clips."""

    model_types = ("llava_next_video",)
    entry_types = (LlavaNextVideoModel,)
    modalities: ClassVar[Mapping[str, Modality]] = {"image": IMAGE, "video": VIDEO}

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        if modality == "image":
            return [(self.mosaic(size),) for size in sizes_of(arguments)]
        stride = int(self.entry.config.spatial_pool_stride)
        return [(pooled_clip(len(clip), self.side, stride),) for clip in arguments["pixel_values_videos"]]


@lru_cache(maxsize=64)
def pooled_clip(frames: int, side: int, stride: int) -> Footprint:
    """Frames of `side` x `side` patches, each token pooled from `stride` x `stride` of them; what is left over is cut.

    >>> pooled_clip(1, 3, 2).patches
    tensor([[0, 1, 3, 4]])
    """
    rows = side // stride
    corner = torch.arange(rows) * stride
    inside = torch.arange(stride)
    corners = (torch.arange(frames)[:, None, None] * side**2 + corner[:, None] * side + corner).reshape(-1, 1)
    patches = corners + (inside[:, None] * side + inside).reshape(-1)
    blocks = tuple(Block(0, rows, rows, frame=f) for f in range(frames))
    whole = Footprint(blocks, patches, frames * side**2, items=tuple(range(frames)), num_items=frames)
    return whole.by_token()
