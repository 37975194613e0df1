"""tessella methods: the list of methods."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Json


def command(
    stage: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Only those that act here: input, encoder, connector, prefill or decode."),
    ] = None,
    needs: Annotated[
        str | None, typer.Option(metavar="NEED", help="Only those that need this, e.g. class_token or decoder_rows.")
    ] = None,
    training_free: Annotated[
        bool | None, typer.Option("--training-free/--trained", help="Only those without, or with, trained weights.")
    ] = None,
    baseline: Annotated[bool | None, typer.Option("--baseline/--no-baseline", help="Only, or no, baselines.")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Say which of them this model can carry: 'mini', a folder or a hub id."),
    ] = None,
    json: Json = False,
) -> None:
    """List the methods."""
    from ..app.jobs import list_methods
    from .output import print_json, quiet_libraries
    from .reports import print_methods

    if model is not None:
        quiet_libraries()
    rows = list_methods(model, stage=stage, needs=needs, training_free=training_free, baseline=baseline)
    if json:
        print_json(rows)
        return
    print_methods(rows, with_model=model is not None)
