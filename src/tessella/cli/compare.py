"""tessella compare: one question, several methods."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Dtype, ImageFile, Json, Keep, MaxNewTokens, Model, Newlines, Question, Scope, Thumbnails


def command(
    image: ImageFile,
    question: Question,
    methods: Annotated[
        str, typer.Option(metavar="A,B,C", help="Methods or pipelines, with commas between.", show_default=False)
    ],
    keep: Keep = None,
    scope: Scope = None,
    newlines: Newlines = None,
    thumbnails: Thumbnails = None,
    model: Model = "mini",
    sheet: Annotated[str | None, typer.Option(metavar="FILE", help="Write a picture sheet.")] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write one self-contained page.")] = None,
    max_new_tokens: MaxNewTokens = 32,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Compare methods on one question.

    The table has answers, tokens, times and cache sizes, beside the model with every token.
    """
    from ..app.jobs import Request, compare_file
    from ..app.source import Source
    from .output import print_json, print_notes, quiet_libraries
    from .reports import print_comparison

    quiet_libraries()
    request = Request(None, keep, scope, newlines, thumbnails, max_new_tokens)
    comparison, notes = compare_file(image, question, methods, Source(model, dtype, device), request, sheet, html)
    print_notes(notes)
    if json:
        print_json({**comparison.to_dict(), "image": image, "model": model, "sheet": sheet, "html": html})
        return
    print_comparison(comparison)
    for name in filter(None, (sheet, html)):
        print(f"written: {name}")
