"""Spectra of kept sets: how many directions the kept tokens span, and how even the attention on them is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from ..core.pipeline import Pipeline
from ..core.view import View
from ..core.watching import CONNECTOR, Watch
from ..engine.apply import reduce
from ..models.adapter import find_adapter
from ..ops.spectra import effective_rank, entropy
from ..samples import Sample, batches
from .figures import BLUE, INK, PALE, RULE, SIZE, Note, add_legend, dress, new_figure
from .kept import KeptSets, read_kept
from .sampling import Advance, mean_interval, num_batches, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FULL = "none"


@dataclass(frozen=True)
class SetSpectrum:
    """Means over samples, each with its interval [low, high], for what one method keeps.

    `rank`: effective rank of the kept tokens as the connector made them, the exponential of the entropy of their
    normalised singular values about the mean. `entropy`: of the full model's attention on the kept tokens, in nats;
    `evenness`: that over its largest value, log of their number. `attention`: their share of the full model's attention
    on all visual tokens. A sample of which fewer than two tokens are kept is in none of them but the last.
    """

    method: str
    kept: float
    rank: tuple[float, float, float] | None
    entropy: tuple[float, float, float] | None
    evenness: tuple[float, float, float] | None
    attention: tuple[float, float, float]


@dataclass(frozen=True)
class Spectrum:
    """All visual tokens first, then each method; attention is the last prompt token's in decoder layer `layer`."""

    num: int
    layer: int
    methods: tuple[SetSpectrum, ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_spectrum(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    methods: Sequence[str | Pipeline],
    *,
    batch: int = 8,
    seed: int = 0,
    advance: Advance = silent,
) -> Spectrum:
    """Run the pipelines and look at what they keep; see `read_kept` and `spectrum_of`."""
    sets = read_kept(model, processor, samples, methods, batch=batch)
    return spectrum_of(sets, model, processor, samples, batch=batch, seed=seed, advance=advance)


@torch.inference_mode()
def spectrum_of(
    sets: KeptSets,
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    *,
    batch: int = 8,
    seed: int = 0,
    advance: Advance = silent,
) -> Spectrum:
    """Effective rank and attention of what was kept of the same samples, read from the full model."""
    layer = find_adapter(model).info.num_layers // 2
    everything = {FULL: tuple(np.ones(len(p.down), dtype=bool) for p in sets.places)}
    masks = everything | {name: kept for name, kept in sets.kept.items() if name != FULL}
    values: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    seen: list[Float[Tensor, "B V"]] = []
    tokens: list[Float[Tensor, "B V C"]] = []

    def see(view: View, layer: int) -> None:
        if layer == CONNECTOR:
            tokens.append(view.tokens.embeddings.clone())
        else:
            seen.append(view.attention_rows(layer, queries="last").mean(dim=1)[:, 0].double())

    start = 0
    for done, (some, inputs) in enumerate(batches(model, processor, samples, batch)):
        with reduce(model, Watch(see, (CONNECTOR, layer))):
            model(**inputs, logits_to_keep=1)
        embeddings, attention = tokens.pop(), seen.pop()
        for name, kept in masks.items():
            for row in range(len(some)):
                mask = kept[start + row]
                values[name].append(_measure(embeddings[row], attention[row], mask))
        start += len(some)
        advance(done + 1, num_batches(samples, batch))
    methods = tuple(_summarise(name, masks[name], np.array(rows), seed) for name, rows in values.items())
    return Spectrum(sets.num, layer, methods, sets.left_out)


def _measure(
    tokens: Float[Tensor, "V C"], attention: Float[Tensor, " V"], mask: Bool[ndarray, " V"]
) -> tuple[float, ...]:
    """Effective rank, entropy, evenness and share of attention of one sample's kept tokens."""
    chosen = torch.from_numpy(np.flatnonzero(mask)).to(tokens.device)
    share = float(attention[chosen].sum() / attention[: len(mask)].sum())
    if len(chosen) < 2:
        return np.nan, np.nan, np.nan, share
    even = float(entropy(attention[chosen][None])[0])
    return float(effective_rank(tokens[chosen][None])[0]), even, even / float(np.log(len(chosen))), share


def _summarise(
    name: str, masks: Sequence[Bool[ndarray, " V"]], values: Float[ndarray, "n 4"], seed: int
) -> SetSpectrum:
    rank, even, evenness, attention = (_with_interval(column, seed) for column in values.T)
    assert attention is not None
    return SetSpectrum(name, float(np.mean([m.sum() for m in masks])), rank, even, evenness, attention)


def _with_interval(values: Float[ndarray, " n"], seed: int) -> tuple[float, float, float] | None:
    there = values[~np.isnan(values)]
    if not len(there):
        return None
    low, high = mean_interval(there, seed)
    return float(there.mean()), float(low), float(high)


def draw_spectrum(spectrum: Spectrum) -> Figure:
    """Three panels of points with intervals: effective rank, evenness of attention, share of attention."""
    rows = len(spectrum.methods)
    figure = new_figure(8.6, 1.0 + 0.34 * rows)
    panels = figure.subplots(1, 3, sharey=True)
    names = ("rank", "evenness", "attention")
    titles = ("effective rank", "evenness of attention", "share of attention")
    for axes, name, title in zip(panels, names, titles, strict=True):
        _draw_values(axes, spectrum, name)
        dress(axes, title)
        axes.set_xlim(0, None if name == "rank" else 1.03)
    labels = [f"{m.method} ({m.kept:.0f})" for m in spectrum.methods]
    panels[0].set_yticks(range(rows), labels, fontsize=SIZE - 0.5, color=INK)
    panels[0].set_ylim(rows - 0.5, -0.5)
    add_legend(figure, panels[:1], columns=2)
    return figure


def _draw_values(axes: Axes, spectrum: Spectrum, name: str) -> None:
    for row, method in enumerate(spectrum.methods):
        axes.axhline(row, color=RULE, linewidth=0.8, zorder=0)
        value = getattr(method, name)
        if value is None:
            continue
        first = row == 0
        axes.plot(
            value[1:],
            (row, row),
            color=PALE,
            linewidth=5,
            solid_capstyle="butt",
            label="95% of the mean" if first else None,
        )
        axes.plot(value[0], row, "o", color=BLUE, markersize=5, label="mean over samples" if first else None)


def explain_spectrum(spectrum: Spectrum) -> Note:
    """The words beside the figure."""
    words = [
        f"{m.method} keeps {m.kept:.0f} tokens: "
        + (
            "fewer than two of each prompt"
            if m.rank is None or m.entropy is None
            else f"effective rank {m.rank[0]:.1f}, attention entropy {m.entropy[0]:.2f} nats"
        )
        + f", {m.attention[0]:.0%} of the full model's attention on visual tokens."
        for m in spectrum.methods
    ]
    words += [f"{method} is left out: {reason}." for method, reason in spectrum.left_out.items()]
    return Note(
        title="Spectra of kept sets",
        seen=" ".join(words),
        how=(
            f"{spectrum.num} samples. Effective rank: the exponential of the entropy of the normalised singular "
            "values of the kept tokens, as the connector made them, about their mean. Attention: that of the last "
            f"prompt token in decoder layer {spectrum.layer} of the full model, mean over heads; evenness is its "
            "entropy on the kept tokens over the logarithm of their number. In brackets: tokens kept. Intervals: 95% "
            "bootstrap over samples."
        ),
        limits=(
            "A set of high rank is varied, not thereby useful: noise has the highest. Random sets show what the "
            "number of tokens alone gives. Attention of one layer is not what other layers need. Tokens into which "
            "others were merged are measured as they were before."
        ),
        alt="Points of effective rank, evenness of attention and share of attention for all tokens and each method.",
    )
