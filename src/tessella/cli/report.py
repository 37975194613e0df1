"""tessella report: what a ledger says, as tables, as one page, as JSON."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Dtype, Json, Model


def command(
    ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="A ledger of tessella bench.", show_default=False)],
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write one self-contained page: charts, pictures and settings.")
    ] = None,
    gallery: Annotated[
        int,
        typer.Option(
            metavar="N", help="Questions on the page that show what methods keep where they disagree; 0 for none."
        ),
    ] = 8,
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where the pictures of a public set lie, for the gallery.")
    ] = None,
    model: Model = "mini",
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Read a ledger: the leaderboard, and what to know before believing it.

    The model is asked again for the pictures of the page alone, and only if it has the weights that answered.
    """
    from ..app.reporting import run_report
    from ..app.source import Source
    from .output import print_json, quiet_libraries
    from .reports import print_boards

    quiet_libraries()
    report = run_report(ledger, Source(model, dtype, device), html, gallery, data)
    if json:
        print_json(report.to_dict())
        return
    print_boards(report)
    if html is not None:
        print(f"written: {html}")
