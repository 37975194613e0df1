"""Public sets as tasks, one file a set; a set's name is its file name, and its file is imported on first use."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError

if TYPE_CHECKING:
    from .loading import HubSet

SHARED = ("clips", "loading", "local", "scoring")  # files here that hold no set


def set_names() -> tuple[str, ...]:
    """Names of all sets in alphabetical order, found without importing any."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in SHARED))


def load_set(name: str, data: str | Path | None = None, **options: Any) -> HubSet:
    """A set by name, bound to the hub or to a copy of it at `data`; nothing is read yet.

    `options` are the set's own fields: `load_set("textvqa", ocr=True)`. Raises InputError with the closest name for a
    set or an option that there is not.
    """
    if name not in set_names():
        raise InputError(f"no set {name!r}.{_closest(name, set_names())} Sets: {', '.join(set_names())}.")
    module = importlib.import_module(f"{__name__}.{name}")
    cls = next(c for n, c in vars(module).items() if n.lower() == name.replace("_", ""))
    known = [field.name for field in dataclasses.fields(cls) if field.name != "data"]
    for option in options:
        if option not in known:
            allowed = f"allowed: {', '.join(known)}" if known else "it has none"
            raise InputError(f"{name} has no option {option!r}; {allowed}.{_closest(option, known)}")
    return cls(data=data, **options)


def _closest(word: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Closest: {close[0]!r}." if close else ""
