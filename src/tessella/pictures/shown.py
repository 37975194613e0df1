"""What became of the visual tokens of a prompt, step by step, as plain values to draw or to send elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from ..core.layout import Block


@dataclass(frozen=True)
class Cut:
    """What is left in front of a decoder layer: for each image the indices of kept tokens, through its grids, and for
    each token the index of the kept token that holds it, -1 if it was dropped."""

    at_layer: int
    kept: tuple[tuple[int, ...], ...]
    merged: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Shown:
    """For each image of a prompt what `tessella.pictures.drawing.draw_prompt` draws, cut by cut, the last one last.

    There is one at least: where nothing was cut, it keeps every token in front of layer 0.
    """

    images: tuple[Image.Image | tuple[Image.Image, ...], ...]
    blocks: tuple[tuple[Block, ...], ...]
    cuts: tuple[Cut, ...]
    seen: str = ""  # in words, where the model saw smaller pictures

    @property
    def kept(self) -> tuple[tuple[int, ...], ...]:
        return self.cuts[-1].kept

    @property
    def merged(self) -> tuple[tuple[int, ...], ...]:
        return self.cuts[-1].merged
