"""LLaVA-OneVision: tiles that are shrunk where they are many, several pictures of a prompt untiled, pooled clips."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from ..core.errors import UnsupportedError
from ..core.layout import Block
from .adapter import IMAGE, VIDEO, Modality
from .bilinear import shrink
from .footprint import Footprint, one_grid
from .llava_mosaic import MosaicLlava, sizes_of
from .on_host import on_host


class LlavaOnevisionAdapter(MosaicLlava):
    """`LlavaOnevisionForConditionalGeneration`.

    Large mosaics and clips are shrunk behind the connector. The features of their tokens are shrunk in front of it, so
    that `project` of these is near the token that the model makes, not equal to it.
    """

    model_types = ("llava_onevision",)
    entry_types = (LlavaOnevisionModel,)
    modalities: ClassVar[Mapping[str, Modality]] = {"image": IMAGE, "video": VIDEO}

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        if modality == "video":
            return [(shrunk_clip(len(clip), self.side),) for clip in arguments["pixel_values_videos"]]
        sizes, most = sizes_of(arguments), self._most(arguments.get("vision_aspect_ratio"))
        counts = arguments.get("batch_num_images")
        tiled = (
            [True] * len(sizes)
            if counts is None
            else [n == 1 for n in on_host(torch.as_tensor(counts)).tolist() for _ in range(n)]
        )
        whole = untiled(self.side)
        return [(self.mosaic(size, most) if cut else whole,) for size, cut in zip(sizes, tiled, strict=True)]

    def _most(self, given: str | None) -> int:
        """More tokens than so many tiles have are shrunk, as the vision_aspect_ratio says at its end."""
        own = str(self.entry.config.vision_aspect_ratio)
        if given is not None and given != own:
            raise UnsupportedError(
                f"vision_aspect_ratio={given!r} differs from the {own!r} of the model's config, which is what its "
                "forward follows. Leave it out, or set it in the config."
            )
        number = own.strip("anyres_max_")  # noqa: B005  # these characters at both ends, as the model does
        if not number.isdecimal():
            raise UnsupportedError(f"vision_aspect_ratio={own!r} names no number of tiles; use 'anyres_max_9' or such.")
        return int(number)


@lru_cache(maxsize=8)
def untiled(side: int) -> Footprint:
    """One grid of `side` x `side` tokens and a newline behind it."""
    grid = one_grid(side, side)
    newline = torch.full((1, 1), -1)
    return Footprint(
        (*grid.blocks, Block(0, 1, 0, newlines=True)),
        torch.cat([grid.patches, newline]),
        grid.num_patches,
        items=(0, 0),
    )


@lru_cache(maxsize=64)
def shrunk_clip(frames: int, side: int) -> Footprint:
    """Frames of `side` x `side` patches shrunk to half as many a side, rounded up, and a newline behind them all."""
    half = math.ceil(side / 2)
    grid = shrink(side, side, (half, half))
    patch = (grid.row * side + grid.column).flatten(0, 1)  # [T, P] of one frame
    patches = (torch.arange(frames)[:, None, None] * side**2 + patch).flatten(0, 1)
    shares = grid.weight.flatten(0, 1).repeat(frames, 1)
    blocks = [Block(0, half, half, frame=f) for f in range(frames)]
    pad = torch.nn.functional.pad
    return Footprint(
        (*blocks, Block(0, 1, 0, frame=frames - 1, newlines=True)),
        pad(patches, (0, 0, 0, 1), value=-1),
        frames * side**2,
        pad(shares, (0, 0, 0, 1)),
        items=(*range(frames), frames - 1),
        num_items=frames,
    )
