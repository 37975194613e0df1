"""Probabilities of frames and their tokens; counts with and without cap, grids and tokens of four resizers."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

import torch
from recorded import Golden, negated

from tessella.core.registry import make
from tessella.ops import matching
from tessella.reduction.quota import Quota


def reversed_weights(function: Callable[..., Any]) -> Callable[..., Any]:
    """The most relevant frame as the least; a sign would go out with the sum of the weights."""
    return lambda *given: [max(function(*given)) + 1 - w for w in function(*given)]


FLIPS = {"relevance": (Quota, "weights", reversed_weights), "similarity": (matching, "cosine_similarity", negated)}


def replay(file: Golden) -> None:
    frames = torch.from_numpy(file["features"])
    side, sizes = isqrt(frames.shape[1]), [frames.shape[1]] * len(frames)
    budget = int(file.number("total")) * int(file.number("max_token"))
    pixels = torch.zeros(3, 1, 1)
    for version in ("v1", "v2", "v3", "v4"):
        method: Any = make("quota", resizer=version)
        scores = file["frame_prob"].astype(float).tolist()
        file.compare("weights_after_scale", method.weights(scores))
        counts = method.counts(scores, sizes, budget)
        file.compare("tokens_per_frame_v1" if version == "v1" else "tokens_per_frame_capped", counts)
        made = [method.resized(f, side, side, n, pixels) for f, n in zip(frames, counts, strict=True) if n]
        shown = [(g.rows, g.columns) if version < "v3" else g.rows * g.columns for g in made]
        file.compare(f"{version}_hw" if version < "v3" else f"{version}_n", shown)
        file.compare(f"{version}_out", torch.cat([g.tokens for g in made]))
