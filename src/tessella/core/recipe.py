"""Recipes: settings of a method that were fitted to one model on a user's samples, and the JSON that keeps them.

    {
      "method": "adaptinfer",
      "settings": {"layers": [1, 10, 20]},
      "budget": null,
      "model": {"name": "llava-hf/llava-1.5-7b-hf", "family": "llava", "num_layers": 32, ...},
      "data": {"name": "photos.jsonl", "count": 64, "digest": "58cba383c22ddad9"},
      ...
    }

What is written reads back equal: floats to the last bit, sequences as tuples, and a method among the settings as
`{"method": "fastv@2"}`. A recipe of several steps lists those behind the first under `then`, each with its `method`,
`settings` and `budget`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any

from .budget import Budget
from .contracts import Method
from .errors import InputError, MethodError, TessellaError
from .method_text import format_method, read_method
from .registry import make

FORMAT = 1  # of the JSON
_FORMAT_FIELD = "tessella_recipe"


@dataclass(frozen=True)
class ModelFacts:
    """What tells one model from another, whatever its dtype; `name` is for people and is not compared."""

    family: str
    num_layers: int
    hidden_size: int
    vocabulary: int
    signature: str
    name: str = field(compare=False)

    def __str__(self) -> str:
        return (
            f"{self.name!r} ({self.family}, {self.num_layers} layers of width {self.hidden_size}, vocabulary "
            f"{self.vocabulary:,}, weights {self.signature})"
        )


@dataclass(frozen=True)
class DataFacts:
    """The samples of a fit: what they are called, how many, and a digest of their pictures and texts."""

    name: str
    count: int
    digest: str

    def __str__(self) -> str:
        return f"{self.count:,} samples of {self.name!r}"


@dataclass(frozen=True)
class LaterStep:
    """A step of a recipe behind its first: a method's settings, and its budget there. Raises as `Recipe` does."""

    method: str
    settings: Mapping[str, Any]
    budget: Budget | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", _plain_settings(self.settings))
        self.make()

    def make(self) -> Method:
        """The method with its settings."""
        return make(self.method, **self.settings)


@dataclass(frozen=True)
class Recipe:
    """A method with settings fitted to a model, or several in a row.

    `settings` are those that were fitted and those that the user gave; `budget` is the keep at which they run where
    none is given; `options` what the fit was asked for, `evidence` what it rests on. `then` are further steps, whose
    budgets, and then `budget` too, are fixed. `source` is the file that it was read from. Sequences become tuples; a
    number of the evidence that is none (nan, inf) becomes None.

    Raises MethodError for values that a recipe cannot hold, UnknownMethodError and MethodError for a method or a
    setting that there is not.
    """

    method: str
    settings: Mapping[str, Any]
    model: ModelFacts
    data: DataFacts
    seed: int
    tessella: str  # the version
    budget: Budget | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    then: tuple[LaterStep, ...] = ()
    source: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", _plain_settings(self.settings))
        for name in ("options", "evidence"):
            plain = {k: _plain(v, f"{name} {k!r}", False) for k, v in getattr(self, name).items()}
            object.__setattr__(self, name, plain)
        self.make()
        if self.then and self.budget is None and all(step.budget is None for step in self.then):
            raise MethodError("a recipe of several steps needs a budget in one of them at least; got none.")

    @property
    def made_by(self) -> str:
        """The command that makes one like it: a search says what its goal was."""
        return "tessella tune" if "goal" in self.options else f"tessella calibrate {self.method}"

    def make(self) -> Method:
        """The method with its settings."""
        return make(self.method, **self.settings)

    def to_text(self) -> str:
        """JSON, sorted by name, that `recipe_from_text` reads back to an equal recipe."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "source"}
        fields |= {"model": dataclasses.asdict(self.model), "data": dataclasses.asdict(self.data)}
        fields |= {"budget": _write_budget(self.budget), _FORMAT_FIELD: FORMAT}
        fields["then"] = [vars(step) | {"budget": _write_budget(step.budget)} for step in self.then]
        if not self.then:
            del fields["then"]
        return _write(fields) + "\n"


def recipe_from_text(text: str, source: str | None = None) -> Recipe:
    """The recipe in a JSON text. Raises InputError for what is none, and as `Recipe` does."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON: {getattr(error, 'msg', error)}.") from None
    if not isinstance(fields, dict) or _FORMAT_FIELD not in fields:
        raise InputError(f"it is JSON, but no recipe: it has no field {_FORMAT_FIELD!r}.")
    number = fields.pop(_FORMAT_FIELD)
    if number != FORMAT:
        raise InputError(f"it is of format {number!r:.20}; this version reads format {FORMAT}.")
    later = fields.pop("then", [])
    _check(fields, _FIELDS, "")
    for name, cls in (("model", ModelFacts), ("data", DataFacts)):
        _check(fields[name], {f.name: (_KINDS[str(f.type)],) for f in dataclasses.fields(cls)}, f"{name}.")
        fields[name] = cls(**fields[name])
    if not isinstance(later, list) or not all(isinstance(step, dict) for step in later):
        raise InputError(f"its field 'then' must be a list of objects; got {later!r:.60}.")
    for number, step in enumerate(later):
        _check(step, {name: _FIELDS[name] for name in ("method", "settings", "budget")}, f"then[{number}].")
    then = tuple(LaterStep(**_read_step(step)) for step in later)
    return Recipe(**_read_step(fields), then=then, source=source)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a file. Raises InputError naming the file where it is missing or none; else as `Recipe` does."""
    place = Path(path)
    if place.suffix.lower() != ".json":
        raise InputError(f"the name of a recipe ends in .json; got {str(path)!r}.")
    try:
        text = place.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} is no recipe: it is not UTF-8 text.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the recipe {str(path)!r} cannot be read: {reason}.") from None
    try:
        return recipe_from_text(text, str(path))
    except TessellaError as error:
        raise type(error)(f"the recipe {str(path)!r} cannot be used: {error}") from None


_KINDS = {"str": str, "int": int}
_FIELDS: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "settings": (dict,),
    "model": (dict,),
    "data": (dict,),
    "seed": (int,),
    "tessella": (str,),
    "budget": (str, NoneType),
    "options": (dict,),
    "evidence": (dict,),
}


def _check(fields: dict[str, Any], kinds: dict[str, tuple[type, ...]], prefix: str) -> None:
    """Raise InputError unless the fields are those of `kinds`."""
    for name in (*kinds, *fields):
        if name not in fields:
            raise InputError(f"it has no field '{prefix}{name}'.")
        if name not in kinds:
            raise InputError(f"it has a field '{prefix}{name}'; allowed: {', '.join(kinds)}.")
        if type(fields[name]) not in kinds[name]:
            allowed = " or ".join(_NAMES[kind] for kind in kinds[name])
            raise InputError(f"its field '{prefix}{name}' must be {allowed}; got {fields[name]!r:.60}.")


_NAMES = {str: "a text", int: "an integer", dict: "an object", NoneType: "null"}


def _plain(value: Any, where: str, is_setting: bool) -> Any:
    """A value as it reads back from JSON. Raises MethodError for what a recipe cannot hold."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and (math.isfinite(value) or not is_setting):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, tuple | list):
        return tuple(_plain(v, where, is_setting) for v in value)
    if isinstance(value, Method) and is_setting:
        return value
    if isinstance(value, Mapping) and not is_setting and all(isinstance(k, str) for k in value):
        return {k: _plain(v, where, is_setting) for k, v in value.items()}
    allowed = "a finite number, a text, a method" if is_setting else "a number, a text, an object with texts as names"
    raise MethodError(f"{where} of a recipe must be {allowed} or a tuple of such; got {value!r:.60}.")


def _plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value, f"settings {name!r}", True) for name, value in settings.items()}


def _read_step(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields with the budget and the settings of a method as objects."""
    settings = {k: _read_setting(v) for k, v in fields["settings"].items()}
    if fields["budget"] is None:
        return {**fields, "settings": settings}
    keep, _, scope = fields["budget"].partition(" per ")
    return {**fields, "settings": settings, "budget": Budget(keep, scope or None)}


def _write_budget(budget: Budget | None) -> str | None:
    return None if budget is None else str(budget)


def _read_setting(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_read_setting, value))
    is_method = isinstance(value, dict) and list(value) == ["method"] and isinstance(value["method"], str)
    return read_method(value["method"]) if is_method else value


def _write(value: Any, indent: str = "") -> str:
    """JSON with one field a line and sequences in one line."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_write_method)
    inner = indent + "  "
    lines = (f"{inner}{json.dumps(k, ensure_ascii=False)}: {_write(v, inner)}" for k, v in sorted(value.items()))
    return "{\n" + ",\n".join(lines) + "\n" + indent + "}"


def _write_method(method: Method) -> dict[str, str]:
    return {"method": format_method(method)}
