"""Fit `at_layer` of information_horizon: the layer from which on the answers no longer need the visual tokens.

Paper    Wang et al., CVPR 2026, arXiv:2512.07580; the answer's probability with no visual token left in place of its
         change by each token alone, which takes as many readings as there are tokens
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.budget import Budget
from ..core.contracts import Method
from ..core.errors import InputError
from ..models.adapter import find_adapter
from ..samples import Sample
from .job import Fit, Job
from .withdrawing import withdraw

MIN_SAMPLES = 16
OPTIONS = ("eps",)
EPS = 0.01  # change of a probability that counts as none


@dataclass(frozen=True)
class Curve:
    """Change of the answers' probabilities over samples, by the layer in front of which all visual tokens leave."""

    size: Float[Tensor, " L"]  # mean of the absolute change
    std: Float[Tensor, " L"]

    @classmethod
    def of(cls, changes: Float[Tensor, "n L"]) -> Curve:
        return cls(changes.abs().mean(dim=0), changes.std(dim=0, correction=0))

    def horizon(self, eps: float) -> int | None:
        """The first layer from which on mean and deviation stay below eps; None if they do not in the last one.

        >>> flat = torch.zeros(4)
        >>> Curve(torch.tensor([0.5, 0.02, 0.001, 0.0]), flat).horizon(0.01), Curve(flat + 0.5, flat).horizon(0.01)
        (2, None)
        """
        wrong = ((self.size >= eps) | (self.std >= eps)).tolist()
        return next((i for i, _ in enumerate(wrong) if not any(wrong[i:])), None)

    def as_evidence(self, eps: float) -> dict[str, Any]:
        return {"horizon": self.horizon(eps), "mean": tuple(self.size.tolist()), "std": tuple(self.std.tolist())}


def fit(method: Method, job: Job) -> Fit:
    """The horizon of all samples together, behind the cuts of the wrapped method; the curves of each kind beside it.

    Raises InputError for samples that have no picture, need none, or need it to the last layer.
    """
    eps = job.options.get("eps", EPS)
    if not (isinstance(eps, int | float) and 0 < eps < 1):
        raise InputError(f"eps is a change of a probability in (0, 1); got {eps!r}.")
    blank = next((n for n, s in enumerate(job.samples) if not s.images), None)
    if blank is not None:
        raise InputError(f"sample {blank} has no picture; the horizon is where pictures stop to matter.")
    changes, num_own = measure(job)
    curve = Curve.of(changes)
    horizon, last = curve.horizon(eps), changes.shape[1] - 1
    if horizon == 0:
        raise InputError(
            f"these {len(changes)} questions need no picture: without any visual token the answers' probabilities "
            f"change by {curve.size[0]:.2g} on average, less than eps={eps}. Give questions about what can be seen."
        )
    if horizon is None:
        raise InputError(
            f"there is no horizon for eps={eps}: visual tokens that leave in front of the last layer, {last}, change "
            f"the answers' probabilities by {curve.size[last]:.2g} on average, with a deviation of "
            f"{curve.std[last]:.2g}. Give a larger eps."
        )
    at_layer = max(horizon, first_layer_behind(method.method, job))  # type: ignore[attr-defined]
    evidence = {
        "eps": eps,
        "own_answers": num_own,
        "all": {"num": len(changes), **curve.as_evidence(eps)},
        "kinds": {
            kind: {"num": len(rows), **Curve.of(changes[rows]).as_evidence(eps)}
            for kind, rows in rows_by_kind(job.samples).items()
        },
    }
    return Fit({"at_layer": at_layer}, evidence)


def measure(job: Job) -> tuple[Float[Tensor, "n L"], int]:
    """For each sample and layer, by how much the answer's probability changes where no visual token goes further.

    And of how many samples the answer is the model's own; see `withdraw`.
    """
    depth = find_adapter(job.model).info.num_layers
    of, done = -(-len(job.samples) // job.batch) * depth, itertools.count(1)
    rows, num_own = [], 0
    for withdrawal in withdraw(job.model, job.processor, job.samples, job.batch, lambda: job.advance(next(done), of)):
        rows.append(withdrawal.change.double())
        num_own += withdrawal.num_own
    return torch.cat(rows), num_own


def rows_by_kind(samples: Sequence[Sample]) -> dict[str, list[int]]:
    """Numbers of the samples of each kind that is named, by name."""
    kinds = sorted({s.kind for s in samples if s.kind is not None})
    return {kind: [n for n, s in enumerate(samples) if s.kind == kind] for kind in kinds}


def first_layer_behind(method: Method, job: Job) -> int:
    """The first decoder layer behind all cuts of a method."""
    card = method.card
    budget = Budget(1.0) if card.takes_keep and card.count != "adaptive" else None
    return 1 + max(step.at_layer for step in method.steps(find_adapter(job.model).info, budget))
