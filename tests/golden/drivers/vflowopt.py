"""Attention among patches with their colours, for the map; or a map with tokens of a thumbnail and of a local grid."""

from __future__ import annotations

from typing import Any

import torch
from recorded import Golden, negated

from tessella.core.budget import Counts
from tessella.core.layout import THUMBNAIL, Block, Layout
from tessella.core.registry import load_class, make
from tessella.reduction import vflowopt
from tessella.testing import ArrayView

FLIPS = {
    "attention": (ArrayView, "attention_from", negated),
    "entropy": (vflowopt, "patch_entropy", negated),
    "map": (load_class("vflowopt"), "recycle", lambda f: lambda self, scores, *rest: f(self, -scores, *rest)),
}
HELD_BY = {"attention": "vflowopt_importance", "entropy": "vflowopt_importance", "map": "vflowopt_recycle"}


def replay(file: Golden) -> None:
    replay_map(file) if "attention" in file else replay_recycling(file)


def replay_map(file: Golden) -> None:
    colours, patch = torch.as_tensor(file["pixels_uint8"]).float(), int(file.number("patch"))
    rows, columns = (n // patch for n in colours.shape[1:])
    whole = colours[None, :, : rows * patch, : columns * patch]
    view = ArrayView(encoder_attention=file["attention"][None], colours=whole, grids=(rows, columns))
    method: Any = make("vflowopt", threshold=file.number("t"), alpha=file.number("alpha"))
    chosen = []
    view.attention_from(0, lambda received: chosen.append(method.reference_patches(received)) or chosen[-1])
    file.compare("reference_tokens", chosen[0][chosen[0] >= 0])
    file.compare("patch_entropy", vflowopt.patch_entropy(whole, rows, columns).flatten())
    file.compare("importance", method.importance(view)[0])


def replay_recycling(file: Golden) -> None:
    side, rows, columns = (int(file.number(n)) for n in ("base_side", "rows_local", "cols_local"))
    local = [Block(0, rows, columns - 1, tile=1, newlines=True)] if rows else []
    features, scores = (torch.as_tensor(file[n])[None] for n in ("features", "importance"))
    layout = Layout.build([range(features.shape[1])], [[Block(0, side, side, role=THUMBNAIL), *local]])
    view = ArrayView(embeddings=features, layout=layout)
    method: Any = make("vflowopt", ratios=(file.number("keep_ratio"), 1.0, 1.0), side=file.number("grid_a"))
    counts = Counts(layout.num_tokens, layout.num_tokens, asked=False)
    file.compare("n_removed_by_budget", layout.num_tokens[0] - method.left_after(0, counts)[0])
    file.compare("n_recycled_target", method.num_recycled(layout.num_tokens[0]))
    reduction = method.recycle(scores, view, counts)
    file.compare("kept_indices", reduction.keep[0].nonzero()[:, 0])
    file.compare("recycled_positions", (reduction.keep & method.low(scores, view, counts))[0].nonzero()[:, 0])
    file.compare("features_out", reduction.embeddings[0])
    file.compare("importance_out", scores[reduction.keep])
