"""Draw a grid of patches over its picture: kept ones clear, dropped ones grey, merged ones coloured by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from PIL import Image, ImageDraw, ImageOps

from .fates import Fate
from .palette import Colour, group_colours

INK, FADED = (28, 30, 36), (240, 241, 244)  # outlines; what dropped patches are faded to
FADE_DROPPED, FADE_MERGED = 0.82, 0.7  # how far towards it
TINT = 0.45  # how much of its group's colour a merged patch takes
OVERSAMPLE = 2  # lines are drawn this much larger, then shrunk, so that slanted ones are smooth


def draw_patches(image: Image.Image, fate: Fate, size: int) -> Image.Image:
    """The enlarged picture with faded and tinted patches, grid, outlines and lines."""
    cell_w, cell_h = _cell(image, fate, size)
    width, height = cell_w * fate.columns, cell_h * fate.rows
    base = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    grey = ImageOps.autocontrast(ImageOps.grayscale(base), cutoff=0.5).convert("RGB")
    paper = Image.new("RGB", base.size, FADED)
    colours = group_colours(fate)
    out = Image.composite(Image.blend(grey, paper, FADE_DROPPED), base, _mask(fate, fate.dropped, base.size))
    tints = Image.new("RGB", (fate.columns, fate.rows), FADED)
    for i in fate.merged:
        tints.putpixel((i % fate.columns, i // fate.columns), colours[fate.parent[i]])
    tint = tints.resize(base.size, Image.Resampling.NEAREST)
    mixed = Image.blend(Image.blend(grey, paper, FADE_MERGED), tint, TINT)
    out = Image.composite(mixed, out, _mask(fate, fate.merged, base.size))
    return _draw_lines(out, fate, cell_w, cell_h, colours)


def _cell(image: Image.Image, fate: Fate, size: int) -> tuple[int, int]:
    """Pixels of a patch, so that the picture keeps its proportions, its longer side is near `size`, patches >= 4."""
    scale = size / max(image.size)
    return (
        max(4, round(image.width * scale / fate.columns)),
        max(4, round(image.height * scale / fate.rows)),
    )


def _mask(fate: Fate, patches: Sequence[int], size: tuple[int, int]) -> Image.Image:
    small = Image.new("L", (fate.columns, fate.rows), 0)
    for i in patches:
        small.putpixel((i % fate.columns, i // fate.columns), 255)
    return small.resize(size, Image.Resampling.NEAREST)


def _draw_lines(image: Image.Image, fate: Fate, cell_w: int, cell_h: int, colours: dict[int, Colour]) -> Image.Image:
    """Grid between faded patches, an outline around kept ones, a line from each merged patch to its parent."""
    k = OVERSAMPLE
    big = image.resize((image.width * k, image.height * k), Image.Resampling.NEAREST).convert("RGBA")
    w, h = cell_w * k, cell_h * k
    ties = _draw_ties(fate, big.size, w, h, colours)
    clear = Image.new("RGBA", big.size, (0, 0, 0, 0))
    layer = Image.composite(clear, ties, _mask(fate, fate.kept, big.size))  # kept patches stay clean
    draw = ImageDraw.Draw(layer)
    for i, parent in enumerate(fate.parent):
        x, y = i % fate.columns * w, i // fate.columns * h
        if parent != i:
            draw.rectangle((x, y, x + w, y + h), outline=(255, 255, 255, 170), width=2)
    if len(fate.kept) < len(fate.parent):
        _outline_kept(draw, fate, w, h)
    for parent, colour in colours.items():
        x, y = parent % fate.columns * w, parent // fate.columns * h
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline=(*colour, 255), width=max(2, min(w, h) // 9))
    flat = Image.alpha_composite(big, layer).convert("RGB")
    return flat.resize(image.size, Image.Resampling.BOX)


def _draw_ties(fate: Fate, size: tuple[int, int], w: int, h: int, colours: dict[int, Colour]) -> Image.Image:
    """A transparent layer with a line from each merged patch to its parent; many lines are drawn fainter."""
    layer = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    opacity = 255 if len(fate.merged) < 48 else 120
    for i in fate.merged:
        line = (*_centre(i, fate, w, h), *_centre(fate.parent[i], fate, w, h))
        draw.line(line, fill=(*_darker(colours[fate.parent[i]]), opacity), width=OVERSAMPLE)
    return layer


def _outline_kept(draw: ImageDraw.ImageDraw, fate: Fate, w: int, h: int) -> None:
    """Lines where a kept patch borders one that is not, and at the picture's edge."""
    kept = set(fate.kept)
    for i in kept:
        row, column = divmod(i, fate.columns)
        x, y = column * w, row * h
        if row == 0 or i - fate.columns not in kept:
            draw.line((x, y, x + w, y), fill=(*INK, 255), width=3)
        if row == fate.rows - 1 or i + fate.columns not in kept:
            draw.line((x, y + h - 1, x + w, y + h - 1), fill=(*INK, 255), width=3)
        if column == 0 or i - 1 not in kept:
            draw.line((x, y, x, y + h), fill=(*INK, 255), width=3)
        if column == fate.columns - 1 or i + 1 not in kept:
            draw.line((x + w - 1, y, x + w - 1, y + h), fill=(*INK, 255), width=3)


def _centre(index: int, fate: Fate, w: int, h: int) -> tuple[float, float]:
    return (index % fate.columns + 0.5) * w, (index // fate.columns + 0.5) * h


def _darker(colour: Colour) -> Colour:
    return cast(Colour, tuple(round(c * 0.62) for c in colour))
