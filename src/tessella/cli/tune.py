"""tessella tune: the cheapest reduction that loses at most so much on your own questions."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Dtype, Json, Model


def command(
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="Samples with answers: a JSON-lines file (image or images, question, answer, kind), a folder with "
            "samples.jsonl, or 'mini:N' for N questions drawn by the project. Half of them are searched on.",
        ),
    ] = "mini:400",
    lose: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="Points of accuracy that may be lost; 1 by default.", show_default=False),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Instead of a limit of the loss: look for the best at this share of the visual tokens, on the mean "
            "over layers (1/9).",
        ),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Methods to build pipelines of; all by default.")
    ] = None,
    trials: Annotated[int, typer.Option(metavar="N", help="Pipelines to try.")] = 100,
    limit: Annotated[int | None, typer.Option(metavar="N", help="At most so many samples, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of all that is drawn.")] = 0,
    batch: Annotated[int, typer.Option(metavar="N", help="Samples read together.")] = 20,
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="The recipe to write; its answers (.db) and numbers (.front.json) go beside it."
        ),
    ] = "tuned.json",
    model: Model = "mini",
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Search for the cheapest reduction that loses at most so much on your questions.

    Methods, combinations of their parts, two steps in a row, layers and keeps are tried on half of the samples, and
    what is found is judged on the other half. It is written as a recipe: --method FILE. The same command goes on where
    it was stopped; Ctrl-C keeps the best so far. Exits with 1, and writes no recipe, if nothing keeps to the limit.
    """
    from ..app.source import Source
    from ..app.tuning import Request, how_to_use_tuned, result_as_json, run_tuning
    from .output import print_json, print_table, printable, quiet_libraries
    from .progress import Reporter

    quiet_libraries()
    request = Request(data, lose, keep, methods, trials, limit, seed, batch)
    with Reporter() as reporter:
        result = run_tuning(request, Source(model, dtype, device), out, reporter.advance)
    if json:
        print_json(result_as_json(result))
    else:
        for table in result.tables():
            print(table.title)
            print_table(table.heads, table.rows, right=table.right)
            print()
        print(printable("\n".join(result.words())))
        if use := how_to_use_tuned(result, model):
            print(printable(f"written: {out}\nuse: {use}"))
    if result.recipe is None:
        raise typer.Exit(1)
