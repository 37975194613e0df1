"""Draw which visual tokens were kept: one picture, all pictures of a prompt, sheets that compare methods.

Kept patches show the picture as it is. Dropped ones are faded to pale grey, so that they differ in print too. Merged
ones are half faded, in the colour of their group, and tied by a thin line to the patch that took them in, which has a
frame of that colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..core.errors import InputError, LayoutError
from ..core.layout import Block
from .fates import Fate, Indices, Panel, panels_of, read_fate, split_fates
from .palette import Colour
from .patches import FADED, INK, draw_patches
from .shown import Shown

SIZE = 448  # pixels of the longer side of a drawn picture
MARGIN = 16
ROW_LENGTH = 4
THUMBNAIL_SCALE = 0.5  # a thumbnail beside the same picture in tiles
SOFT_INK, PAPER, RULE = (88, 92, 102), (255, 255, 255), (216, 219, 225)
TEXT_SIZE, TITLE_SIZE = 15, 19


def draw_kept(
    image: Image.Image,
    grid: tuple[int, int],
    kept: Indices,
    merged: Indices | None = None,
    caption: str | None = None,
    size: int = SIZE,
) -> Image.Image:
    """The picture with kept, merged and dropped patches, a legend, and the caption beneath.

    `grid` is (rows, columns); `kept` holds indices in raster order; `merged[i]` is the patch into which patch i went
    (itself if kept, -1 if dropped). The first line of the caption is set stronger. Raises LayoutError for an index
    outside the grid.
    """
    fate = read_fate(grid, kept, merged)
    return _frame([[draw_patches(image, fate, size)]], [fate], caption)


def draw_prompt(
    images: Sequence[Image.Image | Sequence[Image.Image]],
    blocks: Sequence[Sequence[Block]],
    kept: Sequence[Indices],
    merged: Sequence[Indices] | None = None,
    caption: str | None = None,
    size: int = SIZE,
) -> Image.Image:
    """All pictures of one prompt side by side, each as in `draw_kept`, under one legend and caption.

    For each picture: its blocks (tiles, frames, a thumbnail) and its kept tokens, whose indices count through the
    tokens of its blocks in order; newline tokens count, but there is nothing to draw for them. The tiles of a mosaic
    are drawn as one picture, a thumbnail smaller. A picture with several blocks is given once (each panel shows all of
    it) or as a sequence with one picture for each block that has patches.
    Raises LayoutError when the counts do not match.
    """
    if not images:
        raise LayoutError("there is no picture to draw in this prompt.")
    if not len(images) == len(blocks) == len(kept) == len(merged or kept):
        raise LayoutError(
            f"{len(images)} pictures, {len(blocks)} lists of blocks and {len(kept)} lists of kept patches do not match."
        )
    fates = [split_fates(blocks[i], kept[i], None if merged is None else merged[i]) for i in range(len(images))]
    return _frame(_panels(images, blocks, fates, size), [fate for mine in fates for fate in mine], caption)


def draw_cut(shown: Shown, number: int = -1, size: int = SIZE) -> Image.Image:
    """All pictures of a prompt behind its cut `number`, without legend and caption; transparent between pictures."""
    rows = _rows(_panels(shown.images, shown.blocks, fates_of(shown, number), size))
    if len(rows) == len(rows[0]) == 1:
        return rows[0][0]
    out = Image.new("RGBA", _extent(rows), (0, 0, 0, 0))
    _paste(out, rows, 0, 0)
    return out


def fates_of(shown: Shown, number: int = -1) -> list[list[Fate]]:
    """For each image the fates of its panels behind cut `number`."""
    cut = shown.cuts[number]
    return [split_fates(*mine) for mine in zip(shown.blocks, cut.kept, cut.merged, strict=True)]


def _panels(
    images: Sequence[Image.Image | Sequence[Image.Image]],
    blocks: Sequence[Sequence[Block]],
    fates: Sequence[Sequence[Fate]],
    size: int,
) -> list[list[Image.Image]]:
    """The drawn panels of each image; smaller where there are many."""
    shown = [_panel_pictures(image, blocks[i], i) for i, image in enumerate(images)]
    scale = 1.0 if sum(map(len, shown)) < 4 else 0.6
    return [
        [
            draw_patches(picture, fate, round(size * scale * (THUMBNAIL_SCALE if panel.is_thumbnail else 1)))
            for (picture, panel), fate in zip(*both, strict=True)
        ]
        for both in zip(shown, fates, strict=True)
    ]


def _panel_pictures(
    image: Image.Image | Sequence[Image.Image], blocks: Sequence[Block], number: int
) -> list[tuple[Image.Image, Panel]]:
    """The panels of image `number`, each with the picture that it shows."""
    panels = panels_of(blocks)
    if isinstance(image, Image.Image):
        return [(image, panel) for panel in panels]
    pieces, needed = list(image), sum(len(p.blocks) for p in panels)
    if len(pieces) != needed:
        raise LayoutError(f"image {number} has {needed} blocks, but {len(pieces)} pictures were given for it.")
    left = iter(pieces)
    return [(panel.put_together([next(left) for _ in panel.blocks]), panel) for panel in panels]


def sheet(
    panels: Sequence[tuple[str, Image.Image]], columns: int | None = None, title: str | None = None
) -> Image.Image:
    """Panels (short title, picture) on a grid of `columns`, under a title. Raises InputError for no panels."""
    if not panels:
        raise InputError("a sheet needs at least one panel.")
    columns = min(columns or math.ceil(math.sqrt(len(panels))), len(panels))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    width = max(image.width for _, image in panels)
    heading = {id(p): _wrap(p[0], _font(TEXT_SIZE), width - 2 * MARGIN) for p in panels}
    head = [max(len(heading[id(p)]) for p in row) * _line_height(TEXT_SIZE) for row in rows]
    body = [max(image.height for _, image in row) for row in rows]
    total = columns * width
    lines = _wrap(title, _font(TITLE_SIZE), total - 2 * MARGIN) if title else []
    top = MARGIN + len(lines) * _line_height(TITLE_SIZE) + (MARGIN if lines else 0)
    out = Image.new("RGB", (total, top + sum(head) + sum(body) + MARGIN * (len(rows) - 1)), PAPER)
    draw = ImageDraw.Draw(out)
    _write(draw, (MARGIN, MARGIN), lines, TITLE_SIZE, INK, strong=True)
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            x = c * width
            _write(draw, (x + MARGIN, top), heading[id(panel)], TEXT_SIZE, INK, strong=True)
            out.paste(panel[1], (x, top + head[r]))
        top += head[r] + body[r] + MARGIN
    return out


# --- legend, caption, text ------------------------------------------------------------------------------------------


def _frame(images: Sequence[Sequence[Image.Image]], fates: Sequence[Fate], caption: str | None) -> Image.Image:
    """The pictures of each image in rows, then the legend, then the caption."""
    rows = _rows(images)
    width, body = _extent(rows)
    legend = _legend(fates, width)
    paragraphs = [] if not caption else caption.splitlines()
    lines = [(line, n == 0) for n, text in enumerate(paragraphs) for line in _wrap(text, _font(TEXT_SIZE), width)]
    height = body + MARGIN + legend.height + (len(lines) * _line_height(TEXT_SIZE) + 6 if lines else 0)
    out = Image.new("RGB", (width + 2 * MARGIN, height + MARGIN // 2), PAPER)
    _paste(out, rows, MARGIN, MARGIN // 2)
    top = body + MARGIN
    out.paste(legend, (MARGIN, top))
    top += legend.height + 6
    draw = ImageDraw.Draw(out)
    for line, strong in lines:
        _write(draw, (MARGIN, top), [line], TEXT_SIZE, INK if strong else SOFT_INK, strong=strong)
        top += _line_height(TEXT_SIZE)
    return out


def _extent(rows: Sequence[Sequence[Image.Image]]) -> tuple[int, int]:
    """Width and height of rows of pictures with margins between them."""
    width = max(sum(p.width for p in row) + MARGIN * (len(row) - 1) for row in rows)
    return width, sum(max(p.height for p in row) for row in rows) + MARGIN * (len(rows) - 1)


def _paste(out: Image.Image, rows: Sequence[Sequence[Image.Image]], left: int, top: int) -> None:
    """Put rows of pictures on `out`, from (left, top)."""
    for row in rows:
        x = left
        for picture in row:
            out.paste(picture, (x, top))
            x += picture.width + MARGIN
        top += max(p.height for p in row) + MARGIN


def _rows(images: Sequence[Sequence[Image.Image]]) -> list[list[Image.Image]]:
    """Rows of at most ROW_LENGTH pictures; those of one image stand together where they fit in one row."""
    rows: list[list[Image.Image]] = [[]]
    for pictures in images:
        if rows[-1] and len(rows[-1]) + len(pictures) > ROW_LENGTH:
            rows.append([])
        for picture in pictures:
            if len(rows[-1]) == ROW_LENGTH:
                rows.append([])
            rows[-1].append(picture)
    return [row for row in rows if row]


def _legend(fates: Sequence[Fate], width: int) -> Image.Image:
    """Swatches with counts, summed over the pictures; wraps when the picture is narrow."""
    counts = [
        ("kept", sum(len(f.kept) for f in fates)),
        ("merged", sum(len(f.merged) for f in fates)),
        ("dropped", sum(len(f.dropped) for f in fates)),
    ]
    font, line = _font(TEXT_SIZE), _line_height(TEXT_SIZE)
    places, x, y = [], 0, 0
    for name, count in counts:
        if count == 0 and name != "kept":
            continue
        label = f"{name} {count}"
        needed = 22 + math.ceil(font.getlength(label))
        if x and x + needed > width:
            x, y = 0, y + line
        places.append((name, label, x, y))
        x += needed + 18
    out = Image.new("RGB", (width, y + line), PAPER)
    draw = ImageDraw.Draw(out)
    for name, label, x, y in places:
        _swatch(draw, name, x, y + 2)
        _write(draw, (x + 22, y), [label], TEXT_SIZE, INK)
    return out


def _swatch(draw: ImageDraw.ImageDraw, name: str, x: int, y: int) -> None:
    box = (x, y, x + 14, y + 14)
    if name == "kept":
        draw.rectangle(box, fill=(70, 74, 84), outline=INK, width=2)
    elif name == "merged":
        draw.rectangle(box, fill=(160, 190, 222), outline=RULE)
        draw.line((x + 3, y + 11, x + 11, y + 3), fill=(30, 80, 140), width=1)
        draw.ellipse((x + 9, y + 1, x + 13, y + 5), fill=(30, 80, 140))
    else:
        draw.rectangle(box, fill=FADED, outline=(196, 200, 207))


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _line_height(size: int) -> int:
    return round(size * 1.35)


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], size: int, ink: Colour, strong: bool = False
) -> None:
    for n, line in enumerate(lines):
        place = (at[0], at[1] + n * _line_height(size))
        draw.text(place, line, fill=ink, font=_font(size), stroke_width=0.35 if strong else 0)


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Lines no wider than `width`; words too long for one line are broken."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        while font.getlength(word) > width and len(word) > 1:
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            if line:
                lines.append(line)
                line = ""
            lines.append(word[:cut])
            word = word[cut:]
        wider = f"{line} {word}".strip()
        if line and font.getlength(wider) > width:
            lines.append(line)
            line = word
        else:
            line = wider
    return [*lines, line] if line else lines
