"""How sure a comparison is: a paired bootstrap over questions, with one set of resamples for all settings.

Questions are drawn with replacement within each type; an overall value is the mean over types, all of equal weight. An
interval covers the choice of questions alone: not another training of the model, nor other questions than these types.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from ..core.errors import InputError

LEVEL = 0.95
BLOCK = 4_000_000  # drawn indices held at once

Question = tuple[str, int]  # type and number
Side = Literal["better", "worse", "="]


@dataclass(frozen=True)
class Estimate:
    """A value and its interval `[low, high]` of the given level."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def side(self, margin: float = 0.0) -> Side:
        """`better` or `worse` if the whole interval lies above or below the margin, else `=`."""
        return "better" if self.low > margin else "worse" if self.high < margin else "="

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high, "level": self.level}


@dataclass(frozen=True)
class Draws:
    """A value on the questions asked, and on each of R resamples of them."""

    value: float
    resampled: Float[ndarray, " R"]

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The value with its percentile interval."""
        return Estimate(self.value, *percentile_interval(self.resampled, level), level)


class Bootstrap:
    """Values of S settings on the same Q questions, and on R resamples of them that all settings share.

    `values [S, Q]`: right or wrong (bool) or any number; `questions`: type and number of each column. The order of the
    columns does not matter, nor do the other types to the resamples of one. Raises InputError without questions, for a
    question given twice and for values that are no numbers.
    """

    def __init__(
        self,
        values: Bool[ndarray, "S Q"] | Float[ndarray, "S Q"],
        questions: Sequence[Question],
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        if not len(questions) or len(set(questions)) != len(questions) or values.shape[1] != len(questions):
            raise InputError(
                f"a bootstrap needs values of one or more different questions; got {len(set(questions))} different of "
                f"{len(questions)} questions and {values.shape[1]} values a setting."
            )
        if resamples < 1 or seed < 0:
            raise InputError(f"resamples must be >= 1 and seed >= 0; got resamples={resamples}, seed={seed}.")
        if not np.isfinite(values).all():
            raise InputError("values must be finite; a share of nothing is no value.")
        order = sorted(range(len(questions)), key=questions.__getitem__)
        kinds = np.array([questions[i][0] for i in order])
        self.kinds = tuple(sorted(set(kinds.tolist())))
        self.values, self.seed, self.resamples = values[:, order], seed, resamples
        self._columns = [np.flatnonzero(kinds == kind) for kind in self.kinds]
        self.means = np.stack([self.values[:, c].mean(axis=1) for c in self._columns], axis=1)  # [S, T]
        self.draws = np.stack([self._resample(t) for t in range(len(self.kinds))], axis=1)  # [S, T, R]

    def _resample(self, t: int) -> Float[ndarray, "S R"]:
        values = self.values[:, self._columns[t]]
        rng = np.random.default_rng([self.seed, zlib.crc32(self.kinds[t].encode())])
        out = np.empty((len(values), self.resamples))
        step = max(1, BLOCK // values.shape[1])
        for start in range(0, self.resamples, step):
            weights = resampling_weights(values.shape[1], min(step, self.resamples - start), rng)
            out[:, start : start + len(weights)] = resampled_means(values, weights)
        return out

    def mean(self, setting: int, kinds: Sequence[str] | None = None) -> Draws:
        """A setting's mean over types; `kinds` None: all of them. For bool values this is the accuracy."""
        types = self._types(kinds)
        return Draws(float(self.means[setting, types].mean()), self.draws[setting][types].mean(axis=0))

    def difference(self, first: int, second: int, kinds: Sequence[str] | None = None) -> Draws:
        """First minus second, on the same questions in each resample."""
        a, b = self.mean(first, kinds), self.mean(second, kinds)
        return Draws(a.value - b.value, a.resampled - b.resampled)

    def retention(self, setting: int, full: int, blind: int, kinds: Sequence[str] | None = None) -> Draws | None:
        """(accuracy - blind) / (full - blind): 1 is the full model, 0 is no picture.

        None where full is not clearly better than blind: not above it in every resample.
        """
        gain, whole = self.difference(setting, blind, kinds), self.difference(full, blind, kinds)
        if min(whole.value, whole.resampled.min()) <= 0:
            return None
        return Draws(gain.value / whole.value, gain.resampled / whole.resampled)

    def discordant(self, first: int, second: int) -> tuple[int, int]:
        """Questions of all types that only the first, and that only the second answers correctly."""
        a, b = self.values[first].astype(bool), self.values[second].astype(bool)
        return int((a & ~b).sum()), int((b & ~a).sum())

    def _types(self, kinds: Sequence[str] | None) -> list[int]:
        wanted = self.kinds if kinds is None else tuple(kinds)
        if not wanted or not set(wanted) <= set(self.kinds):
            raise InputError(
                f"types must be one or more of {', '.join(self.kinds)}; got {', '.join(wanted) or 'none'}."
            )
        return [t for t, kind in enumerate(self.kinds) if kind in wanted]


def resampling_weights(num: int, resamples: int, rng: np.random.Generator) -> Float[ndarray, "R n"]:
    """How often each of `num` questions is drawn in each resample of `num` draws."""
    drawn = rng.integers(0, num, (resamples, num)) + num * np.arange(resamples)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=resamples * num).reshape(resamples, num).astype(np.float32)


def resampled_means(values: Float[ndarray, "S n"], weights: Float[ndarray, "R n"]) -> Float[ndarray, "S R"]:
    """Weighted means of each setting. Sums of right and wrong are whole numbers and therefore exact."""
    kind: Any = np.float32 if values.dtype == bool and values.shape[1] < 2**24 else np.float64
    return (values.astype(kind) @ weights.astype(kind).T).astype(np.float64) / values.shape[1]


def percentile_interval(resampled: Float[ndarray, " R"], level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of the resampled values; quantiles between two of them are interpolated."""
    if not 0 < level < 1:
        raise InputError(f"level must be in (0, 1); got {level}.")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson(right: int, asked: int, level: float = LEVEL) -> Estimate | None:
    """A share with Wilson's score interval, which is not empty at 0 and 1; None if nothing was asked."""
    if not asked:
        return None
    z, share = NormalDist().inv_cdf((1 + level) / 2), right / asked
    centre = (share + z * z / (2 * asked)) / (1 + z * z / asked)
    half = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked)) / (1 + z * z / asked)
    # at 0 and 1 the ends are exact; rounding would put them past the share
    low, high = (0.0 if right == 0 else centre - half), (1.0 if right == asked else centre + half)
    return Estimate(share, low, high, level)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test; 1 where the two never differ.

    >>> mcnemar(5, 1)
    0.21875
    """
    num = only_first + only_second
    tail = sum(math.comb(num, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**num)


@dataclass(frozen=True)
class Subset:
    """A setting on chosen questions: how many it answers correctly, pooled over types."""

    right: int
    asked: int
    level: float = LEVEL

    @property
    def estimate(self) -> Estimate | None:
        """The share with Wilson's interval; None for an empty subset."""
        return wilson(self.right, self.asked, self.level)

    def to_dict(self) -> dict[str, Any]:
        estimate = self.estimate
        return {"right": self.right, "asked": self.asked, "share": estimate and estimate.to_dict()}


def hard_subset(full: Bool[ndarray, " Q"], downsample: Bool[ndarray, " Q"]) -> Bool[ndarray, " Q"]:
    """Questions that the full model answers correctly and the down-sampled picture does not."""
    return full & ~downsample


def on_subset(correct: Bool[ndarray, " Q"], subset: Bool[ndarray, " Q"]) -> Subset:
    """A setting's right answers on a subset of the questions."""
    return Subset(int((correct & subset).sum()), int(subset.sum()))


def holm(draws: Sequence[Draws], margin: float = 0.0, level: float = LEVEL) -> list[Estimate]:
    """Estimates whose intervals together are of the given level against a margin; Holm's step-down, upwards.

    The comparison with most evidence above the margin gets the level 1 - (1 - level) / m, the next one
    1 - (1 - level) / (m - 1) and so on; from the first one on that does not lie wholly above the margin, all
    the rest have that one's level.
    """

    def evidence(i: int) -> tuple[float, float]:
        spread = float(draws[i].resampled.std())
        distance = (draws[i].value - margin) / spread if spread else math.copysign(math.inf, draws[i].value - margin)
        return float((draws[i].resampled <= margin).mean()), -distance

    out: dict[int, Estimate] = {}
    left, stopped = len(draws), False
    for i in sorted(range(len(draws)), key=evidence):
        out[i] = draws[i].estimate(1 - (1 - level) / left)
        stopped = stopped or out[i].side(margin) != "better"
        left -= 0 if stopped else 1
    return [out[i] for i in range(len(draws))]
