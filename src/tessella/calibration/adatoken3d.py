"""AdaToken-3D: fits `ratios` at `layers` to how much attention visual tokens get and give, layer by layer.

The sums are those of the authors' statistics, on the lower triangle of attention, where theirs are on the upper one,
which a causal mask leaves empty. They average attention over squares of 10 by 10 tokens and then multiply by 100, which
gives back the plain sum over pairs of tokens; what is left of the squares is that pairs of visual tokens inside one of
them do not count. Here the squares begin at the first token of a prompt, and where one is part text and part picture
each of its pairs counts as what it is.

The authors fit a curve in percent to contributions between 0 and 1, which gives the same curve whatever was measured;
here both are in percent. Of the curve's four numbers two follow from its ends, and one only scales another, so that one
is left to fit. A running total makes contributions grow with depth unless those of single layers fall fast; `misfit`
says how far the curve is from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from ..core.contracts import Method
from ..core.errors import InputError, MethodError
from ..core.model_info import ModelInfo
from ..core.progressive import Progressive
from ..core.view import Keys, Queries, View
from ..core.watching import Watch
from ..engine.apply import reduce
from ..models.adapter import find_adapter
from ..samples import batches
from .job import Fit, Job

MIN_SAMPLES = 4

POOLING = 10  # tokens of a square
INTRA, INTER, RUNNING = 0.4, 0.3, 0.3  # weights of a layer's contribution
GROWTH = 0.73  # what a layer adds to the running total
SYSTEM, FOLLOWING = 0.7, 0.3  # k and q: attention to text in front of the tokens, and from text behind them
END = 10.0  # a: percent at the last layer
STEP = 5  # percent to which ratios are rounded
OPTIONS = ("layers", "end")
STEEPEST = 30.0  # an exponent over the whole depth, beyond which a curve is a step


def fit(method: Method, job: Job) -> Fit:
    """The schedule of a model: `ratios` in front of the layers of the method, or of the option `layers`.

    The option `end` is the percentage at the last layer. The curve counts layers from 1, so that the ratio in front of
    layer l is its value at l + 1. Raises MethodError for layers that are not in the model, InputError where no sample
    has a picture.
    """
    info = find_adapter(job.model).info
    layers, end = chosen(method, job.options, info)
    intra, inter = measured(job, info.num_layers)
    share = contribution(intra, inter)
    rate = fitted_rate(share, end)
    curve = decay(info.num_layers, rate, end)
    ratios = tuple(round(curve[layer] / STEP) * STEP / 100 for layer in layers)
    by_layer = {"intra": intra, "inter": inter, "contribution": share, "curve": curve}
    evidence: dict[str, Any] = {name: [round(float(v), 4) for v in values] for name, values in by_layer.items()}
    misfit = float(np.sqrt(np.mean((curve - share) ** 2)))
    evidence |= {"rate": round(rate, 6), "end": end, "misfit": round(misfit, 4)}
    return Fit({"layers": layers, "ratios": ratios}, evidence)


def chosen(method: Method, options: dict[str, Any], info: ModelInfo) -> tuple[tuple[int, ...], float]:
    """The layers to cut in front of and the percentage at the last one."""
    end, depth = options.get("end", END), info.num_layers
    if isinstance(end, bool) or not isinstance(end, int | float) or not 0 < end < 100:
        raise MethodError(f"adatoken3d: end must be a percentage between 0 and 100; got {end!r}.")
    fitted = method.fit(info)
    assert isinstance(fitted, Progressive)
    layers = options.get("layers", fitted.layers)
    are_numbers = isinstance(layers, tuple) and all(isinstance(n, int) for n in layers)
    if not are_numbers or not layers or list(layers) != sorted({*layers} & set(range(1, depth))):
        raise MethodError(
            f"adatoken3d: layers must be a tuple of numbers that ascend, from 1 to {depth - 1} here; got {layers!r}."
        )
    return tuple(map(int, layers)), float(end)


def measured(job: Job, num_layers: int) -> tuple[Float[np.ndarray, " L"], Float[np.ndarray, " L"]]:
    """Attention within visual tokens and across to text, in every layer, mean over the samples with pictures."""
    total, items = torch.zeros(2, num_layers, dtype=torch.float64), 0

    def see(view: View, layer: int) -> None:
        nonlocal items
        total[:, layer] += torch.stack(flows(view, layer)).cpu().double().sum(dim=1)
        items += len(view.layout.num_tokens) * (layer == 0)

    done = 0
    with reduce(job.model, Watch(see, tuple(range(num_layers)))), torch.no_grad():
        for some, inputs in batches(job.model, job.processor, job.samples, job.batch):
            job.model(**inputs, logits_to_keep=1)
            done += len(some)
            job.advance(done, len(job.samples))
    if not items:
        raise InputError(f"adatoken3d measures attention to pictures; none of the {len(job.samples)} samples has one.")
    intra, inter = (total / items).numpy()
    return intra, inter


def flows(view: View, layer: int) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Attention of each prompt within its visual tokens, and across between them and text, mean over heads."""
    return (
        flow(view, layer, "visual", "visual", POOLING),
        SYSTEM * flow(view, layer, "visual", "text") + FOLLOWING * flow(view, layer, "text", "visual"),
    )


def flow(view: View, layer: int, queries: Queries, keys: Keys, pooling: int = 1) -> Float[Tensor, " B"]:
    """Sum of attention over pairs whose query stands behind the key, in another `pooling` tokens of the prompt."""
    begin = view.places("all")[:, :1]
    asking, asked = ((view.places(p) - begin).div(pooling, rounding_mode="floor") for p in (queries, keys))
    total = torch.zeros(len(begin), device=view.device)
    for start, rows in view.attention_in_blocks(layer, queries, keys):
        behind = asking[:, start : start + rows.shape[2], None] > asked[:, None]
        total += (rows.mean(dim=1) * behind).sum(dim=(1, 2))  # padding has no attention
    return total


def contribution(intra: Float[np.ndarray, " L"], inter: Float[np.ndarray, " L"]) -> Float[np.ndarray, " L"]:
    """What each layer contributes, from 0 at the least to 100 at the most. Raises MethodError where all do the same."""
    running = intra[0] + GROWTH * (np.cumsum(intra) - intra[0])
    out = INTRA * intra + INTER * inter + RUNNING * running
    spread = np.ptp(out)
    if not spread > 0:
        raise MethodError(
            f"adatoken3d: all {len(out)} layers contribute {out[0]:.4g}, to which no schedule can be fitted."
        )
    return 100 * (out - out.min()) / spread


def decay(num_layers: int, rate: float, end: float) -> Float[np.ndarray, " L"]:
    """A exp(-rate (x - C)) + D at the layers x = 1 to L, which is 100 at the first and `end` at the last.

    >>> decay(4, 0.0, 10.0).tolist(), decay(3, 0.7, 10.0).round(1).tolist()
    ([100.0, 70.0, 40.0, 10.0], [100.0, 39.9, 10.0])
    """
    x = np.linspace(0, 1, num_layers)
    over = rate * (num_layers - 1)
    part = x if over == 0 else np.expm1(-over * x) / np.expm1(-over)
    return 100 + (end - 100) * part


def fitted_rate(share: Float[np.ndarray, " L"], end: float) -> float:
    """The rate of the `decay` nearest to contributions, by values and differences between layers, least squares."""
    steepest = STEEPEST / (len(share) - 1)

    def loss(rate: Float[np.ndarray, "1"]) -> float:
        apart = (decay(len(share), float(rate[0]), end) - share) / 100
        return float((apart**2).sum() + (np.gradient(apart) ** 2).sum())

    starts = (0.1, -0.1)  # the authors'; and of a curve that falls late
    found = [minimize(loss, [start], method="SLSQP", bounds=[(-steepest, steepest)]) for start in starts]
    return float(min(found, key=lambda result: result.fun).x[0])
