"""Replay recorded tensors through the registered methods: `python tests/golden/replay.py DIR [--strict]`.

Every `*.npz` under DIR belongs to the longest method id that prefixes its name. Prints one line a file and last
`N passed, N failed, N skipped`. Exits 1 on a failure or an unreadable file, with `--strict` on a skip too.

A method's driver, `drivers/<id>.py`, maps the arrays of a file to a view and what the method answers to the recorded
results; it computes nothing. Indices and masks must match exactly, floats within 1e-4 relative.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]

from recorded import Golden

from tessella.core.registry import method_modules

# parts of implemented methods that a file may record and that are not implemented, by how its name starts
NOT_IMPLEMENTED = {
    "yopo": "yopo's neighbour window, head mask and feed-forward slice are not implemented",
    "yopo_calib": "yopo's head masks from calibration are not implemented",
}


def driver_of(method: str) -> Any:
    """The module that replays a method's files; None where there is none."""
    name = f"drivers.{method}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def owner_of(stem: str, ids: set[str]) -> str:
    """The longest id that prefixes a file's name, or the name up to its first number."""
    fitting = [i for i in ids if stem == i or stem.startswith(f"{i}_")]
    return max(fitting, key=len) if fitting else re.split(r"_(?=[a-z]*\d)", stem)[0]


def missing_part(stem: str) -> str | None:
    """Why what a file records cannot be replayed; None where it can."""
    starts = [start for start in NOT_IMPLEMENTED if stem == start or stem.startswith(f"{start}_")]
    return NOT_IMPLEMENTED[max(starts, key=len)] if starts else None


def replay_file(path: Path, ids: set[str]) -> tuple[str, str]:
    """`ok`, `FAIL` or `skip` with a line of detail."""
    owner = owner_of(path.stem, ids)
    try:
        file = Golden(path)
        lacking = missing_part(path.stem)
        if lacking is not None:
            return "skip", lacking
        if owner not in method_modules():
            return "skip", f"method {owner} is not implemented"
        driver = driver_of(owner)
        if driver is None:
            return "FAIL", f"method {owner} has no driver"
        driver.replay(file)
    except AssertionError as error:
        return "FAIL", str(error)
    except Exception as error:  # an unreadable file or a method that raises is a failure, never the end of the run
        return "FAIL", f"{type(error).__name__}: {error}".splitlines()[0]
    return "ok", ", ".join(file.compared)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--strict", action="store_true", help="fail on skipped files too")
    options = parser.parse_args(argv)
    ids = set(method_modules()) | {p.stem for p in options.directory.rglob("*.md")}
    count = {"ok": 0, "FAIL": 0, "skip": 0}
    for path in sorted(options.directory.rglob("*.npz")):
        status, detail = replay_file(path, ids)
        count[status] += 1
        print(f"{status:<4}  {path.relative_to(options.directory)}  {detail}")
    print(f"{count['ok']} passed, {count['FAIL']} failed, {count['skip']} skipped")
    return 1 if count["FAIL"] or (options.strict and count["skip"]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
