"""Maps of which regions of the picture each method drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from ..core.pipeline import Pipeline
from ..samples import Sample
from .figures import SIZE, SOFT, Note, add_scale, new_figure, show_matrix
from .kept import KeptSets, Places, read_kept
from .sampling import Advance, silent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 24  # rows or columns of a map
RELATIVE = 12  # of a map of pictures with different grids


@dataclass(frozen=True)
class Region:
    """How often a method drops the tokens of each cell, from 0 to 1; None for cells in which no token lies.

    `top`, `bottom`, `left`, `right`: share dropped in each half; `border`: in the outermost eighth on any side.
    """

    method: str
    dropped: tuple[tuple[float | None, ...], ...]
    mean: float
    top: float
    bottom: float
    left: float
    right: float
    border: float


@dataclass(frozen=True)
class Regions:
    """Maps of one shape for all methods; `is_relative`: cells are shares of pictures, whose grids differed."""

    num: int
    rows: int
    columns: int
    is_relative: bool
    methods: tuple[Region, ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_regions(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    methods: Sequence[str | Pipeline],
    *,
    batch: int = 8,
    advance: Advance = silent,
) -> Regions:
    """Run the pipelines and map what they drop; see `read_kept` and `regions_of`."""
    return regions_of(read_kept(model, processor, samples, methods, batch=batch, advance=advance))


def regions_of(sets: KeptSets) -> Regions:
    """Map what the pipelines drop, on the pictures' own grid if it is one and small enough."""
    grids = {place.grid for place in sets.places}
    own = next(iter(grids)) if len(grids) == 1 else None
    is_relative = own is None or max(own) > LARGEST
    rows, columns = (RELATIVE, RELATIVE) if own is None or is_relative else own
    return Regions(
        num=sets.num,
        rows=rows,
        columns=columns,
        is_relative=is_relative,
        methods=tuple(_map(name, masks, sets.places, rows, columns) for name, masks in sets.kept.items()),
        left_out=sets.left_out,
    )


def _map(
    method: str, masks: Sequence[Bool[ndarray, " V"]], places: Sequence[Places], rows: int, columns: int
) -> Region:
    patch = np.concatenate([p.is_patch for p in places])
    down, across = (np.concatenate([getattr(p, n) for p in places])[patch] for n in ("down", "across"))
    dropped = ~np.concatenate(masks)[patch]
    cell = (down * rows).astype(int) * columns + (across * columns).astype(int)
    there = np.bincount(cell, minlength=rows * columns).astype(float)
    gone = np.bincount(cell, weights=dropped, minlength=rows * columns)
    share = np.divide(gone, there, out=np.full_like(gone, np.nan), where=there > 0).reshape(rows, columns)
    edge = 1 / 8
    outside = (np.minimum(down, across) < edge) | (np.maximum(down, across) > 1 - edge)
    return Region(
        method=method,
        dropped=tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in share),
        mean=float(dropped.mean()),
        top=_mean(dropped[down < 0.5]),
        bottom=_mean(dropped[down > 0.5]),
        left=_mean(dropped[across < 0.5]),
        right=_mean(dropped[across > 0.5]),
        border=_mean(dropped[outside]),
    )


def _mean(values: Bool[ndarray, " n"]) -> float:
    return float(values.mean()) if len(values) else 0.0


def draw_regions(regions: Regions) -> Figure:
    """One map a method on one grey scale: dark is dropped often."""
    count = len(regions.methods)
    columns = min(4, count)
    rows = -(-count // columns)
    tall = min(2.0, max(0.5, regions.rows / regions.columns))
    figure = new_figure(1.0 + 1.85 * columns, rows * (0.35 + 1.75 * tall))
    panels = figure.subplots(rows, columns, squeeze=False)
    image = None
    for number, axes in enumerate(panels.flat):
        if number >= count:
            axes.set_visible(False)
            continue
        region = regions.methods[number]
        image = show_matrix(axes, as_matrix(region), 0, 1)
        axes.set_title(f"{region.method}\n{region.mean:.0%} dropped", fontsize=SIZE - 0.5, color=SOFT, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
    add_scale(figure, image, panels.flat, "share dropped")
    return figure


def as_matrix(region: Region) -> Float[ndarray, "R C"]:
    """The map as numbers, NaN where no token lies."""
    return np.array([[np.nan if v is None else v for v in row] for row in region.dropped])


def explain_regions(regions: Regions) -> Note:
    """The words beside the figure."""
    words = []
    for region in regions.methods:
        spread = np.nanstd(as_matrix(region))
        words.append(
            f"{region.method}: top half {region.top:.0%}, bottom half {region.bottom:.0%}, border {region.border:.0%} "
            f"dropped (deviation over cells {spread:.2f})."
        )
    words += [f"{method} is left out: {reason}." for method, reason in regions.left_out.items()]
    grid = f"{regions.rows} x {regions.columns} cells"
    cells = f"{grid}, shares of pictures of different or large grids" if regions.is_relative else f"{grid}, one a token"
    return Note(
        title="Regions that are dropped",
        seen=" ".join(words),
        how=(
            f"For each method the share of {regions.num} samples in which the token of a cell is gone behind the last "
            f"cut; {cells}. White is kept always, dark is dropped always; all maps have one scale. The border is the "
            "outermost eighth on each side."
        ),
        limits=(
            "A map averages over pictures: an even grey may hide methods that choose sharply in each of them. Where "
            "subjects of the data lie in the middle, dropping the border is no bias. Tiles outside a mosaic count as "
            "pictures of their own."
        ),
        alt=f"Grey maps of the share dropped, one for each of {', '.join(r.method for r in regions.methods)}.",
    )
