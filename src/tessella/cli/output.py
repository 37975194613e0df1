"""Print results: tables for people, JSON for programs, notes on standard error."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 160  # columns when the output is no terminal


def quiet_libraries() -> None:
    """Keep advice of the libraries below out of the output; what matters to the user is raised as an error."""
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control characters, which a model may write, become a replacement mark."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_note(note: str) -> None:
    print(f"note: {note}", file=sys.stderr)


def print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print_note(note)


def print_json(value: Any) -> None:
    from ..app.jobs import to_json

    print(to_json(value))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> None:
    """A table without frames; `right` are the columns set flush right. Text is printed as it is, without markup."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for n, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if n in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
