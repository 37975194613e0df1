"""tessella ask: one question about a picture, or several."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Dtype, ImageFile, Json, Keep, MaxNewTokens, Model, Newlines, Question, Scope, Thumbnails


def command(
    image: ImageFile,
    question: Question,
    also: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A further picture; may be given several times.")
    ] = None,
    model: Model = "mini",
    method: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="A method or pipeline, e.g. hiprune or 'divprune:0.5 | fastv@2:0.5'."),
    ] = None,
    keep: Keep = None,
    scope: Scope = None,
    newlines: Newlines = None,
    thumbnails: Thumbnails = None,
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
    from ..app.jobs import Request, ask_files
    from ..app.source import Source
    from .output import print_json, print_notes, printable, quiet_libraries

    quiet_libraries()
    request = Request(method, keep, scope, newlines, thumbnails, max_new_tokens)
    images = [image, *(also or ())]
    answer, notes = ask_files(images, question, Source(model, dtype, device), request, show)
    print_notes(notes)
    if json:
        print_json({**answer.to_dict(), "image": image, "also": also or [], "model": model, "show": show})
        return
    print(printable(answer.answer))
    print(f"{answer.pipeline}: {answer.counts}, {answer.seconds * 1000:.0f} ms")
    for note in answer.report["notes"]:
        print(f"note: {note}")
    if show:
        print(f"drawn: {show}")
