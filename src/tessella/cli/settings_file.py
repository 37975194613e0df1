"""Options of a command from a small TOML file; what stands on the command line beside it wins."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import InputError


def read_settings(context: typer.Context, path: str | None) -> str | None:
    """Make the values of a file the defaults of the command that is about to run.

    Raises InputError in one line for a file that is missing or no TOML, and for a name that is no option.
    """
    if path is None:
        return None
    options = {p.name: p for p in context.command.params if p.name not in (None, "settings", "help")}
    given = {name.replace("-", "_"): value for name, value in _read(path).items()}
    for name, value in given.items():
        if name not in options:
            close = difflib.get_close_matches(name, list(map(str, options)), n=1, cutoff=0.5)
            hint = f" Closest: {close[0]!r}." if close else ""
            raise InputError(f"{path!r} sets {name!r}, which is no option of this command.{hint}")
        given[name] = _as_text(path, name, value)
    context.default_map = {**(context.default_map or {}), **given}
    return path


Settings = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help='A TOML file of options, as in: methods = ["hiprune", "fastv"]. Options given beside it win.',
        callback=read_settings,
        is_eager=True,
    ),
]


def _read(path: str) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[import-not-found, no-redef]
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"the settings {path!r} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the settings {path!r} are no TOML: {error}.") from error


def _as_text(path: str, name: str, value: Any) -> Any:
    """A value as it would stand on the command line: a list with commas between."""
    if isinstance(value, list) and all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in value):
        return ",".join(map(str, value))
    if isinstance(value, str | int | float):
        return value
    raise InputError(f"{path!r}: {name} must be a text, a number, true, false or a list of texts; got {value!r}.")
