"""Logits of a thumbnail and of tiles with their padding; shares, guidance, masks, and the authors' sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recorded import Golden, negated

from tessella.core.budget import Counts
from tessella.core.layout import THUMBNAIL, Block, Layout
from tessella.core.registry import make
from tessella.ops.mosaics import places_of
from tessella.reduction import globalcom2
from tessella.testing import ArrayView

UNUSED = {"thumb_features", "original_size_wh"}  # the size shows in the mask of valid tokens
FLIPS = {"logits": (ArrayView, "class_logits", negated), "guidance": (globalcom2, "guidance", negated)}


def layout_of(valid: np.ndarray) -> Layout:
    """A square thumbnail, and what is left of `[down, across, side, side]` tiles."""
    down, across, side = valid.shape[:3]
    heights, widths = valid.any((1, 3)).sum(1).tolist(), valid.any((0, 2)).sum(1).tolist()
    spots = [(i, j) for i in range(down) for j in range(across) if heights[i] and widths[j]]
    where = [{"top": sum(heights[:i]), "left": sum(widths[:j]), "tile": 1 + i * across + j} for i, j in spots]
    tiles = [
        Block(0, heights[i], widths[j], mosaic=(down, across), **w) for (i, j), w in zip(spots, where, strict=True)
    ]
    blocks = [Block(0, side, side, role=THUMBNAIL), *tiles]
    return Layout.build([range(sum(b.num_tokens for b in blocks))], [blocks])


def replay(file: Golden) -> None:
    valid, thumb, ratio = file["valid_mask"], file["thumb_cls_scores"], file.number("retention")
    shape = (*file["grid_wh"][::-1].tolist(), int(len(thumb) ** 0.5), int(len(thumb) ** 0.5))
    layout = layout_of(valid.reshape(shape))
    places = places_of(layout, torch.device("cpu"))
    tiles = [(places.cell[0, places.group[0]] == j).numpy() for j in range(len(valid))]  # the tokens of each
    logits = np.zeros(layout.num_tokens, np.float32)
    logits[: len(thumb)] = thumb
    for tile, own, real in zip(tiles, file["crop_cls_scores"], valid, strict=True):
        logits[tile] = own[real]
    settings = {"ratio": ratio, "temperature": file.number("temperature"), "thumb_order": "score"}
    view, method = ArrayView(class_logits=logits[None], layout=layout), make("globalcom2", **settings)
    reduction: Any = method.reduce(view, Counts(layout.num_tokens, layout.num_tokens, asked=False))
    keep, seen = reduction.keep[0].numpy(), view.class_logits(0)
    file.compare(
        "scales", globalcom2.retention(globalcom2.tile_factors(seen, places, settings["temperature"]), ratio)[0]
    )
    file.compare("thumb_keep_sorted_by_score", reduction.order[0, : keep[: len(thumb)].sum()])
    guided = np.zeros_like(file["global_scores_per_crop"])
    masks = np.zeros((2, *valid.shape), bool)
    features = np.zeros_like(file["crop_features"])
    for j, (tile, real) in enumerate(zip(tiles, valid, strict=True)):
        guided[j, : tile.sum()] = globalcom2.guidance(seen, places)[0, tile]
        masks[0, j, real] = masks[1, j, : tile.sum()] = keep[tile]  # where they were; where the authors put them
        features[j, : tile.sum()] = file["crop_features"][j, real]
    file.arrays["global_scores_per_crop"] = np.nan_to_num(file["global_scores_per_crop"])
    file.compare("global_scores_per_crop", guided)
    file.compare("crop_keep_mask", masks[0])
    file.compare("ref_placement_mask", masks[1])
    lines = [
        a.reshape(*shape, -1).swapaxes(1, 2).reshape(shape[0] * shape[2], -1, a[0, 0].size)
        for a in (masks[1], features)
    ]
    rows = [np.vstack([f[p[:, 0]], file["image_newline"]]) for p, f in zip(*lines, strict=True)]
    file.compare("ref_output", np.vstack(rows).astype(np.float16).astype(np.float32))
