"""Fit a method's settings to a model on a user's own samples."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .. import __version__
from ..core.budget import Budget
from ..core.contracts import Method
from ..core.errors import InputError, UnsupportedError
from ..core.method_text import read_method
from ..core.recipe import DataFacts, Recipe
from ..core.registry import method_modules
from ..engine.plan import check_method
from ..engine.signature import describe_model
from ..models.adapter import find_adapter
from ..samples import Sample, digest_samples
from .job import Fit, Job

EXTRA = ("optuna", "scipy")  # what `tessella[calibrate]` installs


@dataclass(frozen=True)
class Fitter:
    """What fits the settings of a method; see `job`."""

    method: str
    min_samples: int
    fit: Callable[[Method, Job], Fit]
    options: tuple[str, ...] = ()
    uses_keep: bool = False

    def check(self, budget: Budget | None, options: Mapping[str, Any], batch: int) -> None:
        """Raise InputError for an option or a keep that this fitter does not take, or for a batch of nothing."""
        if batch < 1:
            raise InputError(f"batch must be at least 1 sample; got {batch}.")
        for name in options:
            if name not in self.options:
                close = difflib.get_close_matches(name, self.options, n=1)
                hint = f" Closest: {close[0]!r}." if close else ""
                allowed = f"allowed: {', '.join(self.options)}" if self.options else "it takes none"
                raise InputError(f"calibrating {self.method} has no option {name!r}; {allowed}.{hint}")
        if budget is not None and not self.uses_keep:
            raise InputError(
                f"what is fitted for {self.method} does not depend on a keep; got {budget}. "
                "Give it where the recipe is used."
            )

    def check_samples(self, count: int) -> None:
        """Raise InputError for too few samples."""
        if count < self.min_samples:
            raise InputError(f"calibrating {self.method} needs at least {self.min_samples} samples; got {count}.")


def fitters() -> tuple[str, ...]:
    """Ids of the methods that have settings to fit."""
    here = {module.name for module in pkgutil.iter_modules(importlib.import_module(__package__).__path__)}
    return tuple(sorted(here & set(method_modules())))


def find_fitter(method_id: str) -> Fitter:
    """The fitter of a method. Raises UnsupportedError naming those that there are, InputError for a missing package."""
    if method_id not in fitters():
        raise UnsupportedError(
            f"{method_id} has no settings that are fitted to samples; these have: {', '.join(fitters())}."
        )
    with _naming_extra(method_id):
        module = importlib.import_module(f"{__package__}.{method_id}")
    options, uses_keep = getattr(module, "OPTIONS", ()), getattr(module, "USES_KEEP", False)
    return Fitter(method_id, module.MIN_SAMPLES, module.fit, options, uses_keep)


def calibrate(
    model: Any,
    processor: Any,
    method: str | Method,
    samples: Sequence[Sample],
    keep: int | float | str | Budget | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    advance: Callable[[int, int], None] = lambda done, of: None,
    *,
    batch: int = 8,
    data_name: str = "samples",
) -> Recipe:
    """Fit the settings of a method to a model on samples; what is fitted replaces what `method` says of it.

    `keep` is for methods whose settings are fitted under one, `options` are the fitter's own. `advance(done, of)` is
    called as the work goes on. `batch` samples are read at a time. `data_name` is what the recipe calls the samples.

    Raises UnsupportedError for a method without a fitter or one that the model cannot carry, InputError for too few
    samples, an unknown option, a keep without use, or a missing package.
    """
    method = read_method(method) if isinstance(method, str) else method
    budget = keep if isinstance(keep, Budget | None) else Budget(keep)
    options = dict(options or {})
    fitter = find_fitter(method.id)
    fitter.check(budget, options, batch)
    fitter.check_samples(len(samples))
    adapter = find_adapter(model)
    check_method(adapter, method)
    job = Job(model, processor, samples, budget, seed, batch, options, advance)
    with _naming_extra(method.id), torch.no_grad():
        fit = fitter.fit(method.fit(adapter.info), job)
    return Recipe(
        method=method.id,
        settings={**method.settings(), **fit.settings},
        model=describe_model(model, adapter),
        data=DataFacts(data_name, len(samples), digest_samples(samples)),
        seed=seed,
        tessella=__version__,
        budget=fit.budget,
        options={**options, **({} if budget is None else {"keep": str(budget)})},
        evidence=fit.evidence,
    )


@contextmanager
def _naming_extra(method_id: str) -> Iterator[None]:
    """Turn the lack of a package of the extra into one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        raise InputError(
            f"calibrating {method_id} needs {package}, which is not installed: pip install 'tessella[calibrate]'"
        ) from None
