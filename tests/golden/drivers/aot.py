"""Anchors and rows of whole frames, and tokens of short clips with those that are kept of each frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recorded import Golden, negated

from tessella.core.layout import Block, Layout
from tessella.core.registry import load_class, make
from tessella.reduction import aot
from tessella.testing import ArrayView

UNUSED = {"scaling"}


def negated_at(number: int) -> Any:
    """The anchors' choice by one of the two layers with the sign of its attention flipped."""

    def change(function: Any) -> Any:
        return lambda self, *args: function(self, *[-a if i == number else a for i, a in enumerate(args)])

    return change


FLIPS = {
    "shallow": (load_class("aot"), "anchors", negated_at(0)),
    "deep": (load_class("aot"), "anchors", negated_at(1)),
    "cost within": (aot, "cosine_similarity", negated),
    "cost between": (aot, "change", negated),
}
HELD_BY = {"shallow": "aot_intra", "deep": "aot_intra", "cost within": "aot_intra", "cost between": "aot_inter"}


def replay(file: Golden) -> None:
    within(file) if "projected" in file else between(file)


def within(file: Golden) -> None:
    rows, budget = torch.as_tensor(file["projected"]), int(file.number("budget"))
    method: Any = make("aot", budget_per_frame=budget, global_share=file.number("global_ratio"))
    side = int(rows.shape[1] ** 0.5)
    layout = Layout.single(len(rows), side, side)
    shallow, deep = (torch.as_tensor(file[f"attn_{n}"]) for n in ("shallow", "deep"))
    anchors = method.anchors(shallow, deep, layout, [budget] * len(rows))
    file.compare("keep_mask", anchors)
    file.compare("output", method.within_frames(rows, anchors, layout, [0] * len(rows), budget))


def between(file: Golden) -> None:
    frames, kept = torch.as_tensor(file["frames"]), torch.as_tensor(file["frame_masks"])
    count, size = kept.shape
    layout = Layout.build([range(kept.numel())], [[Block(0, 1, size, frame=f) for f in range(count)]])
    clips = [range(start, start + length) for start, length in file["segments"].tolist()]
    method: Any = make("aot", keep_ratio=file.number("keep_ratio"))
    _, alone, _ = method.transported(frames, kept, clips)
    later = [f for clip in clips for f in clip[1:]]
    stays = [alone[f][kept[f]].numpy() for f in later]
    width = file["keep_masks_nonanchor"].shape[1]
    file.compare("keep_masks_nonanchor", np.stack([np.pad(s, (0, width - len(s))) for s in stays]))
    file.compare("keep_mask_len", np.array([len(s) for s in stays]))
    view = ArrayView(embeddings=frames.flatten(0, 1)[None], layout=layout)
    file.compare("output", method.between_frames(frames, kept, clips, layout.split("tile"), view).embeddings[0])
