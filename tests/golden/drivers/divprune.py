"""Projected tokens of one image; picks in the order taken."""

from __future__ import annotations

from recorded import Golden, every, negated

from tessella.core.registry import make
from tessella.reduction import divprune
from tessella.testing import ArrayView

FLIPS = {
    "distance": (divprune, "distance", negated),
    "first pick": (divprune, "nearest_other", negated),
}


def replay(file: Golden) -> None:
    view, method = ArrayView(embeddings=file["features"][None]), make("divprune")
    count = int(file.number("k"))
    file.compare_count("ratio", view.layout.num_tokens[0], method.card.rounding, count)
    file.compare("pick_order", method.select(view, every(count, view))[0])  # type: ignore[attr-defined]
    file.compare_keep(method.reduce(view, every(count, view)).keep)
