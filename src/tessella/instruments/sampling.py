"""What every instrument does with its samples: check them, group them by kind, and say how sure a mean is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ..core.errors import InputError
from ..samples import Sample

LEVEL = 0.95
RESAMPLES = 2000
EVERY = "all"  # the name of all kinds together

Advance = Callable[[int, int], None]  # batches done, of how many


def silent(done: int, of: int) -> None:
    """An `Advance` that tells nobody."""


def check_samples(samples: Sequence[Sample]) -> None:
    """Raise InputError without samples, or for one without a picture or a question."""
    if not samples:
        raise InputError("there are no samples; give at least one question about a picture.")
    for number, sample in enumerate(samples):
        if not sample.images:
            raise InputError(f"sample {number} has no picture; instruments look at visual tokens.")
        if not sample.question.strip():
            raise InputError(f"sample {number} has no question; instruments read the model while it answers one.")


def by_kind(samples: Sequence[Sample]) -> dict[str, list[int]]:
    """Numbers of the samples of each kind, in order of first appearance; those without one are of the kind 'other'."""
    out: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        out.setdefault(sample.kind or "other", []).append(number)
    return out


def num_batches(samples: Sequence[Sample], size: int) -> int:
    return -(-len(samples) // size)


def mean_interval(
    values: Float[ndarray, "n *rest"], seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES
) -> tuple[Float[ndarray, "*rest"], Float[ndarray, "*rest"]]:
    """Percentile interval of the mean over the first axis, from resamples of the n samples that all columns share."""
    num = len(values)
    weights = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=resamples) / num
    means = np.tensordot(weights, np.asarray(values, dtype=np.float64), axes=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
