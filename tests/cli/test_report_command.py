"""tessella report: tables, findings, page and JSON of a real ledger, and one line for every mistake."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tessella.bench.embedded import Embedded
from tessella.cli.application import run

METHODS = "hiprune,divprune,random,pool"
BENCH = ("--methods", METHODS, "--keep", "1/9", "--types", "digit,shape", "--limit", 10, "--batch", 10)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "bench.db"
    assert run(["bench", *map(str, BENCH), "--out", str(path)]) == 0
    return path


@pytest.fixture
def changed(ledger, tmp_path):
    """A copy of the ledger on which an SQL statement was run."""

    def change(statement: str) -> Path:
        path = tmp_path / "changed.db"
        path.write_bytes(ledger.read_bytes())
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
            connection.commit()
        return path

    return change


def test_tables_and_findings_without_a_model(call, ledger, monkeypatch):
    monkeypatch.setattr("tessella.loading.load", None)
    code, text, err = call("report", ledger)
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0] == f"mini world {Embedded.version}, mini"
    assert lines[1].split()[:4] == ["method", "keep", "accuracy", "%"]
    assert [line.split()[0] for line in lines[2:9]][:2] == ["none", "blind"]
    assert {line.split()[0] for line in lines[4:9]} == {"hiprune", "divprune", "random", "pool", "downsample"}
    assert any(re.match(r"note: keep 1/9: \w+ is first, but its lead over ", line) for line in lines)


def test_the_page_draws_what_methods_keep(call, ledger, tmp_path):
    page = tmp_path / "out.html"
    code, text, err = call("report", ledger, "--html", page, "--gallery", 2)
    assert (code, err) == (0, "")
    assert text.endswith(f"written: {page}\n")
    shown = page.read_text(encoding="utf-8")
    assert "<h1>Bench: bench.db</h1>" in shown
    assert " settings. Measured by " in shown
    figures = re.findall(r"<h5>(\w+)</h5><img [^>]*webp;base64[^>]*><ul class=.fates.>.*?</figcaption>", shown)
    assert 4 <= len(figures) <= 8
    assert set(figures) <= {"hiprune", "divprune", "random", "pool"}
    assert "22 of 196 visual tokens" in shown
    assert "asked again" not in shown  # the model answers as it did in the ledger
    assert "--methods hiprune --keep 1/9 --only --task mini --types digit,shape --limit 10 --model mini" in shown


def test_as_json(call, ledger):
    code, text, err = call("report", ledger, "--json")
    assert (code, err) == (0, "")
    told = json.loads(text)
    assert (told["ledger"], told["left_out"]) == (str(ledger), [])
    [board] = told["boards"]
    assert board["types"] == ["digit", "shape"]
    assert {f["rule"] for f in board["findings"]} >= {"noise"}
    assert len(board["commands"]) == 7
    rows = {row["method"]: row for row in board["keeps"][0]["settings"]}
    assert rows["none"]["tokens_kept"] == 196


def test_a_page_without_pictures_says_why(call, ledger, tmp_path):
    page = tmp_path / "out.html"
    code, text, _ = call("report", ledger, "--html", page, "--gallery", 0)
    assert code == 0
    assert "No pictures were asked for." in text
    assert "<h5>" not in page.read_text(encoding="utf-8")


def test_pictures_of_another_model_are_left_out(call, ledger, tmp_path):
    from tessella.mini import path

    other = tmp_path / "mini"
    other.mkdir()
    for file in path().iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "more.safetensors").write_bytes((path() / "model.safetensors").read_bytes())
    page = tmp_path / "out.html"
    code, text, _ = call("report", ledger, "--html", page, "--model", other, "--json")
    assert code == 0
    [why] = json.loads(text)["left_out"]
    assert why.endswith("has other weights than the model that answered ('mini'); give --model.")
    assert "has other weights than the model that answered" in page.read_text(encoding="utf-8")


def test_a_ledger_without_references(call, tmp_path):
    path, page = tmp_path / "only.db", tmp_path / "out.html"
    assert (
        call("bench", "--methods", "random", "--keep", 9, "--types", "digit", "--limit", 2, "--only", "--out", path)[0]
        == 0
    )
    code, text, err = call("report", path, "--html", page)
    assert (code, err) == (0, "")
    assert "warning: none: was not measured; nothing is compared with it" in text
    assert "warning: blind: was not measured; nothing is compared with it" in text
    assert "No pictures: there is no question on which two methods at one keep disagree." in text
    assert "was not measured" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("gone.db",), "there is no ledger 'gone.db'."),
        (("gone.db", "--html", "no/such.html"), "cannot write 'no/such.html': there is no folder 'no'"),
        (("gone.db", "--html", "page.pdf"), "the name must end in .html, .htm; got '.pdf'."),
        (("gone.db", "--gallery", "-1"), "gallery must be at least 0 questions; got -1."),
        ((), "Missing argument 'LEDGER'."),
    ],
)
def test_mistakes_that_need_no_ledger(refusal, monkeypatch, tmp_path, args, message):
    monkeypatch.chdir(tmp_path)
    assert message in refusal("report", *args)


def test_files_that_are_no_ledger(refusal, changed, tmp_path):
    page = tmp_path / "out.html"
    text = tmp_path / "notes.db"
    text.write_text("no ledger " * 100)
    assert "file is not a database" in refusal("report", text, "--html", page)
    assert "is a ledger of version 1; version 2 is read here." in refusal(
        "report", changed("UPDATE meta SET version = 1")
    )
    assert "is damaged: setting" in refusal("report", changed("UPDATE settings SET json = '{}'"))
    assert "holds a half-written record" in refusal("report", changed("UPDATE records SET score = 7 WHERE rowid = 3"))
    assert "the ledger holds no records yet" in refusal("report", changed("DELETE FROM records"), "--html", page)
    assert not page.exists()


def test_a_model_that_is_not_there(refusal, ledger, tmp_path):
    page = tmp_path / "out.html"
    assert "there is no model folder './gone'" in refusal("report", ledger, "--html", page, "--model", "./gone")
    assert not page.exists()
