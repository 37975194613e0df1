"""tessella show: one method in full."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Json


def command(
    method: Annotated[str, typer.Argument(metavar="ID", help="A method's id, as `tessella methods` lists it.")],
    json: Json = False,
) -> None:
    """Show one method in full: card, paper, settings."""
    from ..app.catalogue import method_details
    from .output import print_json
    from .reports import print_method

    details = method_details(method)
    if json:
        print_json(details)
        return
    print_method(details)
