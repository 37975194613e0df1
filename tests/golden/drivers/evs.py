"""Embeddings of a clip after merging; the count is the authors' expression, floating point and all."""

from __future__ import annotations

import torch
from recorded import Golden, negated

from tessella.core.budget import Counts
from tessella.core.layout import Block, Layout
from tessella.core.registry import make
from tessella.reduction import evs
from tessella.testing import ArrayView

FLIPS = {"dissimilarity": (evs, "dissimilarity", negated)}


def replay(file: Golden) -> None:
    frames, rows, columns = file["thw"].tolist()
    merge = int(file.number("spatial_merge"))
    blocks = [Block(0, rows // merge, columns // merge, frame=f) for f in range(frames)]
    size = sum(b.num_tokens for b in blocks)
    view = ArrayView(embeddings=file["video_embeds"][None], layout=Layout.build([range(size)], [blocks]))
    asked = int(size * (1 - file.number("prune_rate")))  # where it is less than a frame, the method keeps the first
    keep = make("evs").reduce(view, Counts((max(asked, 1),), (size,))).keep
    file.compare("retention_mask", torch.as_tensor(keep)[0])
