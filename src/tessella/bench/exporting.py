"""A ledger as one flat table for other tools: CSV or Parquet, a row for each answer."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from .ledger import PARTS, read_ledger
from .records import Record, Setting

ENDINGS = (".csv", ".parquet")
DETAILS = ("model", "task", "split", "dtype", "device", "batch", "positions")
COLUMNS = (
    *("setting", "pipeline", "method", "keep", *DETAILS, "kind", "number", "answer", "truth", "score"),
    *("tokens_in", "tokens_kept", "mean_keep_ratio", "cache_bytes", *(f"ms_{part}" for part in PARTS)),
)


def export_ledger(ledger: str | Path, out: str | Path) -> int:
    """Write every record of a ledger to a new file; returns their number. The file is there whole or not at all.

    Raises InputError for an ending that is neither, a folder that is missing, and a ledger that cannot be read.
    """
    target = Path(out)
    if target.suffix not in ENDINGS:
        raise InputError(f"the table must end in {' or '.join(ENDINGS)}; got {str(out)!r}.")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {str(target.parent)!r} for {target.name!r}; make it first.")
    rows = [_row(setting, record) for setting, record in read_ledger(ledger)]
    part = target.with_name(target.name + ".part")
    try:
        (_write_csv if target.suffix == ".csv" else _write_parquet)(rows, part)
        os.replace(part, target)
    except OSError as error:
        raise InputError(f"{str(out)!r} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return len(rows)


def _row(setting: Setting, record: Record) -> dict[str, Any]:
    details = {name: _text(setting.details.get(name)) for name in DETAILS}
    values = {name: getattr(record, name) for name in COLUMNS if hasattr(record, name)}
    times = {f"ms_{part}": record.ms[part] for part in PARTS}
    row = {"pipeline": setting.pipeline, "method": setting.method, "keep": setting.keep, **details, **values, **times}
    return {name: row[name] for name in COLUMNS}


def _text(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else str(value)


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError("Parquet needs the package pyarrow: pip install 'tessella[parquet]', or write .csv.") from None
    whole, real = ("number", "tokens_in", "tokens_kept", "cache_bytes"), ("score", "mean_keep_ratio")
    kinds = {**dict.fromkeys(whole, pa.int64()), **dict.fromkeys((*real, *(f"ms_{p}" for p in PARTS)), pa.float64())}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
