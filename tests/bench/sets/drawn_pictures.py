"""Pictures for tiny files of public sets."""

from __future__ import annotations

from PIL import Image


def picture(colour: str, size: tuple[int, int] = (12, 8)) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", size, colour)
