"""VFlowOpt: fits `ratios`, `threshold`, `side` and `alpha` so that the last token ends as it does without pruning.

A Gaussian process with expected improvement looks for the settings under which the last prompt token's final hidden
state is most like that of the untouched model, by cosine summed over the samples. The keep, by default 0.25, is the
share of tokens in the mean over layers; the last ratio is solved from it. The paper takes 30 samples and 50 trials.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.budget import Budget
from ..core.contracts import Method
from ..core.errors import BudgetError, InputError, MethodError
from ..engine.apply import reduce
from ..engine.encoder import encode_once
from ..models.adapter import Adapter, find_adapter
from ..samples import batches
from .job import Fit, Job

MIN_SAMPLES = 30  # the paper's number
OPTIONS = ("trials",)
USES_KEEP = True

TRIALS = 50
STARTS = 27  # random trials in front of the first that the process proposes, as the authors'
MEAN = Fraction(1, 4)
LEAST = 0.05  # the last ratio is at least this
PLACES = 5  # decimals of a setting


@dataclass(frozen=True)
class Space:
    """What is searched: settings whose mean over the layers of three segments is `mean`, or less."""

    mean: float
    lengths: tuple[int, int, int]  # layers from the connector on, and from each of two cuts on

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of each variable: the paper's at 25%, narrowed where no last ratio would be left."""
        first, second, third = self.lengths
        most = self.mean * sum(self.lengths) / (first + second + LEAST * third)
        return {
            "first": (self.mean, min(1.0, 1.5 * self.mean, most)),
            "second": (8 / 15, 1.0),
            "threshold": (0.0, 50.0),
            "side": (3.0, 24.0),
            "alpha": (-1.0, 1.0),
        }

    def settings(self, values: dict[str, float]) -> dict[str, Any]:
        """The method's settings for values of the variables; the last ratio is solved, and at most 1."""
        first, second, threshold, side, alpha = (round(values[name], PLACES) for name in self.bounds)
        rest = self.mean * sum(self.lengths) - first * (self.lengths[0] + second * self.lengths[1])
        third = min(1.0, round(rest / (first * second * self.lengths[2]), PLACES))
        return {"ratios": (first, second, third), "threshold": threshold, "side": side, "alpha": alpha}

    def mean_of(self, ratios: Sequence[float]) -> float:
        """The share of tokens in the mean over layers under three ratios."""
        first, second, third = ratios
        weighted = first * (self.lengths[0] + second * (self.lengths[1] + third * self.lengths[2]))
        return weighted / sum(self.lengths)


def fit(method: Method, job: Job) -> Fit:
    """The best settings of all trials. An interrupt ends the search, with the best so far if there is one.

    Raises InputError, BudgetError or MethodError for what cannot be searched.
    """
    trials, mean = read_trials(job.options), read_mean(job.budget)
    adapter = find_adapter(job.model)
    space = Space(float(mean), lengths_of(method, adapter.info.num_layers))
    prompts = list(encoded(method, job, adapter))
    whole = last_hidden(job.model, adapter, prompts)

    def likeness(values: dict[str, float]) -> float:
        with reduce(job.model, replace(method, **space.settings(values))):  # type: ignore[type-var]
            return similarity(whole, last_hidden(job.model, adapter, prompts))

    tried = search(likeness, space, start_of(method, space), trials, job)
    best = max(tried, key=lambda one: one[1])
    settings = space.settings(best[0])
    evidence: dict[str, Any] = {
        "mean_cosine": round(best[1] / len(whole), 6),
        "mean_cosine_at_start": round(tried[0][1] / len(whole), 6),
        "mean_keep_ratio": round(space.mean_of(settings["ratios"]), PLACES),
        "trials": len(tried),
        "trials_wanted": trials,
    }
    return Fit(settings, evidence)


def search(
    likeness: Callable[[dict[str, float]], float], space: Space, start: dict[str, float], trials: int, job: Job
) -> list[tuple[dict[str, float], float]]:
    """Values that were tried, with their likeness, in order: `start`, random ones, then those of the process."""
    import optuna

    tried: list[tuple[dict[str, float], float]] = []
    with quiet(optuna):
        sampler = optuna.samplers.GPSampler(seed=job.seed, n_startup_trials=min(STARTS, max(1, trials // 2)))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.enqueue_trial(start)
        try:
            for number in range(trials):
                with torch.enable_grad():  # by which the process is fitted
                    trial = study.ask()
                    values = {name: trial.suggest_float(name, *ends) for name, ends in space.bounds.items()}
                tried.append((values, likeness(values)))
                study.tell(trial, tried[-1][1])
                job.advance(number + 1, trials)
        except KeyboardInterrupt:
            if not tried:
                raise
    return tried


def encoded(method: Method, job: Job, adapter: Adapter) -> Iterator[dict[str, Any]]:
    """The samples' prompts, batch by batch, with their pictures encoded once for all trials."""
    for some, inputs in batches(job.model, job.processor, job.samples, job.batch):
        if not all(sample.images for sample in some):
            raise InputError("vflowopt is searched on questions about pictures; a sample has none.")
        pixels = {modality.pixels for modality in adapter.modalities.values()}
        text = {name: value for name, value in inputs.items() if name not in pixels}
        yield {**text, "mm_encoder_outputs": encode_once(job.model, inputs, [method])}


def last_hidden(model: Any, adapter: Adapter, prompts: Sequence[dict[str, Any]]) -> Float[Tensor, "S C"]:
    """Final hidden state of the last token of each prompt, behind the last norm; prompts are padded on the left."""
    out: list[Tensor] = []
    handle = adapter.language_model.register_forward_hook(lambda module, args, given: out.append(given[0][:, -1]))
    try:
        for prompt in prompts:
            model(**{**prompt, "mm_encoder_outputs": dict(prompt["mm_encoder_outputs"])}, logits_to_keep=1)
    finally:
        handle.remove()
    return torch.cat(out).float()


def similarity(whole: Float[Tensor, "S C"], pruned: Float[Tensor, "S C"]) -> float:
    """Sum over samples of the cosine of two hidden states; one that is not a number counts as 0."""
    return float(torch.cosine_similarity(whole, pruned, dim=1).nan_to_num(0.0).sum())


def start_of(method: Any, space: Space) -> dict[str, float]:
    """The method's own settings, its first ratio scaled to the mean, inside the bounds."""
    first, second, *_ = method.shares
    first *= space.mean / space.mean_of(method.shares)
    own = {name: getattr(method, name) for name in ("threshold", "side", "alpha")} | {"first": first, "second": second}
    return {name: min(max(own[name], low), high) for name, (low, high) in space.bounds.items()}


def lengths_of(method: Any, num_layers: int) -> tuple[int, int, int]:
    """Layers of each segment. Raises MethodError unless there are three."""
    if len(method.layers) != 2:
        raise MethodError(f"vflowopt is searched with two layers to cut at; got {tuple(map(int, method.layers))}.")
    one, two = map(int, method.layers)
    return one, two - one, num_layers - two


def read_mean(budget: Budget | None) -> Fraction:
    """The share of tokens in the mean over layers. Raises BudgetError for a count, another scope, or everything."""
    if budget is None:
        return MEAN
    if isinstance(budget.keep, int) or budget.scope not in (None, "layer-mean") or budget.is_everything:
        raise BudgetError(
            f"vflowopt is searched under a share of the tokens in the mean over layers, in (0, 1); got {budget}."
        )
    return budget.keep


def read_trials(options: dict[str, Any]) -> int:
    """How many settings are tried. Raises InputError unless it is an int >= 1."""
    trials = options.get("trials", TRIALS)
    if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
        raise InputError(f"trials must be an int >= 1; got {trials!r}.")
    return trials


@contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Without a line for every trial, and without warnings of what the sampler may yet become, or might install."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
