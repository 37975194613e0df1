"""ZOO-Prune: keep tokens whose small changes the connector amplifies, and that differ from those already kept.

Paper    Kim et al., September 2025, CVPR 2026, arXiv:2509.24837
Acts     connector, once
Needs    encoder features, the connector as a function, and its output
Differs  perturbed features pass the connector in float32, where the authors' code rounds them to float16, and every
         picture of a batch is perturbed. Directions come from a seed and are the same in every call. Sensitivities
         that differ by rounding alone (at most 1e-5 of the largest, as under a linear connector) count as equal.
         An image's count is divided over its crops, where the authors round each crop's down: that is scope `tile`.
         Newlines all stay on top of the count, as in the authors' code, and the report counts them. A merger of
         several patches a token is perturbed as a whole, in one direction of their joint width. The authors' low-rank
         connector is left out. `estimator="jvp"` is the limit of small steps, without their rounding: to be preferred
         where the connector is linear and features are large, as rounding may then differ by more than 1e-5.
         2 x 64 passes of all tokens through the connector are about the work of a prefill of 200 tokens of a 7B model
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import ScoredSelector
from ..core.errors import MethodError
from ..core.registry import register
from ..core.view import View
from ..ops.greedy import farthest_first
from ..ops.similarity import normalize

ESTIMATORS = ("difference", "jvp")
FLAT = 1e-5  # sensitivities that differ by less than this share of the largest are equal
BLOCK_ELEMENTS = 2**24  # perturbed features, or answers to them, at once: 64 MiB of float32


@register
@dataclass(frozen=True)
class ZOOPrune(ScoredSelector):
    num_directions: int = 64  # m
    step: float = 0.01  # h
    estimator: str = "difference"  # of each direction's derivative: "difference" of two passes, or exact, "jvp"
    seed: int = 0

    card = Card(
        title="ZOO-Prune",
        paper="2509.24837",
        year=2025,
        stages=("connector",),
        needs=("features", "connector"),
        rounding="floor",
        rounding_source="int(ratio * N) in the authors' code",
        cost="heavy",
        newlines="keep",
        nearest="divprune",
    )

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise MethodError(f"zoo_prune: estimator must be one of {', '.join(ESTIMATORS)}; got {self.estimator!r}.")
        if self.num_directions < 1:
            raise MethodError(f"zoo_prune: num_directions must be >= 1; got {self.num_directions}.")
        if not self.step > 0:
            raise MethodError(f"zoo_prune: step must be > 0; got {self.step}.")

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Sensitivity: mean length of the connector's answer to a step in a random direction, per unit of the step."""
        features = view.features().float()
        raw = gaussians(self.num_directions, features.shape[2], self.seed, features.device)
        block = max(1, BLOCK_ELEMENTS // max(1, view.mask.numel() * max(raw.shape[1], view.tokens.embeddings.shape[2])))
        total = torch.zeros(view.mask.shape, device=features.device)
        for directions in normalize(raw[None])[0].split(block):
            total += self.answers(view, features, directions).norm(dim=3).sum(dim=0)
        return total / self.num_directions

    def answers(
        self, view: View, features: Float[Tensor, "B V Ce"], directions: Float[Tensor, "M Ce"]
    ) -> Float[Tensor, "M B V C"]:
        """Derivatives of the connector at every token along each direction."""

        def connector(points: Float[Tensor, "*n V Ce"]) -> Float[Tensor, "*n V C"]:
            out = view.connector(points.flatten(end_dim=-3), precise=True)
            return out.reshape(*points.shape[:-1], out.shape[-1])

        def derivative(direction: Float[Tensor, " Ce"]) -> Float[Tensor, "B V C"]:
            return torch.func.jvp(connector, (features,), (direction.expand_as(features),))[1]

        if self.estimator == "jvp":
            with warnings.catch_warnings():  # torch's forward mode loads its rules by torch.jit, which it deprecates
                warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
                return torch.func.vmap(derivative)(directions)
        steps = self.step * directions[:, None, None]
        return (connector(features + steps) - connector(features - steps)) / (2 * self.step)

    def choose(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """Greedily the token with the largest product of weight and distance to the nearest one taken before.

        The first is the token of highest score. Distance is 1 - cosine between projected tokens.
        """
        unit = normalize(view.tokens.embeddings)
        return farthest_first(unit, counts.num_keep, view.mask, weight=weights(scores, view))


def weights(scores: Float[Tensor, "B V"], view: View) -> Float[Tensor, "B V"]:
    """Scores of each item stretched to [0, 1]; ones where they are all equal, or nearly so."""
    scores = scores.float()
    least = scores.masked_fill(~view.mask, torch.inf).amin(dim=1, keepdim=True)
    most = scores.masked_fill(~view.mask, -torch.inf).amax(dim=1, keepdim=True)
    stretched = (scores - least) / (most - least + 1e-8)
    return torch.where(most - least <= FLAT * most.abs(), 1.0, stretched)


@lru_cache(maxsize=8)
def gaussians(count: int, width: int, seed: int, device: torch.device) -> Float[Tensor, "{count} {width}"]:
    """Standard normal vectors that depend on the seed and their sizes only; the same tensor in every call."""
    with torch.inference_mode(mode=False):
        return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(device)
