"""What a run did to the pictures of one prompt, as values that are drawn here or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..core.errors import UnsupportedError
from ..pictures.shown import Cut, Shown
from .prompting import seen_picture

if TYPE_CHECKING:
    from ..engine.run import Run


def shown_of(run: Run, processor: Any, given: Sequence[Image.Image], row: int = 0) -> Shown:
    """What became of the pictures of a row of the last prompt; `given` are the row's pictures.

    Each image is the picture that was given, or what the model saw of it where that was several tiles, or smaller
    pictures.
    """
    from ..engine.restoring import seen_at

    images = _images(run, processor, given, row)
    cuts = [Cut(cut.at_layer, _ints(cut.kept[row]), _ints(cut.merged[row])) for cut in run.cuts]
    if not cuts:
        cuts = [Cut(0, _ints(run.kept[row]), _ints(run.merged[row]))]
    seen = seen_at([grid for image in images for grid in image]) if run.is_rewritten else ""  # type: ignore[union-attr]
    return Shown(images, tuple(run.blocks[row]), tuple(cuts), seen)


def _images(
    run: Run, processor: Any, given: Sequence[Image.Image], row: int
) -> tuple[Image.Image | tuple[Image.Image, ...], ...]:
    """The given picture where one grid shows all of it, or where only its features were read; else each grid's own."""
    blocks = run.blocks[row]
    is_given = not run.is_rewritten and len(blocks) == len(given)
    whole = tuple(seen_picture(processor, picture) for picture in given)
    if is_given and all(len(mine) == 1 for mine in blocks):
        return whole
    try:
        left = iter(run.pictures)
    except UnsupportedError:
        if not is_given:
            raise
        return whole
    own = [[tuple(next(left) for b in mine if b.columns) for mine in images] for images in run.blocks[: row + 1]][row]
    if not is_given:
        return tuple(own)
    return tuple(whole[i] if len(blocks[i]) == 1 else grids for i, grids in enumerate(own))


def _ints(indices: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(mine.tolist()) for mine in indices)
