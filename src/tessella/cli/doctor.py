"""tessella doctor: what is installed and what works."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Json


def command(
    families: Annotated[
        bool, typer.Option("--families", help="Also run every method on a tiny model of every family.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what is installed and what works.

    Versions, devices, back ends, and a question to the embedded model. Exits with 1 if something does not work; a
    method that refuses a family and says why works. With --families it takes up to a minute.
    """
    from ..app.doctor import examine, examine_families, is_healthy
    from .output import print_json, quiet_libraries
    from .progress import Reporter
    from .reports import print_examination, print_matrix

    quiet_libraries()
    report, matrix = examine(), None
    if families:
        with Reporter() as reporter:
            matrix = examine_families(reporter)
    if json:
        print_json(report if matrix is None else {**report, "families": matrix.to_dict()})
    else:
        print_examination(report)
        if matrix is not None:
            print_matrix(matrix)
    if not is_healthy(report) or (matrix is not None and matrix.has_failed):
        raise typer.Exit(1)
