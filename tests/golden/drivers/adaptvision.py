"""Sizes of pictures; the sizes to which they are resized, how many tiles that makes, and their places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from recorded import Golden

from tessella.reduction import adaptvision


def lying(function: Callable[..., Any]) -> Callable[..., Any]:
    """Width taken for height."""
    return lambda width, height, *given: function(height, width, *given)


FLIPS = {"sides": (adaptvision, "partition", lying)}


def replay(file: Golden) -> None:
    sizes = file["sizes_in_out_ncrops"]
    most = int(file.number("max_grid"))
    plans = [adaptvision.partition(int(w), int(h), int(file.number("shard")), most) for w, h in sizes[:, :2]]
    found = [(*s, *p.size, p.rows * p.columns) for s, p in zip(sizes[:, :2], plans, strict=True)]
    file.compare("sizes_in_out_ncrops", found)
    tags = [[*p.tags, *[(-1, -1)] * (most**2 + 1 - len(p.tags))] for p in plans]
    file.compare("cell_tags_row_col", np.array(tags))
