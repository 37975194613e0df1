"""Public sets as tasks, one file a set; a set's name is its file name, and its file is imported on first use."""

from __future__ import annotations

import ast
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

    `options` are the set's own fields, which may also stand behind the name: `load_set("textvqa", ocr=True)` is
    `load_set("textvqa(ocr=True)")`. Raises InputError with the closest name for a set or an option that there is not,
    and for an option of another type than its default.
    """
    name, told = split_options(name)
    if name not in set_names():
        raise InputError(f"no set {name!r}.{_closest(name, set_names())} Sets: {', '.join(set_names())}.")
    module = importlib.import_module(f"{__name__}.{name}")
    cls = next(c for n, c in vars(module).items() if n.lower() == name.replace("_", ""))
    _check_options(cls, told | options)
    return cls(data=data, **told, **options)


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """A set's name and the options in brackets behind it."""
    name, bracket, inner = text.partition("(")
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"dict({inner}", mode="eval").body
        if isinstance(call, ast.Call) and not call.args:
            return name, {word.arg or "**": ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError):
        pass
    raise InputError(f"options of a set are written as in 'textvqa(ocr=True)'; got {text!r}.")


def _check_options(cls: type[HubSet], options: dict[str, Any]) -> None:
    known = {field.name: field.default for field in dataclasses.fields(cls) if field.name != "data"}
    for option, value in options.items():
        if option not in known:
            allowed = f"allowed: {', '.join(known)}" if known else "it has none"
            raise InputError(f"{cls.id} has no option {option!r}; {allowed}.{_closest(option, list(known))}")
        default = known[option]
        if default is not None and type(value) is not type(default):
            raise InputError(f"{cls.id}: {option} must be of type {type(default).__name__}; got {value!r}.")


def _closest(word: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Closest: {close[0]!r}." if close else ""
