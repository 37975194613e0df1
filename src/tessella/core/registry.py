"""The registry: a method's id is its file name, and its file is imported on first use.

Built-in methods are the files of the wings; third parties add theirs through the entry-point group `tessella.methods`
(`my_method = my_package.my_method`, a module with one registered class).
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import pkgutil
import re
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from .contracts import Method
from .errors import MethodError, RegistryError, UnknownMethodError

WINGS = ("tessella.reduction",)
GROUP = "tessella.methods"

_classes: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type[Method])


def register(cls: M) -> M:
    """Class decorator: register a method under the name of its file. Raises RegistryError on a second claim."""
    method_id = cls.__module__.rsplit(".", 1)[-1]
    if cls.__name__.lower() != method_id.replace("_", ""):
        raise RegistryError(f"{cls.__module__}: class {cls.__name__} must be spelled like its file name {method_id!r}.")
    claimed = _classes.get(method_id)
    if claimed is not None and claimed.__module__ != cls.__module__:
        raise RegistryError(f"two claims to method {method_id!r}: {claimed.__module__} and {cls.__module__}.")
    if not getattr(cls, "card", None):
        raise RegistryError(f"{cls.__module__}: {cls.__name__} has no card.")
    cls.id = method_id
    cls.__repr__ = Method.__repr__  # type: ignore[method-assign]  # dataclass wrote one that shows every default
    _classes[method_id] = cls
    return cls


@cache
def method_modules() -> dict[str, str]:
    """Module of each method id, found without importing any. Raises RegistryError on two claims to one id."""
    found: dict[str, str] = {}
    for wing in WINGS:
        spec = importlib.util.find_spec(wing)
        for info in pkgutil.iter_modules(spec.submodule_search_locations if spec else None):
            _claim(found, info.name, f"{wing}.{info.name}")
    for point in entry_points(group=GROUP):
        _claim(found, point.name, point.value)
    return dict(sorted(found.items()))


def load_class(method_id: str) -> type[Method]:
    """The class of a method. Raises UnknownMethodError with the closest ids."""
    if method_id not in method_modules() and method_id not in _classes:
        close = difflib.get_close_matches(method_id, list(method_modules()), n=2, cutoff=0.5)
        hint = f" Closest: {', '.join(repr(c) for c in close)}." if close else ""
        raise UnknownMethodError(f"no method {method_id!r}.{hint} List: tessella methods")
    if method_id not in _classes:
        module = method_modules()[method_id]
        importlib.import_module(module.split(":")[0])
        if method_id not in _classes:
            raise RegistryError(f"{module} registers no method {method_id!r}; its id is its file name.")
    return _classes[method_id]


def make(method_id: str, **settings: Any) -> Method:
    """A method by id with hyper-parameters. Raises UnknownMethodError or MethodError, naming what is allowed."""
    cls = load_class(method_id)
    known: list[str] = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Closest: {close[0]!r}." if close else ""
            allowed = f"allowed: {', '.join(known)}" if known else "it has none"
            raise MethodError(f"{method_id} has no setting {name!r}; {allowed}.{hint}")
    try:
        return cls(**settings)
    except TypeError as error:
        raise MethodError(f"{method_id}: {re.sub(r'^.*__init__[(][)] ', '', str(error))}") from None


def methods(
    *,
    stage: str | None = None,
    needs: str | None = None,
    training_free: bool | None = None,
    baseline: bool | None = None,
) -> dict[str, type[Method]]:
    """All registered methods by id, filtered by their cards."""
    out = {method_id: load_class(method_id) for method_id in method_modules()}
    if stage is not None:
        out = {i: c for i, c in out.items() if stage in c.card.stages}
    if needs is not None:
        out = {i: c for i, c in out.items() if needs in c.card.needs}
    if training_free is not None:
        out = {i: c for i, c in out.items() if c.card.training_free == training_free}
    if baseline is not None:
        out = {i: c for i, c in out.items() if c.card.baseline == baseline}
    return out


def _claim(found: dict[str, str], method_id: str, module: str) -> None:
    if method_id in found:
        raise RegistryError(f"two claims to method {method_id!r}: {found[method_id]} and {module}.")
    found[method_id] = module
