"""The command line: one file per command; each calls one public function and prints what it returns."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a mistake in the request (one line), 130 interrupted."""
    from .application import run

    sys.exit(run(sys.argv[1:] if args is None else list(args)))
