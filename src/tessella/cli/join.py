"""tessella join: ledgers of several machines in one."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    ledgers: Annotated[
        list[str], typer.Argument(metavar="LEDGER...", help="Ledgers of tessella bench.", show_default=False)
    ],
    out: Annotated[
        str, typer.Option(metavar="FILE", help="The ledger that they are copied into; one that is there is continued.")
    ] = "bench.db",
) -> None:
    """Join ledgers, such as those of `tessella bench --shard 1/2` and `2/2`, into one."""
    from ..bench.joining import join_ledgers

    print(f"{join_ledgers(ledgers, out):,} rows added: {out}")
