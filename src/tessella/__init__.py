"""Run any Hugging Face vision-language model on a fraction of its visual tokens.

model, processor = tessella.load("mini")
with tessella.reduce(model, "hiprune", keep=64) as run:
    out = model.generate(**inputs)
print(run.report)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.budget import Budget
    from .core.contracts import Method
    from .core.errors import TessellaError
    from .core.pipeline import Pipeline, parse
    from .core.registry import make, methods, register
    from .engine.apply import apply, can_apply, current_run, reduce, remove
    from .engine.run import Run
    from .loading import load, load_text_tower

__version__ = "0.1.0"

_HOME = {
    "Budget": "core.budget",
    "Method": "core.contracts",
    "Pipeline": "core.pipeline",
    "Run": "engine.run",
    "TessellaError": "core.errors",
    "apply": "engine.apply",
    "can_apply": "engine.apply",
    "current_run": "engine.apply",
    "load": "loading",
    "load_text_tower": "loading",
    "make": "core.registry",
    "methods": "core.registry",
    "parse": "core.pipeline",
    "reduce": "engine.apply",
    "register": "core.registry",
    "remove": "engine.apply",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    """Exports are imported on first use, so that `import tessella` is quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'tessella' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"tessella.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
