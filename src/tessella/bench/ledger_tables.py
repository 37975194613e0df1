"""The tables of a ledger: how they are made, checked and read. Any SQLite program reads them too, during a run.

`meta(version)`; `settings(key, pipeline, method, keep, json)`; `records` with a row for each question under a setting;
`taken` with the batches that a job is answering now; `timings` with what a timing pass measured of a setting; `runs`
with the facts of each start.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from .records import Record, Setting

LEDGER_VERSION = 2
PARTS = ("encode", "score", "select", "prefill", "decode")

_WHOLE, _REAL, _TEXT = ("integer",), ("real", "integer"), ("text",)
COLUMNS: dict[str, tuple[str, ...]] = {  # of `records`: storage classes that a value may have
    "setting": _TEXT,
    "kind": _TEXT,
    "number": _WHOLE,
    "answer": _TEXT,
    "truth": _TEXT,
    "score": _REAL,
    "tokens_in": _WHOLE,
    "tokens_kept": _WHOLE,
    "mean_keep_ratio": _REAL,
    "cache_bytes": _WHOLE,
    **{f"ms_{part}": _REAL for part in PARTS},
    "created_at": _TEXT,
}
_TYPES = {_WHOLE: "INTEGER", _REAL: "REAL", _TEXT: "TEXT"}
SCHEMA = (
    "CREATE TABLE meta (version INTEGER NOT NULL)",
    "CREATE TABLE settings (key TEXT PRIMARY KEY NOT NULL, pipeline TEXT NOT NULL, method TEXT NOT NULL, keep TEXT, "
    "json TEXT NOT NULL)",
    "CREATE TABLE records ("
    + ", ".join(f"{name} {_TYPES[kind]} NOT NULL" for name, kind in COLUMNS.items())
    + ", PRIMARY KEY (setting, kind, number))",
    "CREATE TABLE taken (setting TEXT NOT NULL, kind TEXT NOT NULL, first INTEGER NOT NULL, job TEXT NOT NULL, "
    "PRIMARY KEY (setting, kind, first))",
    "CREATE TABLE timings (setting TEXT NOT NULL, batch INTEGER NOT NULL, json TEXT NOT NULL, "
    "created_at TEXT NOT NULL)",
    "CREATE TABLE runs (started_at TEXT NOT NULL, job TEXT NOT NULL, facts TEXT NOT NULL)",
)
_TABLES = {
    "meta": ["version"],
    "settings": ["key", "pipeline", "method", "keep", "json"],
    "records": list(COLUMNS),
    "taken": ["setting", "kind", "first", "job"],
    "timings": ["setting", "batch", "json", "created_at"],
    "runs": ["started_at", "job", "facts"],
}


def tables_of(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Columns by table."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    quoted = {name: name.replace('"', '""') for name in names}
    return {n: [c[1] for c in connection.execute(f'PRAGMA table_info("{q}")')] for n, q in quoted.items()}


def check(path: Path, connection: sqlite3.Connection) -> None:
    """Raise InputError unless a file is a whole ledger of this version."""
    name = repr(str(path))
    with one_line(path, "read"):
        tables = tables_of(connection)
        if "meta" not in tables or tables["meta"] != _TABLES["meta"]:
            raise InputError(f"{name} is an SQLite file but no ledger of tessella bench; give another file.")
        versions = [row[0] for row in connection.execute("SELECT version FROM meta")]
        if versions != [LEDGER_VERSION]:
            found = ", ".join(map(str, versions)) or "none"
            raise InputError(
                f"{name} is a ledger of version {found}; version {LEDGER_VERSION} is read here. Give another file."
            )
        for table, columns in _TABLES.items():
            if tables.get(table) != columns:
                raise InputError(f"{name} is damaged: table {table!r} is missing or has other columns.")
        _check_settings(name, connection)
        _check_records(name, connection)
        [result] = connection.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            raise InputError(f"{name} is damaged: {result}. Restore a copy, or give another file.")


def read_records(connection: sqlite3.Connection) -> Iterator[tuple[Setting, Record]]:
    """Every record with its setting, in the order written."""
    settings = {key: Setting(**json.loads(t)) for key, t in connection.execute("SELECT key, json FROM settings")}
    names = [name for name in COLUMNS if name != "created_at"]
    for row in connection.execute(f"SELECT {', '.join(names)} FROM records ORDER BY rowid"):
        ms = dict(zip(PARTS, row[-len(PARTS) :], strict=True))
        yield settings[row[0]], Record(*row[: -len(PARTS)], ms)


def row_of(record: Record, now: str) -> tuple[Any, ...]:
    """A record's row."""
    times = [float(record.ms[part]) for part in PARTS]
    head = (record.setting, record.kind, record.number, record.answer, record.truth, float(record.score))
    return (*head, record.tokens_in, record.tokens_kept, record.mean_keep_ratio, record.cache_bytes, *times, now)


@contextlib.contextmanager
def one_line(path: Path, done: str, after: str = "") -> Iterator[None]:
    """Turn errors of SQLite and of the file system into one InputError."""
    try:
        yield
    except sqlite3.Error as error:
        reason = "the disk is full" if "full" in str(error) else str(error)
        raise InputError(f"the ledger {str(path)!r} cannot be {done}: {reason}.{after}") from error
    except OSError as error:
        raise InputError(f"the ledger {str(path)!r} cannot be {done}: {error.strerror or error}.{after}") from error


def _check_settings(name: str, connection: sqlite3.Connection) -> None:
    for key, text in connection.execute("SELECT key, json FROM settings"):
        try:
            right = Setting(**json.loads(text)).key == key
        except (TypeError, ValueError):
            right = False
        if not right:
            raise InputError(f"{name} is damaged: setting {key!r} is half-written or was changed.")


def _check_records(name: str, connection: sqlite3.Connection) -> None:
    """Raise InputError for the first record that lacks a value, has one of another kind, or belongs to no setting."""
    wrong = [f"typeof({c}) NOT IN ({', '.join(map(repr, kinds))})" for c, kinds in COLUMNS.items()]
    wrong += ["score NOT BETWEEN 0 AND 1", "setting NOT IN (SELECT key FROM settings)"]
    broken = [f"({condition}) IS NOT 0" for condition in wrong]
    row = connection.execute(
        f"SELECT rowid, setting, kind, number, {', '.join(broken)} FROM records WHERE {' OR '.join(broken)} LIMIT 1"
    ).fetchone()
    if row is None:
        return
    rowid, setting, kind, number, *flags = row
    where = [*COLUMNS, "score", "setting"][flags.index(1)]
    raise InputError(
        f"{name} holds a half-written record: {where} of setting {setting!r}, {kind!r}, number {number!r} cannot be "
        f"used. Remove it with sqlite3: DELETE FROM records WHERE rowid = {rowid};"
    )
