"""One image's tokens and class attention; effective rank, tokens of the walk, picks in the order taken."""

from __future__ import annotations

from typing import Any

from recorded import Golden, every, negated

from tessella.core.registry import make
from tessella.reduction import agilepruner
from tessella.testing import ArrayView

FLIPS = {
    "attention": (ArrayView, "class_attention", negated),
    "distance": (agilepruner, "distance", negated),
}


def replay(file: Golden) -> None:
    view = ArrayView(embeddings=file["features"][None], class_attention=file["cls_attention"][None, None])
    static = file.number("static_tau")
    method: Any = make(
        "agilepruner",
        erank_avg=file.number("erank_avg"),
        tau_max=file.number("tau_max"),
        static_tau=None if static < 0 else static,
    )
    counts = every(int(file.number("k")), view)
    file.compare("erank", method.complexity(view)[0])
    file.compare("num_before_backfill", method.walk(method.score(view), view, counts).sum())
    file.compare("pick_order", method.select(view, counts)[0])
    file.compare_keep(method.reduce(view, counts).keep)
