"""One query and the keys of every visual token, for both cuts; the second sees what the first has kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from recorded import Golden, negated

from tessella.core.budget import Counts
from tessella.core.layout import Layout
from tessella.core.registry import load_class, make
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info

FLIPS = {"attention": (load_class("feather"), "score", negated)}


def replay(file: Golden) -> None:
    query, there = torch.as_tensor(file["q_last"])[None, :, None], int(file.number("n_img"))
    pairs = []
    for stage in (1, 2):
        key = torch.as_tensor(file[f"k_img_stage{stage}"]).transpose(0, 1)[None]
        key = torch.nn.functional.pad(key, (0, 0, 0, 1))  # the last token stands behind the picture
        pairs.append((query.expand(-1, -1, there + 1, -1), key))
    side = math.isqrt(there)
    method: Any = make("feather", rho=file.number("keep_ratio"), stride=int(file.number("stride")))
    layout = Layout.single(1, side, side)
    for stage, pair, step in zip((1, 2), pairs, method.steps(default_info(), None), strict=True):
        view = ArrayView(projection=pair, embeddings=torch.zeros(1, there, 1), layout=layout)
        file.compare(f"score_stage{stage}", method.score(view, step.at_layer - 1)[0])
        counts = Counts(layout.num_tokens, layout.num_tokens, asked=False)
        kept = step.reduce(view, counts).keep.nonzero()[None, :, 1]
        layout = layout.gather(kept, (0,))
        file.compare(f"kept_stage{stage}", layout.slot[0])
