"""Overlap between methods: how much of what one keeps the others keep too, beside what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from ..core.errors import InputError
from ..core.pipeline import Pipeline
from ..samples import Sample
from .figures import SIZE, Note, add_scale, dress, ink_on, new_figure, show_matrix
from .kept import KeptSets, read_kept
from .sampling import Advance, silent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Overlap:
    """Matrices over `methods`: `jaccard`, shared tokens over all that either keeps, mean over samples; `chance`, what
    two random sets of the same sizes have on average; `shared`, shared tokens over the smaller set. `kept`: tokens kept
    on average, of `num_visual`.
    """

    num: int
    num_visual: float
    methods: tuple[str, ...]
    kept: tuple[float, ...]
    jaccard: tuple[tuple[float, ...], ...]
    shared: tuple[tuple[float, ...], ...]
    chance: tuple[tuple[float, ...], ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_overlap(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    methods: Sequence[str | Pipeline],
    *,
    batch: int = 8,
    advance: Advance = silent,
) -> Overlap:
    """Run the pipelines and compare what they keep; see `read_kept` and `overlap_of`."""
    return overlap_of(read_kept(model, processor, samples, methods, batch=batch, advance=advance))


def overlap_of(sets: KeptSets) -> Overlap:
    """Compare what the pipelines keep. Raises InputError for fewer than two."""
    names = tuple(sets.kept)
    if len(names) < 2:
        raise InputError(f"an overlap is between two methods or more; got {', '.join(names)}.")
    pairs = [[_compare(sets.kept[a], sets.kept[b]) for b in names] for a in names]
    jaccard, shared, chance = (tuple(tuple(p[i] for p in row) for row in pairs) for i in range(3))
    return Overlap(
        num=sets.num,
        num_visual=float(np.mean([len(p.down) for p in sets.places])),
        methods=names,
        kept=tuple(float(np.mean([mask.sum() for mask in sets.kept[name]])) for name in names),
        jaccard=jaccard,
        shared=shared,
        chance=chance,
        left_out=sets.left_out,
    )


def _compare(some: Sequence[Bool[ndarray, " V"]], other: Sequence[Bool[ndarray, " V"]]) -> tuple[float, float, float]:
    """Means over samples of the Jaccard index, of the shared part of the smaller set, and of the index by chance."""
    rows = []
    for a, b in zip(some, other, strict=True):
        both, sizes = int((a & b).sum()), (int(a.sum()), int(b.sum()))
        either = sum(sizes) - both
        rows.append(
            (both / either if either else 1.0, both / min(sizes) if min(sizes) else 1.0, chance_jaccard(len(a), *sizes))
        )
    jaccard, shared, chance = np.mean(rows, axis=0)
    return float(jaccard), float(shared), float(chance)


@lru_cache(maxsize=4096)
def chance_jaccard(num: int, first: int, second: int) -> float:
    """The mean Jaccard index of two random sets of so many of `num` tokens.

    >>> chance_jaccard(4, 4, 2), round(chance_jaccard(2, 1, 1), 3), round(chance_jaccard(196, 49, 49), 3)
    (0.5, 0.5, 0.144)
    """
    if first + second == 0:
        return 1.0
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num + 1)))])  # their logarithms

    def ways(of: int, taken: Int[ndarray, " m"]) -> Float[ndarray, " m"]:
        return factorials[of] - factorials[taken] - factorials[of - taken]

    both = np.arange(max(0, first + second - num), min(first, second) + 1)
    odds = np.exp(ways(first, both) + ways(num - first, second - both) - ways(num, np.array(second)))
    return float((both / (first + second - both) * odds).sum())


def draw_overlap(overlap: Overlap) -> Figure:
    """The matrix of Jaccard indices with its numbers; below each the chance level."""
    names, values = overlap.methods, np.array(overlap.jaccard)
    side = 1.2 + 0.68 * len(names)
    figure = new_figure(min(side + 0.9, 9.5), min(side, 8.5))
    axes = figure.subplots()
    image = show_matrix(axes, values, 0, 1)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    for row in ticks:
        for column in ticks:
            value, colour = values[row, column], ink_on(values[row, column], 0, 1)
            axes.text(column, row - 0.1, f"{value:.2f}", ha="center", va="center", fontsize=SIZE, color=colour)
            if row != column:
                chance = f"chance {overlap.chance[row][column]:.2f}"
                axes.text(column, row + 0.2, chance, ha="center", va="center", fontsize=SIZE - 2, color=colour)
    dress(axes)
    add_scale(figure, image, [axes], "Jaccard index")
    return figure


def explain_overlap(overlap: Overlap) -> Note:
    """The words beside the figure."""
    count = len(overlap.methods)
    pairs = [(a, b) for a in range(count) for b in range(a)]
    excess = {p: overlap.jaccard[p[0]][p[1]] - overlap.chance[p[0]][p[1]] for p in pairs}
    words = []
    for pair, what in ((max(pairs, key=excess.__getitem__), "most"), (min(pairs, key=excess.__getitem__), "least")):
        first, second = sorted(pair)
        words.append(
            f"{overlap.methods[first]} and {overlap.methods[second]} have {what} in common, measured against chance: "
            f"{overlap.jaccard[first][second]:.2f}, where random sets of these sizes have "
            f"{overlap.chance[first][second]:.2f}."
        )
    words += [f"{method} is left out: {reason}." for method, reason in overlap.left_out.items()]
    return Note(
        title="Overlap between methods",
        seen=" ".join(words),
        how=(
            f"The visual tokens left behind the last cut of each method on {overlap.num} samples: those that both keep "
            "over those that either keeps, averaged over samples. Chance is the exact mean for two random sets of the "
            "same sizes."
        ),
        limits=(
            "Two methods with nothing in common may serve equally well, since neighbouring tokens show nearly the "
            "same; the index counts a token's neighbour as a miss. Of methods that merge, the tokens that stay are "
            "counted, not what went into them."
        ),
        alt=f"A matrix of Jaccard indices between {', '.join(overlap.methods)}.",
    )
