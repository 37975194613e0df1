"""Position bias of attention: do later tokens receive more of it, and what do sinks and padding take?

Paper    Attention Debiasing for Token Pruning in Vision Language Models (2025)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from ..core.errors import InputError
from ..core.view import View
from ..core.watching import Watch
from ..engine.apply import reduce
from ..models.adapter import find_adapter
from ..ops.trends import SIZES, falling_weights, fit_trend
from ..samples import Sample, batches
from .figures import BLUE, INK, PALE, SOFT, Note, add_legend, dress, new_figure
from .sampling import Advance, check_samples, mean_interval, num_batches, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINK = 10.0  # times the mean over a prompt's visual tokens
PADDED = 0.5  # share of a token's part of the picture that is padding, at least
MOST_POINTS = 576
MIN_SAMPLES = 2  # one half is fitted, the other shown
LOOKS = {
    "exp": {"linestyle": "-", "marker": "o", "markersize": 4, "markerfacecolor": "white"},
    "cubic": {"linestyle": ":"},
}
QUERIES = {"last": "last token", "text": "text behind the picture"}


@dataclass(frozen=True)
class Corrected:
    """The curve divided by a trend that was fitted on other samples; a trend that falls is 1 throughout."""

    form: str
    coefficients: tuple[float, ...]
    curve: tuple[float, ...]
    end_over_start: float | None


@dataclass(frozen=True)
class Bias:
    """Attention of some queries of one layer to visual tokens, by place in the prompt.

    `curve` is in multiples of its mean, `low` to `high` the interval of the smoothed curve; `end_over_start` is the
    mean of its last quarter over that of its first. Shares of all attention: `visual`, `first_token` (None where the
    prompt begins with the picture). Shares of visual attention: `sinks`, tokens with over ten times their prompt's
    mean, of which there are `num_sinks` a prompt; `padding` (None unless a picture is padded), of `padding_tokens` of
    all tokens.
    """

    layer: int
    queries: str
    curve: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    end_over_start: float | None
    corrected: tuple[Corrected, ...]
    visual: float
    first_token: float | None
    sinks: float
    num_sinks: float
    padding: float | None
    padding_tokens: float | None


@dataclass(frozen=True)
class Position:
    """Bias in some layers; curves are of `num_shown` samples, trends were fitted on `num_fitted` other ones."""

    num: int
    num_fitted: int
    num_shown: int
    num_padded: int
    biases: tuple[Bias, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Rows:
    """What was read in one layer from one kind of queries, sample by sample."""

    curves: list[ndarray] = field(default_factory=list)
    visual: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


def default_layers(num_layers: int) -> tuple[int, ...]:
    """The layer that FastV reads, the middle one, and the last.

    >>> default_layers(32), default_layers(2)
    ((1, 16, 31), (1,))
    """
    return tuple(sorted({min(1, num_layers - 1), num_layers // 2, num_layers - 1}))


@torch.inference_mode()
def measure_position(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    *,
    layers: Sequence[int] | None = None,
    batch: int = 8,
    seed: int = 0,
    advance: Advance = silent,
) -> Position:
    """Read, in some decoder layers, the attention that the last token and the question pay to visual tokens.

    Raises InputError for fewer than two samples, and for a layer that the model does not have.
    """
    check_samples(samples)
    if len(samples) < MIN_SAMPLES:
        raise InputError(f"position bias needs at least {MIN_SAMPLES} samples, half of them to fit; got 1.")
    chosen = check_layers(find_adapter(model).info.num_layers, layers)
    read: dict[tuple[int, str], _Rows] = defaultdict(_Rows)
    padding: list[Bool[ndarray, " V"]] = []

    def see(view: View, layer: int) -> None:
        if layer == chosen[0]:
            padding.extend(_real(view.padding() > PADDED, view))
        for queries in QUERIES:
            _read(read[layer, queries], view, layer, queries)

    for done, (_, inputs) in enumerate(batches(model, processor, samples, batch)):
        with reduce(model, Watch(see, chosen)):
            model(**inputs, logits_to_keep=1)
        advance(done + 1, num_batches(samples, batch))
    return Position(
        num=len(samples),
        num_fitted=len(samples) // 2,
        num_shown=len(samples) - len(samples) // 2,
        num_padded=sum(bool(p.any()) for p in padding),
        biases=tuple(_summarise(*key, rows, padding, seed) for key, rows in sorted(read.items())),
    )


def check_layers(num_layers: int, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers to look at, ascending. Raises InputError for one that the model does not have."""
    if layers is None:
        return default_layers(num_layers)
    for layer in layers:
        if not 0 <= layer < num_layers:
            raise InputError(f"there is no decoder layer {layer}; this model has {num_layers}: 0 to {num_layers - 1}.")
    if not layers:
        raise InputError(f"name at least one decoder layer; this model has 0 to {num_layers - 1}.")
    return tuple(sorted(set(layers)))


def _read(rows: _Rows, view: View, layer: int, queries: str) -> None:
    asking = view.places("last") if queries == "last" else view.places("text")
    if queries == "text":
        behind = view.places("visual").amax(dim=1, keepdim=True)
        chosen = asking > behind
        chosen = torch.where(chosen.any(dim=1, keepdim=True), chosen, asking >= 0)  # nothing stands behind: all text
    else:
        chosen = asking >= 0
    weight = chosen.float() / chosen.sum(dim=1, keepdim=True)

    def mean(keys: str) -> Float[Tensor, "B N"]:
        heads = view.attention_rows(layer, queries=queries, keys=keys).mean(dim=1)  # type: ignore[arg-type]
        return (weight[:, :, None] * heads).sum(dim=1)

    visual, text = mean("visual"), mean("text")[:, 0].cpu()
    first_text, first = view.places("text")[:, 0].cpu(), view.places("visual")[:, 0].cpu()
    rows.curves += [row.astype(np.float64) for row in _real(visual, view)]
    rows.visual += visual.sum(dim=1).tolist()
    rows.first += torch.where(first_text < first, text, torch.nan).tolist()


def _real(values: Tensor, view: View) -> list[ndarray]:
    """Each item's values without those of padded tokens."""
    return [row[:count] for row, count in zip(values.cpu().numpy(), view.layout.num_tokens, strict=True)]


def _summarise(layer: int, queries: str, rows: _Rows, padding: Sequence[Bool[ndarray, " V"]], seed: int) -> Bias:
    curves = on_one_grid(rows.curves)
    fitted, shown = curves[1::2], curves[::2]
    mean = shown.mean(axis=0)
    low, high = mean_interval(np.stack([smooth(row) for row in shown]), seed)
    tried = (_correct(mean, form, fitted.mean(axis=0)) for form in SIZES)
    sinks = [row > SINK * row.mean() for row in rows.curves]
    padded = [(row, mask) for row, mask in zip(rows.curves, padding, strict=True) if mask.any()]
    first = [f for f in rows.first if not np.isnan(f)]
    return Bias(
        layer=layer,
        queries=queries,
        curve=_relative(mean),
        low=tuple((low / (mean.mean() or 1)).tolist()),
        high=tuple((high / (mean.mean() or 1)).tolist()),
        end_over_start=end_over_start(mean),
        corrected=tuple(corrected for corrected in tried if corrected is not None),
        visual=float(np.mean(rows.visual)),
        first_token=float(np.mean(first)) if first else None,
        sinks=float(np.mean([_share(row, s) for row, s in zip(rows.curves, sinks, strict=True)])),
        num_sinks=float(np.mean([s.sum() for s in sinks])),
        padding=float(np.mean([_share(row, mask) for row, mask in padded])) if padded else None,
        padding_tokens=float(np.mean([mask.mean() for _, mask in padded])) if padded else None,
    )


def on_one_grid(curves: Sequence[Float[ndarray, " V"]]) -> Float[ndarray, "n P"]:
    """Curves of any lengths, times their length, at the relative places of the longest one, of at most 576 places."""
    points = min(max(map(len, curves)), MOST_POINTS)
    there = np.linspace(0, 1, points)
    return np.stack([np.interp(there, np.linspace(0, 1, len(c)), c * len(c)) for c in curves])


def end_over_start(curve: Float[ndarray, " P"]) -> float | None:
    """The mean of the last quarter over that of the first; None where that is 0, as behind a sliding window.

    >>> end_over_start(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 1.0]))
    2.0
    """
    part = max(1, len(curve) // 4)
    start = curve[:part].mean()
    return float(curve[-part:].mean() / start) if start > 0 else None


def _correct(mean: Float[ndarray, " P"], form: str, fitted: Float[ndarray, " P"]) -> Corrected | None:
    """A curve divided by the trend of another one; None where that has no trend of this form."""
    try:
        coefficients = fit_trend(form, torch.from_numpy(fitted))
    except ValueError:
        return None
    corrected = mean * falling_weights(form, coefficients, len(mean)).numpy()
    return Corrected(form, coefficients, _relative(corrected), end_over_start(corrected))


def _relative(curve: Float[ndarray, " P"]) -> tuple[float, ...]:
    return tuple((curve / (curve.mean() or 1)).tolist())  # a sliding window may see no visual token at all


def _share(row: Float[ndarray, " V"], mask: Bool[ndarray, " V"]) -> float:
    return float(row[mask].sum() / (row.sum() or 1))


def draw_position(position: Position) -> Figure:
    """A panel for each layer and kind of queries: the curve, and what is left of it after each correction."""
    layers = sorted({b.layer for b in position.biases})
    figure = new_figure(8.2, 0.6 + 2.0 * len(layers))
    panels = figure.subplots(len(layers), len(QUERIES), sharex=True, squeeze=False)
    for bias in position.biases:
        row, column = layers.index(bias.layer), list(QUERIES).index(bias.queries)
        axes = panels[row][column]
        _draw_bias(axes, bias)
        dress(
            axes,
            title=f"layer {bias.layer}, {QUERIES[bias.queries]}",
            x="place of the visual token, first to last" if row == len(layers) - 1 else "",
            y="times the mean" if column == 0 else "",
        )
    add_legend(figure, panels.flat, columns=5)
    return figure


def _draw_bias(axes: Axes, bias: Bias) -> None:
    places = np.linspace(0, 1, len(bias.curve))
    axes.axhline(1, color=SOFT, linewidth=0.7)
    axes.fill_between(places, bias.low, bias.high, color=PALE, linewidth=0, label="95% of the mean")
    axes.plot(places, smooth(bias.curve), color=BLUE, linewidth=2.6, label="attention")
    for corrected in bias.corrected:
        label, curve = f"divided by {corrected.form} trend", smooth(corrected.curve)
        axes.plot(
            places,
            curve,
            color=INK,
            linewidth=1.1,
            markevery=max(1, len(curve) // 12),
            label=label,
            **LOOKS[corrected.form],
        )
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1)


def smooth(curve: Sequence[float]) -> Float[ndarray, " P"]:
    """Moving average over a twelfth of the curve, shorter at its ends: rows of a picture do not hide a trend."""
    values = np.asarray(curve, dtype=np.float64)
    window = np.ones(2 * (len(values) // 24) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def explain_position(position: Position) -> Note:
    """The words beside the figure."""
    last = [b for b in position.biases if b.queries == "last"]
    text = " ".join(_in_words(bias) for bias in last)
    padded = f"{position.num_padded} of {position.num} pictures have padding."
    return Note(
        title="Position bias of attention",
        seen=f"Attention of the last token. {text} {padded}",
        how=(
            "Softmaxed attention, mean over heads, from the last prompt token (left) and from the text behind the "
            "picture (right), to each visual token in prompt order; 1 is the mean over places. A trend in the place "
            f"alone is fitted on {position.num_fitted} samples; the curves are those of the other "
            f"{position.num_shown}, as they are and divided by it, smoothed over a twelfth of "
            "their length. Shading: 95% bootstrap interval of the mean."
        ),
        limits=(
            "Pictures have content that depends on the place too (subjects in the middle, ground below): a trend is "
            "not all bias. A flat curve says nothing about which tokens matter. Sinks are tokens with over "
            f"{SINK:.0f} times their prompt's mean. Padding is known from lines of one mean colour at the border."
        ),
        alt="Line charts of attention by place of the visual token, before and after division by a fitted trend.",
    )


def _in_words(bias: Bias) -> str:
    words = f"Layer {bias.layer}: {bias.visual:.0%} of it goes to visual tokens"
    words += "" if bias.first_token is None else f", {bias.first_token:.0%} to the prompt's first token"
    if bias.end_over_start is None:
        words += "; the first quarter of the picture gets none"
    else:
        words += f"; the last quarter of the picture gets {bias.end_over_start:.2f} times what the first gets"
        after = [f"{c.end_over_start:.2f} after the {c.form} trend" for c in bias.corrected if c.end_over_start]
        words += f" ({', '.join(after)})" if after else ""
    words += f"; {bias.num_sinks:.1f} sinks a picture take {bias.sinks:.0%} of visual attention"
    if bias.padding is not None:
        words += f"; padding, {bias.padding_tokens:.0%} of the tokens, takes {bias.padding:.0%}"
    return words + "."
