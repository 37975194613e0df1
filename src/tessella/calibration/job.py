"""What a fitter is given, and what it answers.

A fitter is a file beside this one, named as the method whose settings it fits. It holds

    MIN_SAMPLES: int                   fewer are refused
    fit(method: Method, job: Job)      the work; `method` has its layers fitted to the model

and, where they apply,

    OPTIONS: tuple[str, ...]           names that `job.options` may hold; without it there are none
    USES_KEEP: bool                    True where settings are fitted under `job.budget`; without it a keep is refused
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.budget import Budget
from ..samples import Sample


@dataclass(frozen=True)
class Job:
    """One calibration: a model, the user's samples, and what is to be fitted.

    `budget` is the keep that the user asked for, for fitters that search under one. `advance(done, of)` tells the user
    how far the work is; it may raise KeyboardInterrupt.
    """

    model: Any
    processor: Any
    samples: Sequence[Sample]
    budget: Budget | None = None
    seed: int = 0
    batch: int = 8
    options: dict[str, Any] = field(default_factory=dict)  # of the fitter, by name
    advance: Callable[[int, int], None] = lambda done, of: None


@dataclass(frozen=True)
class Fit:
    """Settings of a method, as plain numbers, texts and tuples; and the evidence that they rest on, for the recipe.

    `budget`: the keep at which the settings run where none is given, for methods that need one.
    """

    settings: dict[str, Any]
    evidence: dict[str, Any]
    budget: Budget | None = None
