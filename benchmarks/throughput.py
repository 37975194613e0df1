"""How many answers a second the bench gives, with shared encoding and batches and without, and what its ledger costs.

    python benchmarks/throughput.py            # the work of benchmarks/connector.toml; about half an hour
    python benchmarks/throughput.py --limit 20 # fewer questions of each type

Both ways answer questions of every type in one run, type by type in turns. The plain way encodes each picture for every
setting and answers one question at a time; it is given fewer questions, and compared by answers a second.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import torch

import tessella
from tessella.bench.ledger import Ledger
from tessella.bench.runner import Request, plan_work, run_work
from tessella.mini.questions import KINDS

GOAL_MINUTES, GOAL_TIMES, GOAL_LEDGER = 20, 3.0, 0.02
NUM_ANSWERS = 64_000  # that are to come in the first


class TimedLedger(Ledger):
    """A ledger that knows how long it took."""

    seconds = 0.0

    def take(self, items: Sequence[Any]) -> list[Any]:
        return self._timed(super().take, items)

    def lacks(self, item: Any) -> bool:
        return self._timed(super().lacks, item)

    def add(self, *args: Any) -> None:
        return self._timed(super().add, *args)

    def _timed(self, call: Any, *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*args)
        finally:
            self.seconds += time.perf_counter() - start


def measure(model: Any, processor: Any, request: Request, folder: Path) -> dict[str, float]:
    """Answers, seconds and the ledger's share of one request on a ledger of its own."""
    work = plan_work(model, processor, "mini", request)
    with TimedLedger(folder / f"{request.types}_{request.share}.db") as ledger:
        start = time.perf_counter()
        run_work(work, ledger)
        seconds = time.perf_counter() - start
        return {"answers": work.num_answers, "seconds": seconds, "ledger_seconds": ledger.seconds}


def summed(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) for name in rows[0]}


def compare(shared: dict[str, float], plain: dict[str, float]) -> dict[str, Any]:
    """Rates and whether they reach the goals."""
    rates = [way["answers"] / way["seconds"] for way in (shared, plain)]
    minutes, times = NUM_ANSWERS / rates[0] / 60, rates[0] / rates[1]
    share = shared["ledger_seconds"] / shared["seconds"]
    return {
        "answers_per_s": rates[0],
        "plain_answers_per_s": rates[1],
        "times": times,
        f"minutes_for_{NUM_ANSWERS}": minutes,
        "ledger_share": share,
        "goals_met": {"minutes": minutes < GOAL_MINUTES, "times": times >= GOAL_TIMES, "ledger": share < GOAL_LEDGER},
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", help="default: those of benchmarks/connector.toml")
    parser.add_argument("--keep", default="1/2,1/4,1/9,1/16")
    parser.add_argument("--limit", type=int, default=100, help="questions of each type")
    parser.add_argument("--plain", type=int, default=2, help="questions of each type without sharing and batches")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--out", type=Path, help="record file; default: benchmarks/records/throughput_MACHINE.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.methods is None:
        import tomllib

        settings = tomllib.loads((machine.ROOT / "benchmarks" / "connector.toml").read_text())
        options.methods = ",".join(settings["methods"])
    model, processor = tessella.load("mini")
    facts = machine.facts(torch.device("cpu"))
    ways: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            for share, limit, batch in ((True, options.limit, options.batch), (False, options.plain, 1)):
                request = Request(
                    options.methods, options.keep, kind, limit, batch=batch, only=True, share=share, seed=9
                )
                ways[share].append(measure(model, processor, request, Path(folder)))
                rate = ways[share][-1]["answers"] / ways[share][-1]["seconds"]
                print(f"{kind}: {'shared' if share else 'plain'}: {rate:.1f} answers/s", file=sys.stderr, flush=True)
    result = compare(summed(ways[True]), summed(ways[False]))
    command = shlex.join(["python", "benchmarks/throughput.py", *(sys.argv[1:] if argv is None else argv)])
    record = {
        "benchmark": "throughput",
        "command": command,
        "machine": facts,
        "by_kind": dict(zip(KINDS, zip(ways[True], ways[False], strict=True), strict=True)),
        **result,
    }
    path = options.out or machine.RECORDS / f"throughput_{machine.machine_name(facts)}.json"
    machine.write_record(record, path)
    for name, value in result.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
