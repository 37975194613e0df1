"""The ledger: one SQLite file with every record, written a batch at a time, so that a run can stop at any moment.

Several jobs on one machine may write one ledger: each takes batches that no other job is answering, and what a job had
taken when it died is free again.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from .ledger_tables import (
    COLUMNS,
    LEDGER_VERSION,
    PARTS,
    SCHEMA,
    check,
    one_line,
    read_records,
    row_of,
    tables_of,
)
from .locking import Lock, is_held
from .records import Record, Setting

WAIT = 10  # seconds for another program that is writing
Done = set[tuple[str, str, int]]  # (setting, kind, number)


@dataclass(frozen=True)
class Item:
    """What is taken and answered together: some questions of one kind, under one setting.

    `first` names the batch: the number of its first member, asked for or not.
    """

    setting: str
    kind: str
    first: int
    numbers: tuple[int, ...]


class Ledger:
    """A ledger open for one job; nothing is written to a new file before `begin`.

    Raises InputError in one line for a path that cannot hold one, a file that is no ledger, is of another version or is
    damaged, a half-written record, and a job of the same name that is running on it.
    """

    def __init__(self, path: str | Path, job: str = "bench") -> None:
        self.path, self.job = Path(path), job
        _check_place(self.path)
        with one_line(self.path, "opened"):
            self._lock = Lock(self.path, job)
        self._connection: sqlite3.Connection | None = None
        try:
            if self.path.exists() and self.path.stat().st_size:
                with one_line(self.path, "read"):
                    self._connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
                    if tables_of(self._connection):  # none: a run that ended before its first line
                        check(self.path, self._connection)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is taken and close the file. May be called twice."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # a full disk: it is free again once this process has ended
                self._connection.execute("DELETE FROM taken WHERE job = ?", (self.job,))
            self._connection.close()
            self._connection = None
        self._lock.release()

    def begin(self, settings: Sequence[Setting], facts: dict[str, Any]) -> None:
        """Make the tables of a new ledger, and write down the settings and the facts of this run."""
        with one_line(self.path, "written"):
            if self._connection is None:
                self._connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._transaction() as connection:
            if not tables_of(connection):
                for statement in SCHEMA:
                    connection.execute(statement)
                connection.execute("INSERT INTO meta VALUES (?)", (LEDGER_VERSION,))
            connection.execute("DELETE FROM taken WHERE job = ?", (self.job,))  # by a namesake that died
            facts_row = (_now(), self.job, json.dumps(facts, sort_keys=True))
            connection.execute("INSERT INTO runs VALUES (?, ?, ?)", facts_row)
            _write_settings(connection, settings)

    def add_settings(self, settings: Sequence[Setting]) -> None:
        """Write down settings that a job has come to only after it began."""
        with self._transaction() as connection:
            _write_settings(connection, settings)

    def done(self, settings: Sequence[Setting]) -> Done:
        """Which questions have a record under which of the settings."""
        if self._connection is None or not tables_of(self._connection):
            return set()
        found = self._connection.execute("SELECT setting, kind, number FROM records")
        keys = {s.key for s in settings}
        return {row for row in found if row[0] in keys}

    def take(self, items: Sequence[Item]) -> list[Item]:
        """Take those of the items that nobody has answered or is answering, with the numbers that lack a record."""
        out = []
        with self._transaction() as connection:
            self._free_dead(connection)
            for item in items:
                where = (item.setting, item.kind, item.first)
                query = "SELECT 1 FROM taken WHERE setting = ? AND kind = ? AND first = ?"
                if connection.execute(query, where).fetchone():
                    continue
                query = "SELECT number FROM records WHERE setting = ? AND kind = ? AND number BETWEEN ? AND ?"
                span = (min(item.numbers), max(item.numbers))
                there = {row[0] for row in connection.execute(query, (item.setting, item.kind, *span))}
                missing = tuple(n for n in item.numbers if n not in there)
                if missing:
                    connection.execute("INSERT INTO taken VALUES (?, ?, ?, ?)", (*where, self.job))
                    out.append(Item(*where, missing))
        return out

    def lacks(self, item: Item) -> bool:
        """Whether a question of an item has no record."""
        query = "SELECT count(*) FROM records WHERE setting = ? AND kind = ? AND number = ?"
        counts = (self._opened.execute(query, (item.setting, item.kind, n)).fetchone()[0] for n in item.numbers)
        return not all(counts)

    def add(self, records: Sequence[Record], item: Item | None = None) -> None:
        """Write records, and give their item back, in one transaction: all or nothing."""
        now = _now()
        marks = ", ".join("?" * len(COLUMNS))
        with self._transaction() as connection:
            connection.executemany(f"INSERT INTO records VALUES ({marks})", [row_of(r, now) for r in records])
            if item is not None:
                where = (item.setting, item.kind, item.first)
                connection.execute("DELETE FROM taken WHERE setting = ? AND kind = ? AND first = ?", where)

    def add_timing(self, setting: str, batch: int, measured: dict[str, Any]) -> None:
        """Write what a timing pass measured of a setting at a batch size."""
        row = (setting, batch, json.dumps(measured, sort_keys=True, allow_nan=False), _now())
        with self._transaction() as connection:
            connection.execute("INSERT INTO timings VALUES (?, ?, ?, ?)", row)

    def rows(
        self, settings: Sequence[Setting], kinds: Collection[str], numbers: Collection[int]
    ) -> list[tuple[Setting, Record]]:
        """Records of some settings, types and numbers, in the order of the settings, types and numbers."""
        wanted = {s.key for s in settings}
        order = {key: n for n, key in enumerate([*(s.key for s in settings), *kinds])}
        with one_line(self.path, "read"):
            found = [
                (setting, record)
                for setting, record in read_records(self._opened)
                if setting.key in wanted and record.kind in kinds and record.number in numbers
            ]
        return sorted(found, key=lambda pair: (order[pair[0].key], order[pair[1].kind], pair[1].number))

    def _free_dead(self, connection: sqlite3.Connection) -> None:
        """Give back what jobs had taken that no longer run."""
        jobs = [row[0] for row in connection.execute("SELECT DISTINCT job FROM taken WHERE job != ?", (self.job,))]
        for job in jobs:
            if not is_held(self.path, job):
                connection.execute("DELETE FROM taken WHERE job = ?", (job,))

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None, "begin() comes first"
        return self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._opened
        with one_line(self.path, "written", " What was finished before is kept."):
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
    with _opened_to_read(path) as connection:
        return list(read_records(connection))


def read_settings(path: str | Path) -> dict[str, Setting]:
    """Every setting of a ledger by its key. Raises InputError like `Ledger`."""
    with _opened_to_read(path) as connection:
        return {key: Setting(**json.loads(text)) for key, text in connection.execute("SELECT key, json FROM settings")}


def read_timings(path: str | Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The last timing pass over each (setting, batch size). Raises InputError like `Ledger`."""
    with _opened_to_read(path) as connection:
        query = "SELECT setting, batch, json FROM timings ORDER BY rowid"
        return {(setting, batch): json.loads(text) for setting, batch, text in connection.execute(query)}


def read_runs(path: str | Path) -> list[dict[str, Any]]:
    """The facts of each start of a run, in their order. Raises InputError like `Ledger`."""
    with _opened_to_read(path) as connection:
        return [json.loads(facts) for (facts,) in connection.execute("SELECT facts FROM runs ORDER BY rowid")]


@contextlib.contextmanager
def _opened_to_read(path: str | Path) -> Iterator[sqlite3.Connection]:
    place = Path(path)
    if not place.is_file():
        raise InputError(f"there is no ledger {str(path)!r}.")
    with one_line(place, "read"), contextlib.closing(sqlite3.connect(place, timeout=WAIT)) as connection:
        check(place, connection)
        yield connection


def _write_settings(connection: sqlite3.Connection, settings: Sequence[Setting]) -> None:
    rows = [(s.key, s.pipeline, s.method, s.keep, s.to_json()) for s in settings]
    connection.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?, ?, ?, ?)", rows)


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give a file for the ledger.")
    if path.exists() and not path.is_file():
        raise InputError(f"{str(path)!r} is no ordinary file; give another one for the ledger.")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {str(path.parent)!r} for the ledger {path.name!r}; make it first.")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


__all__ = ["LEDGER_VERSION", "PARTS", "Done", "Item", "Ledger", "read_ledger", "read_settings", "read_timings"]
