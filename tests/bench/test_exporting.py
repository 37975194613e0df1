"""A ledger as CSV and Parquet, and several as one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from synthetic import rows_of

from tessella.bench.exporting import COLUMNS, export_ledger
from tessella.bench.joining import join_ledgers
from tessella.bench.ledger import Ledger, read_ledger, read_timings
from tessella.cli.application import run
from tessella.core.errors import InputError


def write(path: Path, *what: tuple[str, dict[str, str]], first: int = 0) -> Path:
    rows = [row for pipeline, answers in what for row in rows_of(pipeline, answers, first=first)]
    with Ledger(path) as ledger:
        ledger.begin([s for s, _ in rows], {})
        ledger.add([r for _, r in rows])
    return path


def test_a_table_holds_every_answer(tmp_path: Path) -> None:
    ledger = write(tmp_path / "a.db", ("hiprune:1/9", {"place": "10"}), ("none", {"colour": "1"}))
    assert export_ledger(ledger, tmp_path / "a.csv") == 3
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    assert [(r["pipeline"], r["keep"], r["kind"], r["number"], r["answer"], r["score"]) for r in rows] == [
        ("hiprune:1/9", "1/9", "place", "0", "yes", "1.0"),
        ("hiprune:1/9", "1/9", "place", "1", "no", "0.0"),
        ("none", "", "colour", "0", "yes", "1.0"),
    ]
    assert (rows[0]["model"], rows[0]["ms_prefill"], rows[0]["tokens_kept"]) == ("mini", "2.0", "20")


def test_parquet_holds_the_same_with_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow, the extra 'parquet'")
    ledger = write(tmp_path / "a.db", ("hiprune:1/9", {"place": "10"}), ("none", {"colour": "1"}))
    assert export_ledger(ledger, tmp_path / "a.parquet") == 3
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == list(COLUMNS)
    assert table.column("score").to_pylist() == [1.0, 0.0, 1.0]
    assert table.column("keep").to_pylist() == ["1/9", "1/9", None]
    assert str(table.schema.field("number").type) == "int64"


def test_shards_join_into_one(tmp_path: Path) -> None:
    one = write(tmp_path / "1.db", ("hiprune:1/9", {"place": "10"}))
    two = write(tmp_path / "2.db", ("hiprune:1/9", {"place": "01"}), first=2)
    with Ledger(two) as ledger:
        ledger.begin([], {})
        ledger.add_timing("key", 1, {"ms": [1.0]})
    assert join_ledgers([one, two], tmp_path / "all.db") == 4
    assert [(r.number, r.score) for _, r in read_ledger(tmp_path / "all.db")] == [(0, 1), (1, 0), (2, 0), (3, 1)]
    assert read_timings(tmp_path / "all.db") == {("key", 1): {"ms": [1.0]}}
    assert join_ledgers([one], tmp_path / "all.db") == 0  # nothing twice


def test_answers_that_differ_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    one = write(tmp_path / "1.db", ("hiprune:1/9", {"place": "10"}))
    two = write(tmp_path / "2.db", ("hiprune:1/9", {"place": "11"}))
    with pytest.raises(InputError, match=r"differ on place 1 under hiprune:1/9: 'no' and 'yes'\. They were not"):
        join_ledgers([one, two], tmp_path / "all.db")
    assert not (tmp_path / "all.db").exists()


def test_the_commands_say_what_they_did_or_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = write(tmp_path / "a.db", ("none", {"colour": "11"}))
    assert run(["export", str(ledger), str(tmp_path / "a.csv")]) == 0
    assert capsys.readouterr().out == f"2 rows: {tmp_path / 'a.csv'}\n"
    assert run(["join", str(ledger), "--out", str(tmp_path / "b.db")]) == 0
    assert capsys.readouterr().out == f"2 rows added: {tmp_path / 'b.db'}\n"
    for arguments, message in (
        (["export", str(ledger), str(tmp_path / "a.xlsx")], "the table must end in .csv or .parquet"),
        (["export", str(ledger), str(tmp_path / "x" / "a.csv")], "there is no folder"),
        (["export", str(tmp_path / "none.db"), str(tmp_path / "a.csv")], "there is no ledger"),
        (["join", str(tmp_path / "none.db"), "--out", str(tmp_path / "b.db")], "there is no ledger"),
    ):
        assert run(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
