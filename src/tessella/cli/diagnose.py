"""tessella diagnose: instruments that show what a model does with its visual tokens, and what methods take away."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Dtype, Json, Model


def command(
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="Samples: a JSON-lines file (image or images, question, answer, kind), a folder with samples.jsonl, "
            "or 'mini:N' for N questions drawn by the project.",
        ),
    ] = "mini:64",
    methods: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Methods or pipelines, with commas between; by default a few usual ones."),
    ] = None,
    keep: Annotated[
        str, typer.Option(metavar="KEEP", help="Visual tokens to keep, for methods without a budget of their own.")
    ] = "1/4",
    instruments: Annotated[
        str | None,
        typer.Option(
            metavar="I1,I2",
            help="Which of horizon, position, dominance, spectrum, overlap and regions; by default all that fit.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="At most so many samples, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of all that is drawn.")] = 0,
    batch: Annotated[int, typer.Option(metavar="N", help="Samples read together.")] = 8,
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write one self-contained page; its numbers go beside it, ending in .json."),
    ] = None,
    model: Model = "mini",
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Show what a model does with its visual tokens.

    From which layer on the answer no longer needs them, whether attention depends on their place, how much of it text
    takes, and what several methods keep and drop.
    """
    from ..app.diagnosing import Request, numbers_beside, run_diagnosis
    from ..app.source import Source
    from .output import print_json, quiet_libraries
    from .progress import Reporter
    from .reports import print_diagnosis

    quiet_libraries()
    request = Request(data, methods, keep, instruments, limit, seed, batch)
    with Reporter() as reporter:
        report = run_diagnosis(request, Source(model, dtype, device), html, reporter.advance)
    if json:
        print_json(report.to_dict())
        return
    print_diagnosis(report.diagnosis)
    if html is not None:
        print(f"written: {html} and {numbers_beside(html)}")
