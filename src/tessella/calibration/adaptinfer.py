"""AdaptInfer: fits `layers` to where attention from text to the image changes with depth.

Summed up layer by layer, the attention of the text behind the pictures to them makes a curve, and that is fitted by a
line with as many knots as the method has cuts, three by default, with least squares: behind each layer at a knot tokens
are dropped. The paper does not say how it finds its layers; this rule is ours. It reads about 1000 samples.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.contracts import Method
from ..core.errors import InputError, UnsupportedError
from ..core.progressive import Progressive
from ..core.view import View
from ..core.watching import Watch
from ..engine.apply import reduce
from ..models.adapter import find_adapter
from ..samples import batches
from .job import Fit, Job

MIN_SAMPLES = 16


def fit(method: Method, job: Job) -> Fit:
    """Layers to cut in front of, each just behind a knot, and the attention by layer that they rest on.

    Raises UnsupportedError for a model with fewer layers than the curve needs, InputError where no sample has a picture
    with text behind it.
    """
    assert isinstance(method, Progressive)
    num_layers, num_knots = find_adapter(job.model).info.num_layers, len(method.layers)
    if num_layers < num_knots + 2:
        raise UnsupportedError(
            f"adaptinfer: {num_knots} knots inside a curve need {num_knots + 2} layers; this model has {num_layers}."
        )
    mass = measured(job, num_layers)
    knots = fitted_knots(np.cumsum(mass), num_knots)
    evidence: dict[str, Any] = {"text_to_image": [round(float(m), 6) for m in mass], "knots": list(knots)}
    return Fit({"layers": tuple(knot + 1 for knot in knots)}, evidence)


def measured(job: Job, num_layers: int) -> Float[np.ndarray, " L"]:
    """Share of the attention of text that goes to the pictures in front of it, mean over samples that have both."""
    total, items = torch.zeros(num_layers, dtype=torch.float64), 0

    def see(view: View, layer: int) -> None:
        nonlocal items
        share = text_to_image(view, layer).cpu().double()
        there = share >= 0
        total[layer] += share[there].sum()
        items += int(there.sum()) * (layer == 0)

    done = 0
    with reduce(job.model, Watch(see, tuple(range(num_layers)))), torch.no_grad():
        for some, inputs in batches(job.model, job.processor, job.samples, job.batch):
            job.model(**inputs, logits_to_keep=1)
            done += len(some)
            job.advance(done, len(job.samples))
    if not items:
        raise InputError(
            f"adaptinfer measures attention of text to pictures in front of it; none of the {len(job.samples)} samples "
            "has both."
        )
    return (total / items).numpy()


def text_to_image(view: View, layer: int) -> Float[Tensor, " B"]:
    """Attention to all visual tokens of the text behind the last of them, mean over that text and heads; -1 without."""
    behind = view.places("text") > view.places("visual").amax(dim=1, keepdim=True)
    total = torch.zeros(len(behind), device=view.device)
    for start, rows in view.attention_in_blocks(layer, "text", "visual"):
        asking = behind[:, start : start + rows.shape[2]]
        given = rows.masked_fill(~view.mask[:, None, None], 0).sum(dim=3).mean(dim=1)
        total += (given * asking).sum(dim=1)
    num_text = behind.sum(dim=1)
    return torch.where(num_text > 0, total / num_text.clamp(min=1), -1.0)


def fitted_knots(curve: Float[np.ndarray, " L"], num_knots: int) -> tuple[int, ...]:
    """The knots, ascending, of the piecewise linear curve nearest to one given, the first ones among equals.

    All sets of points between the ends are tried; the curve is free in between, but does not jump.

    >>> fitted_knots(np.array([0.0, 1.0, 2.0, 5.0, 8.0, 8.0, 8.0]), 2)
    (2, 4)
    """
    x = np.arange(len(curve))
    hinges = np.maximum(x[:, None] - x[1:-1], 0).astype(float)  # what bends a line at each point
    line, _ = np.linalg.qr(np.stack([np.ones(len(x)), x], axis=1))
    bends, rest = (v - line @ (line.T @ v) for v in (hinges, curve))
    sets = np.array(list(combinations(range(len(x) - 2), num_knots)))
    gram, moment = (bends.T @ bends)[sets[:, :, None], sets[:, None, :]], (bends.T @ rest)[sets]
    explained = (moment * np.linalg.solve(gram, moment[:, :, None])[:, :, 0]).sum(axis=1)
    first = int(np.argmax(explained >= explained.max() - 1e-12 * (curve @ curve)))
    return tuple(int(knot) for knot in sets[first] + 1)
