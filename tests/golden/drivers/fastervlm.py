"""The class token's attention row; scores, and features of the kept patches."""

from __future__ import annotations

from recorded import Golden, every, negated

from tessella.core.registry import load_class, make
from tessella.testing import ArrayView

FLIPS = {"attention": (load_class("fastervlm"), "score", negated)}


def replay(file: Golden) -> None:
    view = ArrayView(features=file["features"], class_attention=file["cls_attention"][..., 1:])
    method, count = make("fastervlm"), int(file.number("k"))
    file.compare("scores", method.score(view), optional=True)  # type: ignore[attr-defined]
    keep = method.reduce(view, every(count, view)).keep
    file.compare_keep(keep)
    kept = view.features()[keep].reshape(len(keep), count, -1)
    file.compare("kept_features", kept, optional=True)
