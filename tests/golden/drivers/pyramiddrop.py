"""Hidden states in front of each cut, and the next layer's norm and projections, as its rotated queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from recorded import Golden, negated
from torch.nn.functional import rms_norm

from tessella.core.budget import Counts
from tessella.core.layout import Layout
from tessella.core.registry import load_class, make
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info

FLIPS = {"attention": (load_class("pyramiddrop"), "score", negated)}


def replay(file: Golden) -> None:
    first, there, behind = (int(file.number(n)) for n in ("n_sys", "n_img", "n_text"))
    ratios = tuple(float(str(r)) for r in file["ratios"])  # the decimals that were stored in float32
    method: Any = make("pyramiddrop", layers=tuple(range(1, len(ratios) + 1)), ratios=ratios)
    sequence, position = torch.arange(first + there + behind), torch.arange(first + there + behind)
    for stage, step in enumerate(method.steps(default_info(), None)):
        visual = len(sequence) - first - behind
        layout = Layout.single(1, 1, visual, first)
        hidden = torch.as_tensor(file[f"hidden_stage{stage}"])
        projection = projected(file, stage, hidden, position)
        view = ArrayView(projection=projection, embeddings=hidden, layout=layout, at_layer=step.at_layer)
        kept = step.reduce(view, Counts((visual,), (visual,), asked=False, num_first=(there,))).keep[0]
        stay = torch.nn.functional.pad(kept, (first, behind), value=True).nonzero()[:, 0]
        sequence, position = sequence[stay], torch.arange(len(stay))
        assert method.card.positions == "compact"
        file.compare(f"kept_local_stage{stage}", stay)
        file.compare(f"kept_original_stage{stage}", sequence)
        file.compare(f"position_ids_after_stage{stage}", position[None])


def projected(file: Golden, stage: int, hidden: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries and keys `[1, H, S, D]`, each half of a head turned against the other by its place."""
    width = hidden.shape[2] // int(file.number("num_heads"))
    turns = file.number("rope_theta") ** -(torch.arange(0, width, 2) / width)
    angle = (position[:, None] * turns).repeat(1, 2)
    norm = torch.as_tensor(file[f"norm_w{stage}"])
    normed = rms_norm(hidden, norm.shape, norm, file.number("rms_eps"))
    out = []
    for name in ("Wq", "Wk"):
        heads = (normed @ torch.as_tensor(file[f"{name}{stage}"]).T).unflatten(2, (-1, width)).transpose(1, 2)
        one, other = heads.chunk(2, dim=3)
        out.append(heads * angle.cos() + torch.cat([-other, one], dim=3) * angle.sin())
    return tuple(out)
