"""Attention of every pair of one encoder layer, averaged over heads and one axis; significance and kept patches."""

from __future__ import annotations

import math
from typing import Any

import torch
from recorded import Golden, every, negated

from tessella.core.registry import load_class, make
from tessella.testing import ArrayView

FLIPS = {"significance": (load_class("fopru"), "score", negated)}


def replay(file: Golden) -> None:
    among = torch.as_tensor(file["attention"]).float()[:, 1:, 1:].mean(dim=0)  # no class token, not renormalised
    received, given = among.mean(dim=0), among.mean(dim=1)
    side = math.isqrt(len(among))
    method: Any = make("fopru", strategy=str(file.number("strategy")))
    view = ArrayView(features=file["features"][None], patch_attention=(received[None], given[None]), grids=(side, side))
    for axis in ("received", "given"):
        score = make("fopru", axis=axis).score(view)  # type: ignore[attr-defined]
        file.compare(f"significance_{axis}", score[0], optional=True)
    count = max(1, int(len(among) * file.number("ratio")))
    keep = method.reduce(view, every(count, view)).keep
    file.compare_keep(keep)
    file.compare("kept_features", view.features()[keep], optional=True)
