"""What reductions cost in time and memory, from the timing passes of a ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .ledger import read_settings, read_timings
from .records import Setting
from .tables import NOTHING, Table, number

HEADS = (
    *("method", "keep", "prefill ms", "p95", "choose ms", "decode ms", "oracle", "GFLOP", "cache KiB", "peak MiB"),
    "joules",
)


def tables_of_times(ledger: str | Path) -> list[Table]:
    """A table for each batch size that was timed. Raises InputError like `read_ledger`."""
    return times_by_batch(read_settings(ledger), read_timings(ledger))


def times_by_batch(
    settings: Mapping[str, Setting], timings: Mapping[tuple[str, int], Mapping[str, Any]]
) -> list[Table]:
    """A table for each batch size: the last timing pass over each setting."""
    out = []
    for size in sorted({size for _, size in timings}):
        timed = [(settings[key], measured) for (key, s), measured in timings.items() if s == size]
        repeats = sorted({measured["repeats"] for _, measured in timed})
        rows = tuple(_row(setting, measured) for setting, measured in timed)
        span = f"{repeats[0]}" if len(repeats) == 1 else f"{repeats[0]} to {repeats[-1]}"
        out.append(Table(f"Time and memory of a batch of {size}, {span} repeats", HEADS, rows, tuple(range(2, 11))))
    return out


def _row(setting: Setting, measured: Mapping[str, Any]) -> tuple[str, ...]:
    prefill, oracle = measured["prefill_ms"], measured["oracle_ratio"]
    peak, joules = measured["peak_bytes"], measured["joules"]
    return (
        setting.method + (" (from pixels)" if measured["from_pixels"] else ""),
        setting.keep or NOTHING,
        number(prefill["median"], 2),
        number(prefill["p95"], 2),
        number(measured["choose_ms"]["median"], 2),
        number(measured["decode_ms"]["median"], 2),
        NOTHING if oracle is None else number(oracle, 3),
        number(measured["flops"] / 1e9, 2),
        number(measured["cache_bytes"] / 1024),
        NOTHING if peak is None else number(peak / 2**20),
        NOTHING if joules is None else number(joules, 1),
    )
