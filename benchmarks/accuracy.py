"""Record of a ledger: what the README's tables of accuracy are made of.

tessella bench --keep 1/2,1/4,1/9,1/16 --limit 200 --out bench.db
python benchmarks/accuracy.py bench.db      # writes records/bench_mini.json and .md
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from machine import RECORDS, write_record

from tessella.bench.ledger import read_ledger
from tessella.bench.summary import summarize
from tessella.core.errors import TessellaError


def runs_of(ledger: Path) -> list[dict[str, Any]]:
    """When each run on a ledger started, and on which machine and commit."""
    with closing(sqlite3.connect(ledger)) as connection:
        found = connection.execute("SELECT started_at, facts FROM runs ORDER BY started_at").fetchall()
    return [{"started_at": start, **json.loads(facts)} for start, facts in found]


def _describe(run: dict[str, Any]) -> str:
    commit = f"commit {str(run.get('commit'))[:7]}{'' if run.get('clean') else ', tree not clean'}"
    where = ", ".join(run["accelerators"]) or "no accelerator"
    return f"run of {run['started_at']}: {commit}; {run['cores']} cores, {run['threads']} thread(s), {where}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the record of a ledger of tessella bench.")
    parser.add_argument("ledger", type=Path, help="the SQLite file of the run")
    parser.add_argument(
        "--out", type=Path, default=RECORDS / "bench_mini.json", help="record; .md is written beside it"
    )
    options = parser.parse_args(arguments)
    try:
        summary = summarize(read_ledger(options.ledger))
    except TessellaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs = runs_of(options.ledger)
    write_record({"runs": runs, **summary.to_dict()}, options.out)
    machines = [f"- {_describe(run)}" for run in runs]
    page = "# Bench of the embedded model\n\n" + "\n".join(machines) + "\n\n" + summary.to_markdown().rstrip() + "\n"
    options.out.with_suffix(".md").write_text(page, encoding="utf-8")
    print(f"written: {options.out} and {options.out.with_suffix('.md').name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
