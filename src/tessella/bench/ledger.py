"""The ledger: one SQLite file with every record, written a batch at a time, so that a run can stop at any moment.

Tables: `meta(version)`; `settings(key, pipeline, method, keep, json)`; `records` with a row for each sample under a
setting; `runs` with the facts of each machine and start. Any SQLite program can read them, also while a run writes.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from .locking import Lock
from .records import Record, Setting

LEDGER_VERSION = 1
WAIT = 10  # seconds for another program that is writing
PARTS = ("encode", "score", "select", "prefill", "decode")
Done = set[tuple[str, str, int]]  # (setting, kind, seed)

_WHOLE, _REAL, _TEXT = ("integer",), ("real", "integer"), ("text",)
_COLUMNS: dict[str, tuple[str, ...]] = {  # storage classes that a value may have
    "setting": _TEXT,
    "kind": _TEXT,
    "seed": _WHOLE,
    "answer": _TEXT,
    "truth": _TEXT,
    "correct": _WHOLE,
    "tokens_in": _WHOLE,
    "tokens_kept": _WHOLE,
    "mean_keep_ratio": _REAL,
    "cache_bytes": _WHOLE,
    **{f"ms_{part}": _REAL for part in PARTS},
    "created_at": _TEXT,
}
_TYPES = {_WHOLE: "INTEGER", _REAL: "REAL", _TEXT: "TEXT"}
_SCHEMA = (
    "CREATE TABLE meta (version INTEGER NOT NULL)",
    "CREATE TABLE settings (key TEXT PRIMARY KEY NOT NULL, pipeline TEXT NOT NULL, method TEXT NOT NULL, keep TEXT, "
    "json TEXT NOT NULL)",
    "CREATE TABLE records ("
    + ", ".join(f"{name} {_TYPES[kind]} NOT NULL" for name, kind in _COLUMNS.items())
    + ", PRIMARY KEY (setting, kind, seed))",
    "CREATE TABLE runs (started_at TEXT NOT NULL, facts TEXT NOT NULL)",
)
_TABLES = {
    "meta": ["version"],
    "settings": ["key", "pipeline", "method", "keep", "json"],
    "records": list(_COLUMNS),
    "runs": ["started_at", "facts"],
}


class Ledger:
    """A ledger open for one run, locked against others; nothing is written to a new file before `begin`.

    Raises InputError in one line for a path that cannot hold one, a file that is no ledger, is of another version or is
    damaged, a half-written record, and a ledger that another process writes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _check_place(self.path)
        with _one_line(self.path, "opened"):
            self._lock = Lock(self.path)
        self._connection: sqlite3.Connection | None = None
        try:
            if self.path.exists() and self.path.stat().st_size:
                with _one_line(self.path, "read"):
                    self._connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
                    if _tables_of(self._connection):  # none: a run that ended before its first line
                        check(self.path, self._connection)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others write it. May be called twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._lock.release()

    def begin(self, settings: Sequence[Setting], facts: dict[str, Any]) -> None:
        """Make the tables of a new ledger, and write down the settings and the facts of this run."""
        with _one_line(self.path, "written"):
            if self._connection is None:
                self._connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._transaction() as connection:
            if not _tables_of(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute("INSERT INTO meta VALUES (?)", (LEDGER_VERSION,))
            rows = [(s.key, s.pipeline, s.method, s.keep, s.to_json()) for s in settings]
            connection.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?, ?, ?, ?)", rows)
            connection.execute("INSERT INTO runs VALUES (?, ?)", (_now(), json.dumps(facts, sort_keys=True)))

    def done(self, settings: Sequence[Setting]) -> Done:
        """Which samples have a record under which of the settings."""
        if self._connection is None:
            return set()
        if not _tables_of(self._connection):
            return set()
        found = self._connection.execute("SELECT setting, kind, seed FROM records")
        keys = {s.key for s in settings}
        return {row for row in found if row[0] in keys}

    def add(self, records: Sequence[Record]) -> None:
        """Write records in one transaction: all of them or none."""
        now = _now()
        marks = ", ".join("?" * len(_COLUMNS))
        with self._transaction() as connection:
            connection.executemany(f"INSERT INTO records VALUES ({marks})", [_row_of(r, now) for r in records])

    def rows(self, settings: Sequence[Setting], kinds: Collection[str], seeds: range) -> list[tuple[Setting, Record]]:
        """Records of some settings, types and seeds, in the order of the settings, types and seeds."""
        wanted = {s.key for s in settings}
        order = {key: n for n, key in enumerate([*(s.key for s in settings), *kinds])}
        with _one_line(self.path, "read"):
            found = [
                (setting, record)
                for setting, record in _read(self._opened)
                if setting.key in wanted and record.kind in kinds and record.seed in seeds
            ]
        return sorted(found, key=lambda pair: (order[pair[0].key], order[pair[1].kind], pair[1].seed))

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None, "begin() comes first"
        return self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._opened
        with _one_line(self.path, "written", " What was finished before is kept."):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def read_ledger(path: str | Path) -> list[tuple[Setting, Record]]:
    """Every record of a ledger with its setting, in the order written. Raises InputError like `Ledger`."""
    place = Path(path)
    if not place.is_file():
        raise InputError(f"there is no ledger {str(path)!r}.")
    with _one_line(place, "read"), contextlib.closing(sqlite3.connect(place, timeout=WAIT)) as connection:
        check(place, connection)
        return list(_read(connection))


def check(path: Path, connection: sqlite3.Connection) -> None:
    """Raise InputError unless a file is a whole ledger of this version."""
    name = repr(str(path))
    with _one_line(path, "read"):
        tables = _tables_of(connection)
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
    wrong = [f"typeof({c}) NOT IN ({', '.join(map(repr, kinds))})" for c, kinds in _COLUMNS.items()]
    wrong += ["correct NOT IN (0, 1)", "setting NOT IN (SELECT key FROM settings)"]
    broken = [f"({condition}) IS NOT 0" for condition in wrong]
    row = connection.execute(
        f"SELECT rowid, setting, kind, seed, {', '.join(broken)} FROM records WHERE {' OR '.join(broken)} LIMIT 1"
    ).fetchone()
    if row is None:
        return
    number, setting, kind, seed, *flags = row
    names = [*_COLUMNS, "correct", "setting"]
    where = names[flags.index(1)]
    raise InputError(
        f"{name} holds a half-written record: {where} of setting {setting!r}, {kind!r}, seed {seed!r} cannot be used. "
        f"Remove it with sqlite3: DELETE FROM records WHERE rowid = {number};"
    )


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give a file for the ledger.")
    if path.exists() and not path.is_file():
        raise InputError(f"{str(path)!r} is no ordinary file; give another one for the ledger.")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {str(path.parent)!r} for the ledger {path.name!r}; make it first.")


def _tables_of(connection: sqlite3.Connection) -> dict[str, list[str]]:
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    quoted = {name: name.replace('"', '""') for name in names}
    return {n: [c[1] for c in connection.execute(f'PRAGMA table_info("{q}")')] for n, q in quoted.items()}


def _row_of(record: Record, now: str) -> tuple[Any, ...]:
    times = [float(record.ms[part]) for part in PARTS]
    head = (record.setting, record.kind, record.seed, record.answer, record.truth, int(record.correct))
    return (*head, record.tokens_in, record.tokens_kept, record.mean_keep_ratio, record.cache_bytes, *times, now)


def _read(connection: sqlite3.Connection) -> Iterator[tuple[Setting, Record]]:
    settings = {key: Setting(**json.loads(t)) for key, t in connection.execute("SELECT key, json FROM settings")}
    names = [name for name in _COLUMNS if name != "created_at"]
    for row in connection.execute(f"SELECT {', '.join(names)} FROM records ORDER BY rowid"):
        *head, correct, there, kept, ratio, size = row[: -len(PARTS)]
        ms = dict(zip(PARTS, row[-len(PARTS) :], strict=True))
        yield settings[row[0]], Record(*head, bool(correct), there, kept, ratio, size, ms)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@contextlib.contextmanager
def _one_line(path: Path, done: str, after: str = "") -> Iterator[None]:
    """Turn errors of SQLite and of the file system into one InputError."""
    try:
        yield
    except sqlite3.Error as error:
        reason = "the disk is full" if "full" in str(error) else str(error)
        raise InputError(f"the ledger {str(path)!r} cannot be {done}: {reason}.{after}") from error
    except OSError as error:
        raise InputError(f"the ledger {str(path)!r} cannot be {done}: {error.strerror or error}.{after}") from error
