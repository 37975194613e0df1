"""tessella calibrate: fit a method's settings to a model, into a recipe."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Dtype, Json, Model, Scope


def command(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="A method that has settings to fit, e.g. adaptinfer or 'attention_debias(scorer=fastv)'.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="Samples: a JSON-lines file (image or images, question, answer, kind), a folder with samples.jsonl, "
            "or 'mini:N' for N questions drawn by the project.",
        ),
    ] = "mini:64",
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="The recipe to write; METHOD.json by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="At most so many samples, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of all that is drawn.")] = 0,
    batch: Annotated[int, typer.Option(metavar="N", help="Samples read together.")] = 8,
    keep: Annotated[
        str | None,
        typer.Option(metavar="KEEP", help="Visual tokens to keep, for methods that are fitted under a budget."),
    ] = None,
    scope: Scope = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the fit; may be given several times."),
    ] = None,
    model: Model = "mini",
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Fit a method's settings to a model on a few dozen samples.

    They are written as a recipe, which stands for the method wherever one is named: --method FILE. It names the model
    and the data that it was fitted on, and is refused for any other model.
    """
    from ..app.calibrating import Request, describe_settings, how_to_use, recipe_as_json, remarks_on, run_calibration
    from ..app.source import Source
    from .output import print_json, print_notes, print_table, printable, quiet_libraries
    from .progress import Reporter

    quiet_libraries()
    request = Request(method, data, keep, scope, limit, seed, batch, option or ())
    with Reporter() as reporter:
        recipe = run_calibration(request, Source(model, dtype, device), out, reporter.advance)
    print_notes(remarks_on(recipe))
    if json:
        print_json(recipe_as_json(recipe))
        return
    print(printable(f"{recipe.method}, fitted on {recipe.data} to {recipe.model}"))
    print_table(("setting", "value"), describe_settings(recipe))
    print(printable(f"written: {recipe.source}"))
    print(printable(f"use: {how_to_use(recipe, model)}"))
