"""The information horizon: from which decoder layer on the answer no longer needs the visual tokens.

Paper    All You Need Are Random Visual Tokens? (CVPR 2026)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from ..calibration.information_horizon import EPS
from ..calibration.withdrawing import withdraw
from ..core.errors import InputError
from ..samples import Sample
from .figures import BLUE, PALE, RULE, RUST, SOFT, Note, add_legend, dress, new_figure
from .sampling import EVERY, Advance, by_kind, check_samples, mean_interval, num_batches, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class KindHorizon:
    """One kind of question; tuples have an entry for each layer in front of which all visual tokens left.

    `change`: mean change of the answer's probability, with the interval `low` to `high`; `size`: mean of its absolute
    value; `std`: its deviation over samples; `right`: share of first tokens that are the answer's, `right_full` with
    every token. `horizon`: the first layer from which on size and deviation stay below eps, the depth if there is
    none; `answer_horizon`: the same for right answers within eps of the full model's.
    """

    kind: str
    num: int
    change: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    size: tuple[float, ...]
    std: tuple[float, ...]
    right: tuple[float, ...]
    right_full: float
    probability_full: float
    horizon: int
    answer_horizon: int


@dataclass(frozen=True)
class Horizon:
    """Horizons of all samples together and of each kind; of `num_own` samples the answer was the model's own."""

    eps: float
    num_layers: int
    num: int
    num_own: int
    overall: KindHorizon
    kinds: tuple[KindHorizon, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_horizon(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    *,
    eps: float = EPS,
    batch: int = 8,
    seed: int = 0,
    advance: Advance = silent,
) -> Horizon:
    """Take all visual tokens away in front of each layer in turn and see what becomes of the answer's probability.

    The answer is the first token of the sample's answer; where a sample has none, or the tokenizer does not know it,
    the token that the full model finds most likely. Raises InputError without samples and for an eps of 0 or less.
    """
    check_samples(samples)
    if eps <= 0:
        raise InputError(f"eps must be above 0, such as 0.01; got {eps}.")
    parts = []
    for withdrawal in withdraw(model, processor, samples, batch):
        parts.append(withdrawal)
        advance(len(parts), num_batches(samples, batch))
    change, right, probability, right_full = (
        torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("change", "right", "full", "right_full")
    )

    def of(kind: str, members: Sequence[int]) -> KindHorizon:
        some = list(members)
        return summarise(kind, change[some], right[some], probability[some], right_full[some], eps, seed)

    groups = by_kind(samples)
    return Horizon(
        eps=eps,
        num_layers=change.shape[1],
        num=len(samples),
        num_own=sum(part.num_own for part in parts),
        overall=of(EVERY, range(len(samples))),
        kinds=tuple(of(kind, members) for kind, members in groups.items()) if len(groups) > 1 else (),
    )


def summarise(
    kind: str,
    change: Float[ndarray, "n L"],
    right: Bool[ndarray, "n L"],
    probability: Float[ndarray, " n"],
    right_full: Bool[ndarray, " n"],
    eps: float,
    seed: int = 0,
) -> KindHorizon:
    """Means and horizons of n samples."""
    change = change.astype(np.float64)
    low, high = mean_interval(change, seed)
    size, std, share = np.abs(change).mean(axis=0), change.std(axis=0), right.mean(axis=0)
    return KindHorizon(
        kind=kind,
        num=len(change),
        change=_plain(change.mean(axis=0)),
        low=_plain(low),
        high=_plain(high),
        size=_plain(size),
        std=_plain(std),
        right=_plain(share),
        right_full=float(right_full.mean()),
        probability_full=float(probability.mean()),
        horizon=first_lasting((size < eps) & (std < eps)),
        answer_horizon=first_lasting(share >= right_full.mean() - eps),
    )


def first_lasting(small: Bool[ndarray, " L"]) -> int:
    """The first layer from which on every layer is True; L if the last one is not.

    >>> first_lasting(np.array([True, False, True, True])), first_lasting(np.array([True, False]))
    (2, 2)
    """
    wrong = np.flatnonzero(~small)
    return int(wrong[-1]) + 1 if len(wrong) else 0


def draw_horizon(horizon: Horizon) -> Figure:
    """A panel for each kind: mean change by layer, its interval and deviation, and where the horizon lies."""
    shown = (horizon.overall, *horizon.kinds)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2.85 * columns if columns > 1 else 5.2, 0.75 + (1.7 if columns > 1 else 2.8) * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number >= len(shown):
            axes.set_visible(False)
            continue
        _draw_kind(axes, shown[number], horizon.num_layers)
        is_lowest = number + columns >= len(shown)
        dress(
            axes,
            title=_panel_title(shown[number], horizon.num_layers),
            x="visual tokens leave in front of layer" if is_lowest else "",
            y="change of probability" if number % columns == 0 else "",
        )
        axes.tick_params(labelbottom=is_lowest)
    add_legend(figure, panels.flat)
    return figure


def _draw_kind(axes: Axes, kind: KindHorizon, num_layers: int) -> None:
    layers = np.arange(num_layers)
    mean, std = np.array(kind.change), np.array(kind.std)
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.fill_between(layers, mean - std, mean + std, color=RULE, linewidth=0, label="± 1 deviation")
    axes.fill_between(layers, kind.low, kind.high, color=PALE, linewidth=0, label="95% of the mean")
    axes.plot(layers, mean, color=BLUE, linewidth=1.6, marker="o", markersize=3, label="mean change")
    if kind.horizon < num_layers:
        axes.axvline(kind.horizon, color=RUST, linestyle="--", linewidth=1.2, label="horizon")
    axes.set_xlim(-0.3, num_layers - 0.7)
    axes.set_xticks(layers[:: max(1, -(-num_layers // 8))])


def _panel_title(kind: KindHorizon, num_layers: int) -> str:
    where = f"horizon {kind.horizon}" if kind.horizon < num_layers else "no horizon"
    return f"{kind.kind} (n = {kind.num}): {where}"


def explain_horizon(horizon: Horizon) -> Note:
    """The words beside the figure."""
    one, depth = horizon.overall, horizon.num_layers

    def where(layer: int) -> str:
        return f"layer {layer}" if layer < depth else f"none of the {depth} layers"

    seen = (
        f"With every token the answer's first token has a probability of {one.probability_full:.2f} on average. Taking "
        f"all visual tokens away in front of layer 0 changes it by {one.change[0]:+.2f}, in front of the last layer by "
        f"{one.change[-1]:+.3f}. Over all {one.num} samples the horizon is {where(one.horizon)}; right answers stay "
        f"within {horizon.eps:.0%} from {where(one.answer_horizon)} on."
    )
    if horizon.kinds:
        deep = sorted(horizon.kinds, key=lambda k: k.horizon)
        seen += f" By kind it runs from {where(deep[0].horizon)} ({deep[0].kind}) to {where(deep[-1].horizon)} "
        seen += f"({deep[-1].kind})."
    own = f" For {horizon.num_own} samples that was the model's own answer." if horizon.num_own else ""
    return Note(
        title="Information horizon",
        seen=seen,
        how=(
            "For each layer in turn all visual tokens of the prompt are removed in front of it, positions of the text "
            "unchanged; what is plotted is the probability of the answer's first token minus that of the full model."
            f"{own} The horizon is the first layer from which on the mean absolute change and its deviation over "
            f"samples stay below {horizon.eps}. Shading: 95% bootstrap interval of the mean over samples, and one "
            "deviation."
        ),
        limits=(
            "What text tokens took over from visual ones in earlier layers stays, so the curve is not the blind model "
            "but in front of layer 0. Only the first token of the answer is looked at. The measure knows the right "
            "answers; it is a way to look at a model, not to prune it. The horizon depends on the task."
        ),
        alt=f"Line charts of the change of the answer's probability by layer; overall horizon: {where(one.horizon)}.",
    )


def _plain(values: Float[ndarray, " L"]) -> tuple[float, ...]:
    return tuple(values.tolist())
