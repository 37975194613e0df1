"""`tessella claims`: the list, verdicts on a ledger, and what is missing measured on the embedded model."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from claim_rows import CLAIM, bench, rows
from synthetic import Row, setting

import tessella
from tessella.bench.claims import judging, stated
from tessella.bench.claims.claim import Claim
from tessella.bench.claims.conditions import Floor, Has
from tessella.bench.claims.evidence import BOTTOM, DOMINANCE
from tessella.bench.claims.probing import measure_dominance
from tessella.bench.embedded import Embedded, first_number
from tessella.bench.identity import identify_model
from tessella.bench.ledger import Ledger
from tessella.cli.application import run
from tessella.core.errors import InputError
from tessella.instruments.dominance import measure_dominance as diagnose_dominance
from tessella.mini.questions import sample
from tessella.samples import Sample

PAGE = """# Claims
<!-- verdicts: begin -->
<!-- verdicts: end -->
By hand.
<!-- claims: begin -->
<!-- claims: end -->
"""
TINY = (  # decided on two questions of a type each
    Claim(
        "tiny-fastv",
        "FastV costs nothing.",
        "a paper",
        (("fastv@2:1.0", "none"),),
        ("colour", "digit"),
        ("fastv",),
        margin=-0.5,
        samples=2,
        seed=2,
        preconditions=(Floor(0.0),),
    ),
    Claim(
        "tiny-random",
        "Nor does a single token.",
        "a paper",
        (("random:1", "none"), ("evs:1/5", "none")),
        ("digit",),
        ("fastv",),
        samples=2,
        seed=3,
    ),
    Claim("tiny-clips", "", "", (("evs:1/5", "none"),), ("digit",), ("evs",), preconditions=(Has("frames"),)),
    Claim("tiny-unknown", "", "", (("hiprune:1/5", "none"),), ("places",), ("hiprune",)),
)


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]):
    """Run the command; returns (exit code, standard output, standard error)."""

    def called(*args: object) -> tuple[int, str, str]:
        code = run(["claims", *(str(a) for a in args)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return called


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stated, "FIRST", TINY)


def written(path: Path) -> list[tuple[str, str, int]]:
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT pipeline, kind, number FROM records JOIN settings ON key = setting ORDER BY 1, 2, 3"
        return connection.execute(query).fetchall()


def write(path: Path, table: list[Row], **details: Any) -> None:
    """A ledger of rows, under settings with other details."""
    changed = {s.key: setting(s.pipeline, **details) for s, _ in table}
    with Ledger(path) as ledger:
        ledger.begin(list(changed.values()), {})
        ledger.add([dataclasses.replace(r, setting=changed[s.key].key) for s, r in table])


# -- the list ----------------------------------------------------------------------------------------------------------


def test_without_a_ledger_it_lists(call, tmp_path):
    code, out, err = call("--only", "slime,fastv-half")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == [
        "claim",
        "fastv-half",
        "slime-fewer-tokens",
    ]
    code, out, _ = call("--json")
    assert [c["id"] for c in json.loads(out)] == [c.id for c in stated.stated()]
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert call("--out", page)[0] == 0
    assert "\n#### agilepruner\n\n**agilepruner-both.** " in page.read_text()
    assert page.read_text().startswith("# Claims\n<!-- verdicts: begin -->\n<!-- verdicts: end -->\nBy hand.\n")


def test_what_cannot_be_done_is_one_line(call, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    for args, message in (
        (("--run",), "--run measures into a ledger; name one with --ledger FILE."),
        (("--out", "page.txt"), "cannot write 'page.txt': the name must end in .md, .json; got '.txt'."),
        (("--out", page, "--only", "slime"), f"'{page}' is a page of all claims; leave out --only, or write another"),
        (("--ledger", tmp_path / "none.db"), f"there is no ledger '{tmp_path / 'none.db'}'."),
        (("--only", "slim"), "no claim and no method with a claim is called 'slim'. Closest: 'slime'."),
        (("--ledger", page), f"the ledger '{page}' cannot be read"),
    ):
        code, out, err = call(*args)
        assert (code, out) == (2, ""), args
        assert err.startswith(f"error: {message}"), args
        assert err.count("\n") == 1
    assert page.read_text() == PAGE


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_judge(mini: tuple[Any, Any]) -> None:
    """Claims on rows and on regions of a real model; a pipeline that cannot run is said so."""
    few = Claim("few", "More below.", "ours", (("uniform:49", "random:300"),), ("place",), metric=BOTTOM, samples=3)
    same = dataclasses.replace(few, id="same", comparisons=(("uniform:49", "uniform:49"),))
    about = dataclasses.replace(CLAIM, about=("divprune",))
    judgement = judging.judge([about, few, same], rows(), *mini)
    assert [v.status for v in judgement.verdicts] == ["shown", "not measured", "not shown"]
    assert any(n.startswith("few: random:300 cannot run: keep=300") for n in judgement.notes)
    methods, claims, thirds = judgement.tables
    assert thirds.rows[0][0] == "uniform:49"
    assert methods.rows[0] == ("divprune", "divprune-random", "shown", claims.rows[0][5] + " " + claims.rows[0][6])
    assert methods.rows[1] == ("all methods", "few", "not measured", "no answers yet of random:300")
    assert ("random", "-", "baseline", "none of its own: a rival in other methods' claims") in methods.rows
    text = judgement.to_markdown()
    assert text.startswith("### Verdict for every method\n\n| method | claim | verdict | came out |")
    assert (
        "| divprune-random | DivPrune is better. | a paper | shown | divprune:1/9 > random:1/9 | 66.7, 50.0 % |" in text
    )
    plain = json.loads(json.dumps(judgement.to_dict()))
    assert [c["status"] for c in plain["claims"]] == ["shown", "not measured", "not shown"]
    assert plain["claims"][0]["about"] == ["divprune"]
    assert plain["claims"][0]["compared"] == [["divprune:1/9", "random:1/9"]]
    assert plain["claims"][0]["comparisons"][0]["difference"]["value"] == pytest.approx(1 / 6)
    assert plain["claims"][0]["preconditions"] == ["the full model is right on at least 90% of the questions"]


def test_dominance_is_that_of_the_instrument(mini: tuple[Any, Any]) -> None:
    """Question by question; their mean is what `tessella diagnose` says of the same pictures."""
    claim = Claim("d", "", "", (("text_dominance:1/9", "none"),), ("digit", "place"), metric=DOMINANCE, samples=2)
    drawn = [sample(kind, number, Embedded.split) for kind, number in claim.questions]
    samples = [Sample((s.image,), s.question) for s in drawn]
    reported = diagnose_dominance(*mini, samples, ["text_dominance:1/9"], max_new_tokens=Embedded.max_new_tokens)
    for method in reported.methods:
        values = measure_dominance(*mini, method.method, claim.questions)
        assert list(values) == claim.questions
        assert sum(values.values()) / 4 == pytest.approx(method.overall.mdi, rel=1e-4)
    verdict = judging.judge([dataclasses.replace(claim, direction="less")], [], *mini).verdicts[0]
    full, reduced = (m.overall.mdi for m in reported.methods)
    assert verdict.compared[0].values == pytest.approx((reduced, full), rel=1e-4)


def test_other_weights_are_refused_and_other_tasks_left_out(mini: tuple[Any, Any]) -> None:
    world = Embedded().facts()["task"]
    table = [(setting(s.pipeline, task=world), r) for s, r in rows()]
    with pytest.raises(InputError, match="other weights than those of 'mini'"):
        judging.rows_for(table, mini[0], "mini")
    weights = identify_model(mini[0], "mini")["weights"]
    mine = [(setting(s.pipeline, task=world, weights=weights), r) for s, r in rows()]
    assert judging.rows_for([*mine, *bench("none", {"vqa": "1"})], mini[0], "mini") == mine


def test_the_page_is_written_from_a_ledger(call, mini, tmp_path, monkeypatch):
    """With one claim, on rows written under the embedded model's own weights."""
    monkeypatch.setattr(stated, "FIRST", (dataclasses.replace(CLAIM, about=("divprune",)),))
    for name in ("CONNECTOR", "IN_MODEL", "HEADLINES", "SCENES"):
        monkeypatch.setattr(stated, name, ())
    details = {"task": Embedded().facts()["task"], "weights": identify_model(mini[0], "mini")["weights"]}
    write(tmp_path / "bench.db", rows(), **details)
    (tmp_path / "page.md").write_text(PAGE)
    code, out, err = call("--ledger", tmp_path / "bench.db", "--out", tmp_path / "page.md")
    assert code == 0
    assert err == f"note: to measure what is missing: tessella claims --ledger {tmp_path / 'bench.db'} --run\n"
    assert out.splitlines()[1].split()[:3] == ["divprune", "divprune-random", "shown"]
    page = (tmp_path / "page.md").read_text()
    assert "| divprune | divprune-random | shown | 66.7, 50.0 % " in page
    assert "\n#### divprune\n" in page
    assert "By hand." in page
    assert call("--ledger", tmp_path / "bench.db", "--out", tmp_path / "v.json")[0] == 0
    told = json.loads((tmp_path / "v.json").read_text())["claims"]
    assert [(c["id"], c["status"]) for c in told][:2] == [
        ("divprune-random", "shown"),
        ("better-than-random-1/4", "not measured"),
    ]


# -- what is missing ---------------------------------------------------------------------------------------------------


def test_what_is_missing_is_measured_and_no_more(call, tiny, tmp_path):
    """Two questions of colour and of digit under two pipelines, two of digit of another seed, and notes on the rest."""
    path, only = tmp_path / "claims.db", "tiny-fastv,tiny-random,tiny-clips,tiny-unknown"
    code, out, err = call("--ledger", path, "--run", "--only", only, "--json")
    assert code == 0
    assert err.splitlines() == [
        "note: tiny-random: evs:0.2 cannot run: evs needs the frames of a clip; this llava model has none. "
        "Nearest: divprune.",
        "note: tiny-unknown: the bench has no questions of type places",
    ]
    two, three = first_number(2), first_number(3)
    fastv = [(p, k, two + n) for p in ("fastv@2:1.0", "none") for k in ("colour", "digit") for n in range(2)]
    one = [(p, "digit", three + n) for p in ("none", "random:1") for n in range(2)]
    assert written(path) == sorted([*fastv, *one])
    told = {c["id"]: c for c in json.loads(out)["claims"]}
    assert told["tiny-fastv"]["status"] == "shown"  # everything is kept
    assert told["tiny-fastv"]["comparisons"][0]["difference"]["value"] == 0
    assert (told["tiny-random"]["status"], told["tiny-random"]["missing"]) == ("not measured", ["evs:0.2"])
    assert told["tiny-clips"]["reasons"] == ["fails: a model with the frames of a clip"]
    assert told["tiny-unknown"]["missing"] == ["hiprune:0.2", "none"]
    before = path.read_bytes()
    assert call("--ledger", path, "--run", "--only", "tiny-fastv,tiny-clips")[0] == 0
    assert path.read_bytes() == before


def test_an_interrupted_run_says_how_it_goes_on(call, tiny, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tessella.bench.runner.run_work", interrupt)
    code, _, err = call("--ledger", tmp_path / "claims.db", "--run", "--only", "tiny-fastv")
    kept = f"what was answered is kept in '{tmp_path / 'claims.db'}'; the same command goes on from there"
    assert (code, err) == (130, f"interrupted: {kept}\n")
