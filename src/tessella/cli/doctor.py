"""tessella doctor: what is installed and what works."""

from __future__ import annotations

import typer

from .options import Json


def command(json: Json = False) -> None:
    """Say what is installed and what works.

    Versions, devices, back ends, and a question to the embedded model. Exits with 1 if something does not work.
    """
    from ..app.doctor import examine, is_healthy
    from .output import print_json, quiet_libraries
    from .reports import print_examination

    quiet_libraries()
    report = examine()
    if json:
        print_json(report)
    else:
        print_examination(report)
    if not is_healthy(report):
        raise typer.Exit(1)
