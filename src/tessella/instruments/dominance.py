"""Modality dominance: how much an answer's tokens attend to a token of text, and to one of the picture.

Paper    When Language Overrules: Revealing Text Dominance in Multimodal Large Language Models (2025)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from ..core.errors import InputError
from ..core.pipeline import Pipeline, as_pipeline
from ..engine.apply import reduce
from ..models.adapter import find_adapter
from ..samples import Sample, batches
from .answer_attention import AnswerAttention, Masses
from .figures import BLUE, INK, PALE, RULE, SIZE, SOFT, Note, add_legend, dress, new_figure
from .sampling import Advance, check_samples, mean_interval, num_batches, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FULL = "none"
MAX_NEW_TOKENS = 8
SMALLEST = 1e-10  # in denominators
GROUPS = ("early", "middle", "late")


@dataclass(frozen=True)
class Indices:
    """Means over samples in one layer, or over the layers of a group; None where no visual token is there.

    `mdi`, the attention on a text token over that on a visual one, is the mean of the samples' own ratios, with its
    interval; `mdi_of_means` is the ratio of their means. `aei_text` and `aei_visual`: share of attention over share of
    tokens. `mdi_without_first` leaves the prompt's first token out. `visual_share`: of attention on the prompt.
    """

    mdi: float | None
    low: float | None
    high: float | None
    mdi_of_means: float | None
    aei_text: float | None
    aei_visual: float | None
    mdi_without_first: float | None
    visual_share: float
    num_text: float
    num_visual: float


@dataclass(frozen=True)
class MethodDominance:
    """One pipeline: the indices of each of `layers`, and of the early, middle and late ones together."""

    method: str
    layers: dict[int, Indices]
    groups: dict[str, Indices]
    overall: Indices


@dataclass(frozen=True)
class Dominance:
    """Indices of several pipelines, the full model first. `num`: samples whose answer has a token that attends."""

    num: int
    mean_answer: float
    methods: tuple[MethodDominance, ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def layer_groups(num_layers: int) -> dict[str, tuple[int, ...]]:
    """The first two layers, the two in the middle, and the last two.

    >>> layer_groups(32)
    {'early': (0, 1), 'middle': (15, 16), 'late': (30, 31)}
    """
    half, last = num_layers // 2, num_layers - 1
    pairs = ((0, 1), (half - 1, half), (last - 1, last))
    return {name: tuple(sorted({min(max(n, 0), last) for n in pair})) for name, pair in zip(GROUPS, pairs, strict=True)}


@torch.inference_mode()
def measure_dominance(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    methods: Sequence[str | Pipeline] = (),
    *,
    batch: int = 8,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    advance: Advance = silent,
) -> Dominance:
    """Attention of the tokens of the model's own greedy answers to the prompt, in six layers, under each pipeline.

    Rows are those of generated tokens that were read back in, so that an answer's last token has none; columns are
    the prompt's tokens that the layer still holds. Raises InputError where no answer has a row.
    """
    check_samples(samples)
    pipelines = [as_pipeline(FULL), *(p for p in map(as_pipeline, methods) if str(p) != FULL)]
    groups = layer_groups(find_adapter(model).info.num_layers)
    layers = tuple(sorted({n for some in groups.values() for n in some}))
    steps, of = 0, len(pipelines) * num_batches(samples, batch)
    measured: list[MethodDominance] = []
    left_out: dict[str, str] = {}
    num, answer = 0, 0.0
    for pipeline in pipelines:
        parts: list[Masses] = []
        for _, inputs in batches(model, processor, samples, batch):
            with reduce(model, pipeline, processor=processor) as run:
                watch = AnswerAttention(model, layers)
                with watch:
                    out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
                if run.is_rewritten:
                    left_out[str(pipeline)] = "it reads other pictures than the prompt's"
                else:
                    parts.append(watch.masses(inputs, out, run.layout))
            steps += 1
            advance(steps, of)
        if str(pipeline) in left_out:
            continue
        masses = Masses.join(parts)
        if not masses.has_rows.any():
            raise InputError("no answer is longer than its last token, so that no generated token attends to anything.")
        if str(pipeline) == FULL:
            num, answer = int(masses.has_rows.sum()), float(masses.num_rows[masses.has_rows].mean())
        measured.append(_summarise(str(pipeline), masses, layers, groups, seed))
    return Dominance(num, answer, tuple(measured), left_out)


def dominance_index(
    text: Float[ndarray, "*n"], visual: Float[ndarray, "*n"], num_text: ndarray, num_visual: ndarray
) -> Float[ndarray, "*n"]:
    """MDI: mean attention on a text token over that on a visual token; NaN where there is no visual token.

    >>> dominance_index(np.array([0.6]), np.array([0.3]), np.array([2]), np.array([10]))
    array([10.])
    """
    per_visual = visual / np.maximum(num_visual, 1)
    ratio = (text / np.maximum(num_text, 1)) / np.maximum(per_visual, SMALLEST)
    return np.where(num_visual > 0, ratio, np.nan)


def efficiency_index(
    mine: Float[ndarray, "*n"], other: Float[ndarray, "*n"], num_mine: ndarray, num_other: ndarray
) -> Float[ndarray, "*n"]:
    """AEI of a modality: its share of the attention over its share of the tokens; NaN where it has none.

    >>> efficiency_index(np.array([0.6]), np.array([0.3]), np.array([2]), np.array([10]))
    array([4.])
    """
    attention = mine / np.maximum(mine + other, SMALLEST)
    tokens = num_mine / np.maximum(num_mine + num_other, 1)
    return np.where(num_mine > 0, attention / np.maximum(tokens, SMALLEST), np.nan)


def _summarise(
    method: str, masses: Masses, layers: Sequence[int], groups: dict[str, tuple[int, ...]], seed: int
) -> MethodDominance:
    some = masses.with_rows()

    def of(chosen: Sequence[int]) -> Indices:
        return _indices(some, [layers.index(n) for n in chosen], seed)

    return MethodDominance(
        method=method,
        layers={layer: of((layer,)) for layer in layers},
        groups={name: of(chosen) for name, chosen in groups.items()},
        overall=of(layers),
    )


def _indices(masses: Masses, columns: list[int], seed: int) -> Indices:
    """Indices of the layers in `columns` together: ratios of each sample and layer, mean over layers, then samples."""
    text, visual, without = (m[:, columns] for m in (masses.text, masses.visual, masses.text_without_first))
    num_text, num_visual = masses.num_text[:, columns], masses.num_visual[:, columns]
    num_without = masses.num_text_without_first[:, columns]
    mdi = dominance_index(text, visual, num_text, num_visual).mean(axis=1)
    low, high = mean_interval(mdi, seed)
    whole = dominance_index(text.mean(axis=0), visual.mean(axis=0), num_text.mean(axis=0), num_visual.mean(axis=0))
    share = visual / np.maximum(text + visual, SMALLEST)
    return Indices(
        mdi=_number(mdi.mean()),
        low=_number(low),
        high=_number(high),
        mdi_of_means=_number(whole.mean()),
        aei_text=_number(efficiency_index(text, visual, num_text, num_visual).mean()),
        aei_visual=_number(efficiency_index(visual, text, num_visual, num_text).mean()),
        mdi_without_first=_number(dominance_index(without, visual, num_without, num_visual).mean()),
        visual_share=float(share.mean()),
        num_text=float(num_text.mean()),
        num_visual=float(num_visual.mean()),
    )


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def draw_dominance(dominance: Dominance) -> Figure:
    """Left the dominance index of each pipeline and layer group, right the share of attention on visual tokens."""
    from matplotlib.ticker import LogLocator, NullLocator

    rows = len(dominance.methods)
    figure = new_figure(8.2, 1.1 + 0.42 * rows)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_points(left, dominance, "mdi")
    left.set_xscale("log")
    left.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_locator(NullLocator())
    left.axvline(1, color=INK, linewidth=1)
    dress(left, "MDI: text over visual, per token", x="1 = balanced; logarithmic")
    _draw_points(right, dominance, "visual_share")
    right.set_xlim(-0.02, 1.02)
    dress(right, "share of attention on visual tokens", x="of the attention on the prompt")
    left.set_yticks(range(rows), [m.method for m in dominance.methods], fontsize=SIZE - 0.5, color=INK)
    left.set_ylim(rows - 0.5, -0.5)
    add_legend(figure, [left], columns=3)
    return figure


def _draw_points(axes: Axes, dominance: Dominance, name: str) -> None:
    for row, method in enumerate(dominance.methods):
        axes.axhline(row, color=RULE, linewidth=0.8, zorder=0)
        if method.overall.num_visual == 0 and name == "mdi":
            axes.text(
                0.98,
                row,
                "no visual token",
                transform=axes.get_yaxis_transform(),
                ha="right",
                va="center",
                fontsize=SIZE - 0.5,
                color=SOFT,
                backgroundcolor="white",
            )
    for number, group in enumerate(GROUPS):
        values = [getattr(m.groups[group], name) for m in dominance.methods]
        axes.plot(
            [v for v in values if v is not None],
            [row + 0.2 * (number - 1) for row, v in enumerate(values) if v is not None],
            linestyle="none",
            marker="os^"[number],
            markersize=6,
            markerfacecolor=(BLUE, PALE, "white")[number],
            markeredgecolor=INK,
            markeredgewidth=0.8,
            label=f"{group} layers",
        )


def explain_dominance(dominance: Dominance) -> Note:
    """The words beside the figure."""
    full, *others = dominance.methods
    words = [f"In the full model a text token gets {_times(full.overall.mdi)} the attention of a visual token"]
    words[0] += f" ({_times(full.overall.mdi_without_first)} without the prompt's first token); visual tokens together"
    words[0] += f" get {full.overall.visual_share:.0%}."
    words += [
        f"Under {m.method}: {_times(m.overall.mdi)}, and {m.overall.visual_share:.0%}, with {m.overall.num_visual:.0f} "
        f"of {full.overall.num_visual:.0f} tokens left on the mean over these layers."
        for m in others
    ]
    words += [f"{method} is left out: {reason}." for method, reason in dominance.left_out.items()]
    return Note(
        title="Modality dominance",
        seen=" ".join(words),
        how=(
            f"Greedy answers of {dominance.num} samples, {dominance.mean_answer:.1f} tokens on average that attend. "
            "Rows are generated tokens only; columns are the tokens of the prompt that each layer's cache still holds, "
            "generated ones left out. MDI is the attention on a text token over that on a visual token, worked out per "
            "sample and layer, then averaged: the first two layers, the two in the middle, the last two."
        ),
        limits=(
            "MDI falls by itself when visual tokens are removed: with fewer of them each gets more even where all "
            "together get less, as the right panel shows. A lower MDI is no evidence that the model looks at the "
            "picture more or answers better. Sinks at the prompt's first token raise it; the number without that "
            "token is beside it."
        ),
        alt="Points of the modality dominance index and of the attention share of visual tokens, by method and depth.",
    )


def _times(value: float | None) -> str:
    return "no number of times (no visual token is left)" if value is None else f"{value:.2f} times"
