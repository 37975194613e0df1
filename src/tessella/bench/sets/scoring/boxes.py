"""Boxes: read from an answer, and how much two of them overlap."""

from __future__ import annotations

import re

Box = tuple[float, float, float, float]  # left, top, right, bottom

_NUMBER = r"\s*(-?\d+(?:\.\d+)?|-?\.\d+)\s*"
_BOX = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")


def find_box(text: str) -> Box | None:
    """The first [x1, y1, x2, y2] in a text, in whatever unit it was written; None where there is none.

    >>> find_box("The cup is at [0.1, .2, 0.5, 1].")
    (0.1, 0.2, 0.5, 1.0)
    """
    found = _BOX.search(text)
    return (float(found[1]), float(found[2]), float(found[3]), float(found[4])) if found else None


def to_shares(box: Box, width: int, height: int, thousandths: bool = False) -> Box:
    """A box as shares of a picture's sides. A box with no number above 1 is one already.

    Any other is in pixels of a picture of `width` x `height`, or in `thousandths` of its sides.
    """
    if max(box) <= 1:
        return box
    x, y = (1000, 1000) if thousandths else (width, height)
    return (box[0] / x, box[1] / y, box[2] / x, box[3] / y)


def iou(first: Box, second: Box) -> float:
    """Intersection over union, in [0, 1]; 0 for a box without an area, such as one whose corners are swapped.

    >>> iou((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    """
    areas = [_area(first), _area(second)]
    if not all(areas):
        return 0.0
    common = _area(
        (max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3]))
    )
    return common / (sum(areas) - common)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
