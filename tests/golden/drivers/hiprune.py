"""Attention received in two layers, whole (LLaVA) or already averaged (Qwen)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from recorded import Golden, every

from tessella.core.registry import make
from tessella.testing import ArrayView

UNUSED = {"features", "total_keep"}


def negated_at(output: bool) -> Callable[..., Any]:
    """The later of the layers that a view was given, or the others, with the sign flipped."""

    def change(function: Callable[..., Any]) -> Callable[..., Any]:
        def received(view: ArrayView, layer: int) -> Any:
            is_output = layer == max(view._given["attention_received"])
            return -function(view, layer) if is_output == output else function(view, layer)

        return received

    return change


FLIPS = {
    "object": (ArrayView, "attention_received", negated_at(output=False)),
    "output": (ArrayView, "attention_received", negated_at(output=True)),
}


def replay(file: Golden) -> None:
    grid = (int(file.number("grid_h")), int(file.number("grid_w")))
    if "received_object_layer" in file:
        seen = [file[f"received_{n}_layer"][None] for n in ("object", "output")]
        count = int(file.number("k"))
        file.compare_count("retain_ratio", grid[0] * grid[1], "nearest", count)
    else:
        seen = [file[f"attention_{n}_layer"].astype(np.float64).mean(axis=(1, 2))[:, 1:] for n in ("object", "output")]
        count = int(file.number("keep_per_image"))
    layer = int(file.number("object_layer_1based")) - 1
    method = make("hiprune", alpha=file.number("alpha"), object_layer=layer, output_layer=layer + 1)
    arrays = {layer: seen[0].astype(np.float32), layer + 1: seen[1].astype(np.float32)}
    view = ArrayView(attention_received=arrays, grids=grid)
    anchors = method.anchors(view, every(count, view))  # type: ignore[attr-defined]
    file.compare("anchor_indices", anchors if file["anchor_indices"].ndim == 2 else anchors[0])
    file.compare("num_anchor", anchors.shape[1], optional=True)
    file.compare_keep(method.reduce(view, every(count, view)).keep)
