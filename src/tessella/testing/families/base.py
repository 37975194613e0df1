"""What every tiny family has: a model made from a config, a processor made offline, and prompts with pictures."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

Size = tuple[int, int]  # width, height in pixels, as Pillow has it


@dataclass(frozen=True)
class TinyFamily:
    """One family. Subclasses fill `id` and the abstract methods; `id` is the name of the adapter's file."""

    id: str = ""
    takes_video: bool = False
    sizes: tuple[Size, ...] = ((56, 56),)  # picture sizes that show what is special about the family, the usual first

    def config(self, num_layers: int) -> Any:
        """The config of a model with `num_layers` decoder layers."""
        raise NotImplementedError

    def processor(self) -> Any:
        """The family's real processor: tokenizer, image processor, chat template, all made offline."""
        raise NotImplementedError

    def model(
        self,
        *,
        attention: str = "sdpa",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        num_layers: int = 4,
    ) -> Any:
        """The generating model in eval mode, with random weights large enough that a wrong mask or position shows."""
        raise NotImplementedError

    def inputs(
        self,
        images: Sequence[Sequence[Size]] = (((56, 56),),),
        *,
        videos: Sequence[Sequence[tuple[int, Size]]] = (),
        text_length: int = 6,
        padding: Literal["left", "right"] = "left",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Model inputs for rows that hold pictures of these sizes (and clips of so many frames), between random words."""
        raise NotImplementedError


def tiny_families() -> dict[str, TinyFamily]:
    """Every tiny family that the installed transformers has, by id."""
    raise NotImplementedError


def tiny_family(family_id: str) -> TinyFamily:
    """One tiny family. Raises KeyError naming those there are."""
    raise NotImplementedError


__all__ = ["Image", "Path", "TinyFamily", "importlib", "nn", "np", "pkgutil", "tiny_families", "tiny_family"]
