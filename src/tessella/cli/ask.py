"""tessella ask: one question about one picture."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Dtype, ImageFile, Json, Keep, MaxNewTokens, Model, Question, Scope


def command(
    image: ImageFile,
    question: Question,
    model: Model = "mini",
    method: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="A method or pipeline, e.g. hiprune or 'divprune:0.5 | fastv@2:0.5'."),
    ] = None,
    keep: Keep = None,
    scope: Scope = None,
    show: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw kept, merged and dropped patches into this file.")
    ] = None,
    max_new_tokens: MaxNewTokens = 32,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Ask a question about a picture.

    Without --method and --keep every visual token is kept; with --keep alone the method is hiprune.
    """
    from ..app.jobs import Request, Source, ask_file
    from .output import print_json, print_notes, printable, quiet_libraries

    quiet_libraries()
    request = Request(method, keep, scope, max_new_tokens)
    answer, notes = ask_file(image, question, Source(model, dtype, device), request, show)
    print_notes(notes)
    if json:
        print_json({**answer.to_dict(), "image": image, "model": model, "show": show})
        return
    print(printable(answer.answer))
    print(f"{answer.pipeline}: {answer.counts}, {answer.seconds * 1000:.0f} ms")
    for note in answer.report["notes"]:
        print(f"note: {note}")
    if show:
        print(f"drawn: {show}")
