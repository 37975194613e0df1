"""tessella export: a ledger as one table for other tools."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="A ledger of tessella bench.", show_default=False)],
    out: Annotated[
        str, typer.Argument(metavar="FILE", help="The table to write: .csv or .parquet.", show_default=False)
    ],
) -> None:
    """Write a ledger's answers as CSV or Parquet, a row for each."""
    from ..bench.exporting import export_ledger

    print(f"{export_ledger(ledger, out):,} rows: {out}")
