"""All commands in one application, and every mistake in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from ..core.errors import TessellaError
from . import (
    ask,
    bench,
    calibrate,
    claims,
    compare,
    demo,
    diagnose,
    doctor,
    export,
    join,
    methods,
    report,
    serve,
    show,
    tune,
)

PROGRAM = "tessella"
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of whichever click typer is built on


class Interrupted(Exception):
    """Ctrl-C inside a command; raised in place of KeyboardInterrupt, for which typer would print and exit itself."""


class Commands(typer.core.TyperGroup):
    """The group of all commands; hands Ctrl-C to `run`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(*interrupt.args) from None


app = typer.Typer(
    name=PROGRAM,
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run vision-language models on a fraction of their visual tokens."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


COMMANDS = (
    ask,
    compare,
    bench,
    report,
    claims,
    export,
    join,
    calibrate,
    tune,
    diagnose,
    serve,
    methods,
    show,
    doctor,
    demo,
)
for module in COMMANDS:
    app.command(module.__name__.rsplit(".", 1)[-1], cls=getattr(module, "Command", None))(module.command)


def run(args: Sequence[str]) -> int:
    """Run the command line and return its exit code. Mistakes in the request print one line; others a traceback."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a character gets a question mark
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(args), prog_name=PROGRAM, standalone_mode=False)
    except TessellaError as error:
        return _complain(str(error))
    except UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else PROGRAM
        message: str = error.format_message()  # type: ignore[attr-defined]
        return _complain(f"{message}{'' if message.endswith(('.', '?')) else '.'} Help: {path} --help")
    except (Interrupted, KeyboardInterrupt, typer.Abort) as interrupt:
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return 130
    return code if isinstance(code, int) else 0


def _complain(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2
