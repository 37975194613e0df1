"""`tessella bench` as a user types it: tables, JSON, stopping by Ctrl-C or worse, and one line for every mistake."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tessella.cli.application import run
from tessella.cli.progress import Reporter, describe, format_seconds

QUICK = ("--keep", "1/9", "--types", "digit", "--limit", "4", "--batch", "2")
COLUMNS = "setting, kind, number, answer, truth, score, tokens_in, tokens_kept, mean_keep_ratio, cache_bytes"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]):
    """Run the command; returns (exit code, standard output, standard error)."""

    def called(*args: object) -> tuple[int, str, str]:
        code = run(["bench", *(str(a) for a in args)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return called


def rows_of(path: Path) -> list[Any]:
    """All columns but times, in the order of the key."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(f"SELECT {COLUMNS} FROM records ORDER BY setting, kind, number").fetchall()


def start(path: Path, limit: int) -> subprocess.Popen[str]:
    code = "from tessella.cli import main; main()"
    args = ("bench", "--methods", "hiprune,fastv", "--keep", "1/9", "--types", "digit", "--batch", "2", "--out", path)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args), "--limit", str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(path: Path, process: subprocess.Popen[str]) -> None:
    """Return once a running bench has written its first records."""
    for _ in range(1200):
        assert process.poll() is None, process.communicate()
        try:
            if path.exists() and rows_of(path):
                return
        except sqlite3.OperationalError:
            pass  # its tables are not there yet
        time.sleep(0.1)
    raise AssertionError("the bench wrote nothing in two minutes")


# --- what works -----------------------------------------------------------------------------------------------------


def test_it_prints_tables_and_continues_a_ledger(call, tmp_path):
    ledger = tmp_path / "bench.db"
    code, out, err = call("--methods", "hiprune", *QUICK, "--out", ledger)
    assert (code, err) == (0, "")
    assert out.endswith(f"ledger: {ledger}\n")
    for name in ("none", "blind", "downsample", "hiprune"):
        assert any(line.startswith(name) for line in out.splitlines()), name
    before = rows_of(ledger)
    assert len(before) == 4 * 4
    code, out, err = call("--methods", "hiprune", *QUICK, "--out", ledger, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["types"] == ["digit"]
    assert rows_of(ledger) == before


def test_only_leaves_the_references_out(call, tmp_path):
    code, _, err = call("--methods", "none,hiprune", *QUICK, "--only", "--out", tmp_path / "bench.db")
    assert (code, err) == (0, "")
    with closing(sqlite3.connect(tmp_path / "bench.db")) as connection:
        assert connection.execute("SELECT pipeline FROM settings ORDER BY pipeline").fetchall() == [
            ("hiprune:1/9",),
            ("none",),
        ]


def test_help_says_what_is_added_and_where_answers_go(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "'none' (every token), 'blind' (no token) and, where a keep is given, 'downsample' are added" in text
    assert "one that is there is continued. [default: bench.db]" in text


def test_progress_is_a_line_now_and_then(capsys, monkeypatch):
    from tessella.bench.pace import Progress

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Reporter() as reporter:
        for clock[0] in (3.0, 11.0, 12.0, 21.5):
            reporter(Progress(int(clock[0]) * 100, 4800, 200.0, "fastv:0.5", "digit"))
    assert capsys.readouterr().err.splitlines() == [
        "1,100 of 4,800 answers, 3 min left (fastv:0.5, digit)",
        "2,100 of 4,800 answers, 3 min left (fastv:0.5, digit)",
    ]
    assert describe(Progress(1, 2, 7300.0, "none", "digit")) == "1 of 2 answers, 2 h 2 min left (none, digit)"
    assert format_seconds(42.2) == "42 s"


# --- stopping -------------------------------------------------------------------------------------------------------


def test_killed_and_resumed_is_row_for_row_uninterrupted(tmp_path):
    whole = start(tmp_path / "whole.db", 8)
    parts = start(tmp_path / "parts.db", 400)  # far more than it can do before it is killed
    wait_for_rows(tmp_path / "parts.db", parts)
    parts.kill()
    parts.communicate()
    assert parts.returncode == -signal.SIGKILL
    kept = rows_of(tmp_path / "parts.db")
    resumed = start(tmp_path / "parts.db", 8)  # takes the dead one's lock over
    out = resumed.communicate()
    said = [*whole.communicate()[1].splitlines(), *out[1].splitlines()]
    assert all(re.fullmatch(r"\d+ of 40 answers, .* left \(.*\)", line) for line in said)  # on a slow machine
    assert (whole.returncode, resumed.returncode) == (0, 0)
    everything = rows_of(tmp_path / "parts.db")
    assert set(kept) <= set(everything)
    first = [row for row in everything if row[2] < 200_008]
    assert first == rows_of(tmp_path / "whole.db")
    assert len(first) == 8 * 5


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    ledger = tmp_path / "bench.db"
    process = start(ledger, 400)
    wait_for_rows(ledger, process)
    second = start(ledger, 400)
    assert second.communicate() == (
        "",
        f"error: '{ledger}' is in use by a job 'bench', process {process.pid}; wait for it, give another file, or give "
        "this job another name, and they share the work.\n",
    )
    assert second.returncode == 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert [p.name for p in tmp_path.iterdir()] == ["bench.db"]
    kept = rows_of(ledger)
    *progress, last = err.splitlines()
    assert last == (
        f"interrupted: {len(kept):,} answers of these settings are kept in '{ledger}'; "
        "the same command goes on from there"
    )
    assert all(" answers, " in line for line in progress)
    assert len(kept) % 2 == 0  # whole batches


# --- settings from a file -------------------------------------------------------------------------------------------


def test_a_file_of_settings_is_what_its_options_are(call, tmp_path):
    file, ledger = tmp_path / "bench.toml", tmp_path / "bench.db"
    file.write_text(
        f'methods = ["none", "hiprune"]\nkeep = ["1/9", 22]\ntypes = "digit"\nlimit = 9\nbatch = 2\nonly = true\n'
        f"out = {str(ledger)!r}\n"
    )
    code, _, err = call("--settings", file, "--limit", 3)  # what is given beside the file wins
    assert (code, err) == (0, "")
    assert len(rows_of(ledger)) == 3 * 3
    code, _, err = call(
        "--methods", "none,hiprune", *QUICK[2:], "--keep", "1/9,22", "--limit", 3, "--only", "--out", ledger
    )
    assert (code, err) == (0, "")
    assert len(rows_of(ledger)) == 3 * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kep = 5", "sets 'kep', which is no option of this command. Closest: 'keep'"),
        ("keep = ", "are no TOML: "),
        ("[keep]\nx = 1", "keep must be a text, a number, true, false or a list of texts; got {'x': 1}."),
        (None, "cannot be read: No such file or directory."),
    ],
)
def test_a_file_that_is_no_settings_is_one_line(call, tmp_path, text, message):
    if text is not None:
        (tmp_path / "bench.toml").write_text(text)
    code, out, err = call("--settings", tmp_path / "bench.toml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "hiprune"), "hiprune needs a keep"),
        ((), "For all methods give keep, as in --keep 1/4,1/9."),
        (("--methods", "hiprne", "--keep", "5"), "no method 'hiprne'. Closest: 'hiprune'"),
        (("--keep", "5", "--types", "color"), "no question type 'color'; allowed: colour, "),
        (("--keep", "5", "--shard", "3/2"), "shard must be i/n with 1 <= i <= n, as in 1/4; got '3/2'."),
        (("--keep", "5", "--job", "a b", "--out", "{here}/new.db"), "a job's name has 1 to 64 letters"),
        (("--keep", "5", "--data", "here"), "draws its own pictures and takes no data; got 'here'."),
        (("--keep", "5", "--out", "{here}/missing/x.db"), "missing' for the ledger 'x.db'; make it first."),
        (("--keep", "5", "--out", "{here}"), "is a folder; give a file for the ledger."),
        (("--keep", "5", "--out", "{here}/text.db"), "text.db' cannot be read: file is not a database."),
        (("--keep", "500", "--methods", "hiprune", "--out", "{here}/new.db"), "only 196 are there"),
        (("--keep", "5", "--model", "{here}", "--out", "{here}/new.db"), "holds no config.json"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(call, tmp_path, options, message):
    (tmp_path / "text.db").write_text("not a database " * 99)
    code, out, err = call(*(o.replace("{here}", str(tmp_path)) for o in options))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["text.db"]
