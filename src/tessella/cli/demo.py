"""tessella demo: the main job on bundled pictures."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the picture sheet; made if missing.")] = "demo",
) -> None:
    """Run the embedded model on bundled pictures.

    It answers with all of its visual tokens, a quarter and a ninth of them; takes less than a minute.
    """
    from ..app.jobs import run_demo
    from .output import quiet_libraries
    from .reports import print_demo_part

    quiet_libraries()
    sheet = run_demo(out, print_demo_part)
    print(f"Picture sheet: {sheet}")
