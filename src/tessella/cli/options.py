"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ImageFile = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture file.", show_default=False)]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.", show_default=False)]
Model = Annotated[str, typer.Option(metavar="MODEL", help="'mini' (inside the package), a folder, or a hub id.")]
Keep = Annotated[
    str | None,
    typer.Option(help="Visual tokens to keep: a number (64), or a fraction (1/9, 0.25; 1.0 is all).", metavar="KEEP"),
]
Scope = Annotated[
    str | None,
    typer.Option(help="What KEEP counts over: image, tile, frame, prompt or layer-mean.", metavar="SCOPE"),
]
Newlines = Annotated[
    str | None,
    typer.Option(
        help="What becomes of newline tokens: compete, follow, keep or drop. By default the method's card decides.",
        metavar="FATE",
    ),
]
Thumbnails = Annotated[
    str | None,
    typer.Option(
        help="What becomes of a thumbnail beside its tiles: compete, keep or drop.",
        metavar="FATE",
    ),
]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.", metavar="N")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto (as saved).", metavar="DTYPE")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...", metavar="DEVICE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
