"""How all figures look: readable in grey, without colours that carry meaning, drawn without pyplot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ..core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, RULE = "#1c1e24", "#5c616d", "#e4e6ea"
BLUE, RUST, PALE = "#1f5a99", "#b4541a", "#a5bcd8"  # dark, middle and light in grey too
SIZE = 8.5  # points of ordinary text
DPI = 192  # pixels an inch: twice what a page shows


@dataclass(frozen=True)
class Note:
    """What stands beside a figure: a title, what is seen, how it was measured, what it does not show, and in words."""

    title: str
    seen: str
    how: str
    limits: str
    alt: str


def check_matplotlib() -> None:
    """Raise InputError where figures cannot be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError(
            "figures are drawn with matplotlib, which is not installed; install the extra: "
            "pip install 'tessella[diagnose]'. Without --html no figure is drawn."
        ) from None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, with room kept around what is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Words and a quiet frame for one panel."""
    if title:
        axes.set_title(title, fontsize=SIZE + 0.5, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=SIZE, color=SOFT)
    axes.set_ylabel(y, fontsize=SIZE, color=SOFT)
    axes.tick_params(labelsize=SIZE - 1, colors=SOFT, length=2.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)


def add_legend(figure: Figure, axes: Sequence[Axes], columns: int = 4) -> None:
    """One legend below all panels, of whatever any of them shows."""
    found = {text: handle for a in axes for handle, text in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(
        found.values(),
        found.keys(),
        loc="outside lower center",
        ncols=columns,
        fontsize=SIZE - 0.5,
        frameon=False,
        labelcolor=INK,
        handlelength=2.8,
    )


def show_matrix(axes: Axes, values: Float[ndarray, "R C"], low: float, high: float) -> Any:
    """Values as greys, white for `low` and dark for `high`; returns what a colour bar is made of."""
    shown = np.ma.masked_invalid(np.asarray(values, dtype=np.float64))
    image = axes.imshow(shown, cmap=_greys(), vmin=low, vmax=high, interpolation="nearest", aspect="equal")
    axes.tick_params(labelsize=SIZE - 1, colors=SOFT, length=0)
    for spine in axes.spines.values():
        spine.set_color(SOFT)
    return image


def add_scale(figure: Figure, image: Any, axes: Sequence[Axes], label: str) -> None:
    """The one grey scale of several panels."""
    bar = figure.colorbar(image, ax=list(axes), fraction=0.03, pad=0.02)
    bar.set_label(label, fontsize=SIZE, color=SOFT)
    bar.ax.tick_params(labelsize=SIZE - 1, colors=SOFT, length=2.5)
    bar.outline.set_edgecolor(SOFT)


def ink_on(value: float, low: float, high: float) -> str:
    """Black or white, whichever can be read on the grey of a value."""
    return "white" if high > low and (value - low) / (high - low) > 0.55 else INK


def to_png(figure: Figure) -> bytes:
    """The figure as a picture file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _greys() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    greys = LinearSegmentedColormap.from_list("greys", ["#ffffff", "#2a2d35"])
    return greys.with_extremes(bad="#f1e7dc")
