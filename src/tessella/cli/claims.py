"""tessella claims: what papers claim of their methods, and what of it shows here."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Dtype, Json, Model


def command(
    ledger: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Judge the claims on this ledger of `tessella bench`."),
    ] = None,
    run: Annotated[
        bool,
        typer.Option("--run", help="First measure in the ledger what is missing; it goes on where it was stopped."),
    ] = False,
    only: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Claims or methods, with commas between; all by default.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write everything to a file: .json, or .md, where a page with marks for claims and verdicts has what "
            "stands between them made anew.",
        ),
    ] = None,
    model: Model = "mini",
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """List the claims of the methods' papers; with a ledger, say which of them show.

    Each claim is written down with the rule that decides it before its numbers are looked at. A verdict is 'shown',
    'not shown', 'needs a larger model' or 'not measured'.
    """
    from ..app.claiming import Request, judge_claims, list_claims
    from ..app.source import Source
    from ..bench.claims.page import claims_table, methods_table
    from .output import print_json, print_note, print_table, quiet_libraries
    from .progress import Reporter

    quiet_libraries()
    request = Request(ledger, out, run, only)
    if ledger is None and not run:
        claims = list_claims(request)
        plain, table = [claim.to_dict() for claim in claims], claims_table(claims)
    else:
        with Reporter() as reporter:
            judgement = judge_claims(request, Source(model, dtype, device), print_note, reporter)
        plain, table = judgement.to_dict(), methods_table(judgement.verdicts)
    if json:
        print_json(plain)
        return
    print_table(table.heads, table.rows, right=table.right)
    if out is not None:
        print(f"written: {out}")
