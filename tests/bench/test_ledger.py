"""The ledger: what it holds, and one line for every file that it cannot use."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tessella.bench.ledger import LEDGER_VERSION, Item, Ledger, read_ledger, read_timings
from tessella.bench.records import Record, Setting
from tessella.core.errors import InputError

SETTINGS = [Setting("hiprune:0.5", "hiprune", "0.5", {"model": "mini"}), Setting("none", "none", None, {"batch": 2})]
MS = {"encode": 1.5, "score": 0.25, "select": 0.5, "prefill": 3.0, "decode": 2.0}


def record(setting: Setting, kind: str, number: int, answer: str = "red") -> Record:
    return Record(setting.key, kind, number, answer, "red", float(answer == "red"), 196, 98, 0.5, 4096, MS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with three records."""
    place = tmp_path / "bench.db"
    with Ledger(place) as ledger:
        ledger.begin(SETTINGS, {"threads": 2})
        ledger.add([record(SETTINGS[0], "digit", 8), record(SETTINGS[0], "digit", 7, "blue")])
        ledger.add([record(SETTINGS[1], "colour", 7)])
    return place


def change(path: Path, *statements: str) -> None:
    """Change a ledger behind its back."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def refused(path: Path) -> str:
    """The one line with which a ledger is refused; the file stays as it was."""
    before = path.read_bytes()
    with pytest.raises(InputError) as error:
        Ledger(path)
    assert path.read_bytes() == before
    assert list(path.parent.glob("*.lock")) == []
    message = str(error.value)
    assert "\n" not in message
    return message


# --- what it holds --------------------------------------------------------------------------------------------------


def test_records_come_back_as_written(path):
    with Ledger(path) as ledger:
        rows = ledger.rows(SETTINGS, ("colour", "digit"), range(7, 9))
        assert [(s.key, r.kind, r.number) for s, r in rows] == [
            (SETTINGS[0].key, "digit", 7),
            (SETTINGS[0].key, "digit", 8),
            (SETTINGS[1].key, "colour", 7),
        ]
        assert rows[0] == (SETTINGS[0], record(SETTINGS[0], "digit", 7, "blue"))
        assert ledger.rows(SETTINGS[:1], ("digit",), range(8, 9)) == [(SETTINGS[0], record(SETTINGS[0], "digit", 8))]
        assert ledger.done(SETTINGS[1:]) == {(SETTINGS[1].key, "colour", 7)}
    assert len(read_ledger(path)) == 3


def test_any_sqlite_program_reads_it_while_it_is_written(path):
    with Ledger(path) as ledger:
        ledger.begin(SETTINGS, {"threads": 1})
        ledger.add([record(SETTINGS[1], "colour", 8)])
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            query = (
                "SELECT pipeline, method, keep, kind, number, answer, truth, score, tokens_in, tokens_kept, "
                "mean_keep_ratio, cache_bytes, ms_encode, ms_score, ms_select, ms_prefill, ms_decode "
                "FROM records JOIN settings ON setting = key ORDER BY method, number LIMIT 1"
            )
            assert connection.execute(query).fetchone() == (
                *("hiprune:0.5", "hiprune", "0.5", "digit", 7, "blue", "red", 0, 196, 98, 0.5, 4096),
                *MS.values(),
            )
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("SELECT version FROM meta").fetchall() == [(LEDGER_VERSION,)]
            assert connection.execute("SELECT count(*) FROM records WHERE created_at > '2000'").fetchone() == (4,)
            assert connection.execute("SELECT facts FROM runs").fetchall() == [('{"threads": 2}',), ('{"threads": 1}',)]


def test_a_batch_is_written_whole_or_not_at_all(path):
    with Ledger(path) as ledger:
        ledger.begin(SETTINGS, {})
        twice = [record(SETTINGS[1], "colour", 9), record(SETTINGS[1], "colour", 7)]
        with pytest.raises(InputError, match=r"cannot be written: UNIQUE .*What was finished before is kept\."):
            ledger.add(twice)
        assert len(ledger.done(SETTINGS)) == 3
        ledger.add(twice[:1])
        assert len(ledger.done(SETTINGS)) == 4


def test_nothing_is_written_before_it_begins(tmp_path):
    with Ledger(tmp_path / "new.db") as ledger:
        assert ledger.done(SETTINGS) == set()
        assert not (tmp_path / "new.db").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("started", ["", "PRAGMA journal_mode = WAL"])
def test_a_run_that_ended_before_its_first_line_is_no_obstacle(tmp_path, started):
    place = tmp_path / "bench.db"
    with closing(sqlite3.connect(place)) as connection:
        connection.execute(started)
    place.touch()
    with Ledger(place) as ledger:
        ledger.begin(SETTINGS, {})
    assert read_ledger(place) == []


def test_a_full_disk_is_said_and_what_was_done_is_kept(path):
    with Ledger(path) as ledger:
        ledger.begin(SETTINGS, {})
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLITE_FULL, as from a disk
        with pytest.raises(InputError, match=r"cannot be written: the disk is full\. What was finished before is kept"):
            ledger.add([record(SETTINGS[1], "colour", number) for number in range(100, 3000)])
    assert len(read_ledger(path)) == 3


# --- files that are no ledger ---------------------------------------------------------------------------------------


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no database, but some text that is long enough to be read as a header" * 9)
    assert "cannot be read: file is not a database" in refused(tmp_path / "notes.txt")
    change(tmp_path / "other.db", "CREATE TABLE birds (name)")
    assert "is an SQLite file but no ledger" in refused(tmp_path / "other.db")
    with pytest.raises(InputError, match="is a folder; give a file"):
        Ledger(tmp_path)
    with pytest.raises(InputError, match=r"there is no folder '.*missing' for the ledger 'bench\.db'; make it first"):
        Ledger(tmp_path / "missing" / "bench.db")
    with pytest.raises(InputError, match="there is no ledger"):
        read_ledger(tmp_path / "absent.db")


def test_another_version_is_refused(path):
    change(path, "UPDATE meta SET version = 9")
    assert "is a ledger of version 9; version 2 is read here" in refused(path)


def test_a_missing_column_is_refused(path):
    change(path, "ALTER TABLE records RENAME COLUMN answer TO reply")
    assert "table 'records' is missing or has other columns" in refused(path)


def test_a_file_cut_short_is_refused(path):
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 4096, 100):
        path.write_bytes(content[:size])
        assert any(word in refused(path) for word in ("malformed", "damaged", "not a database"))


def test_bytes_that_were_overwritten_are_noticed(path):
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(1) * (len(content) - 4096)
    path.write_bytes(content)
    assert any(word in refused(path) for word in ("malformed", "damaged"))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("answer", "NULL"),
        ("setting", "'0123456789abcdef'"),
        ("tokens_kept", "'many'"),
        ("score", "2"),
        ("ms_decode", "NULL"),
        ("created_at", "NULL"),
        ("number", "x'00'"),
    ],
)
def test_a_half_written_record_is_refused_with_its_place(path, column, value):
    columns = ", ".join(f.replace(" NOT NULL", "") for f in _definitions(path))
    change(
        path,  # the same table, but willing to take anything
        "ALTER TABLE records RENAME TO old",
        f"CREATE TABLE records ({columns})",
        "INSERT INTO records SELECT * FROM old",
        "DROP TABLE old",
        f"UPDATE records SET {column} = {value} WHERE kind = 'digit' AND number = 7",
    )
    message = refused(path)
    assert f"holds a half-written record: {column} of setting" in message
    change(path, message.rsplit(": ", 1)[1])  # the remedy that it names
    with Ledger(path) as ledger:
        assert len(ledger.done(SETTINGS)) == 2


def _definitions(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [f"{c[1]} {c[2]} NOT NULL" for c in connection.execute("PRAGMA table_info(records)")]


def test_a_changed_setting_is_refused(path):
    change(path, "UPDATE settings SET json = replace(json, 'mini', 'other') WHERE method = 'hiprune'")
    assert f"setting {SETTINGS[0].key!r} is half-written or was changed" in refused(path)
    change(path, "UPDATE settings SET json = 'half a te'")
    assert "is half-written or was changed" in refused(path)


# --- one job of a name -----------------------------------------------------------------------------------------------

HOLD = """
import sys
from tessella.bench.ledger import Ledger
ledger = Ledger(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_run_is_refused_and_a_dead_one_is_replaced(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            InputError, match=rf"in use by a job 'bench', process {holder.pid}; wait for it, give another"
        ):
            Ledger(path)
        assert len(read_ledger(path)) == 3
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert (path.parent / "bench.db.bench.lock").read_text() == f"{holder.pid}\n"  # it could not clean up
    with Ledger(path):
        assert (path.parent / "bench.db.bench.lock").read_text() == f"{os.getpid()}\n"
    assert sorted(p.name for p in path.parent.iterdir()) == ["bench.db"]


def test_the_same_process_is_refused_too(path):
    with Ledger(path) as ledger:
        with pytest.raises(InputError, match=f"in use by a job 'bench', process {os.getpid()}"):
            Ledger(path)
        ledger.close()
        ledger.close()
        Ledger(path).close()


# --- several jobs on one ledger -------------------------------------------------------------------------------------


def items(setting: Setting, *firsts: int) -> list[Item]:
    return [Item(setting.key, "digit", first, tuple(range(first, first + 3))) for first in firsts]


def test_what_one_job_takes_no_other_gets(path):
    with Ledger(path) as ledger, Ledger(path, "second") as other:
        ledger.begin(SETTINGS, {})
        other.begin(SETTINGS, {})
        mine = ledger.take(items(SETTINGS[0], 6, 9))
        assert [(i.first, i.numbers) for i in mine] == [(6, (6,)), (9, (9, 10, 11))]  # 7 and 8 have a record
        assert [i.first for i in other.take(items(SETTINGS[0], 6, 9, 12))] == [12]
        ledger.add([record(SETTINGS[0], "digit", 6)], mine[0])
        assert other.take(items(SETTINGS[0], 6)) == []  # answered
        ledger.close()
        assert [i.first for i in other.take(items(SETTINGS[0], 6, 9))] == [9]  # given back


def test_what_a_dead_job_had_taken_is_free(path):
    code = HOLD.replace("Ledger(sys.argv[1])", "Ledger(sys.argv[1], 'doomed')").replace(
        "print(", "ledger.begin([], {})\nledger.take([Item('k', 'digit', 0, (0, 1))])\nprint("
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code.replace("import Ledger", "import Item, Ledger"), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    wanted = [Item("k", "digit", 0, (0, 1))]
    with Ledger(path) as ledger:
        ledger.begin(SETTINGS, {})
        try:
            assert holder.stdout.readline() == "held\n"
            assert ledger.take(wanted) == []
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.communicate()
        assert ledger.take(wanted) == wanted


def test_what_a_dead_job_of_the_same_name_had_taken_is_free(path):
    wanted = [Item("k", "digit", 0, (0, 1))]
    with Ledger(path) as ledger:
        ledger.begin(SETTINGS, {})
        ledger.take(wanted)
    change(path, "INSERT INTO taken VALUES ('k', 'digit', 0, 'bench')")  # as if it had not given it back
    with Ledger(path) as ledger:
        ledger.begin(SETTINGS, {})
        assert ledger.take(wanted) == wanted


@pytest.mark.parametrize("name", ["", "a b", "../up", "x" * 65, ".hidden"])
def test_a_name_that_is_none_is_refused(path, name):
    with pytest.raises(InputError, match="a job's name has 1 to 64 letters"):
        Ledger(path, name)


def test_timings_are_read_back_the_last_one_last(path):
    with Ledger(path) as ledger:
        ledger.begin(SETTINGS, {})
        ledger.add_timing("k", 8, {"ms": [1.0]})
        ledger.add_timing("k", 8, {"ms": [2.0]})
    assert read_timings(path) == {("k", 8): {"ms": [2.0]}}


def test_the_key_of_a_setting_covers_all_of_it():
    one = SETTINGS[0]
    others = [
        dataclasses.replace(one, pipeline="hiprune:1/2"),
        dataclasses.replace(one, method="x"),
        dataclasses.replace(one, keep=None),
        dataclasses.replace(one, details={"model": "mini", "batch": 1}),
    ]
    assert len({s.key for s in (one, *others)}) == 5
    assert dataclasses.replace(one).key == one.key
