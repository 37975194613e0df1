"""Projected tokens and the class token's row, under the code's variant; crops, scores, shares and the order taken."""

from __future__ import annotations

from typing import Any

from recorded import Golden, every, negated

from tessella.core.registry import make
from tessella.reduction import holov
from tessella.testing import ArrayView

FLIPS = {
    "attention": (ArrayView, "class_attention", negated),
    "variance": (holov, "similarity_variance", negated),
}


def replay(file: Golden) -> None:
    view = ArrayView(embeddings=file["features"][None], class_attention=file["cls_attention"][None, None])
    method: Any = make("holov", variant="code", num_crops=int(file.number("num_crops")))
    counts = every(int(file.number("k")), view)
    crops, scores = method.crops(view, counts), method.score(view)
    file.compare("crop_sizes", holov.sizes_of(crops)[0])
    file.compare("holistic_scores", scores[0])
    file.compare("crop_scores", holov.crop_means(scores, crops)[0])
    file.compare("quotas", method.allocate(scores, view, counts).quota[0])
    file.compare("emitted_positions", method.select(view, counts)[0])
    file.compare_keep(method.reduce(view, counts).keep)
