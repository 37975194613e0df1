"""A command with an option whose value may be left out, which typer itself does not offer."""

from __future__ import annotations

from typing import Any

import typer.core


class RayAlone(typer.core.TyperCommand):
    """Reads `--ray` without an address as `--ray local`. For commands that take no arguments beside their options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, fill_in(args, "--ray", "local"))


def fill_in(args: list[str], option: str, value: str) -> list[str]:
    """The arguments, with a value behind an option that has none.

    >>> fill_in(["--ray", "--only"], "--ray", "local")
    ['--ray', 'local', '--only']
    """
    out = []
    for arg, following in zip(args, [*args, "--"][1:], strict=True):
        out.append(arg)
        if arg == option and following.startswith("-"):
            out.append(value)
    return out
