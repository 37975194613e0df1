"""tessella tune: what it prints and writes, and one line for every mistake."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tessella.app import demo, tuning
from tessella.cli.application import run
from tessella.core.recipe import read_recipe
from tessella.tuning.tune import tune

SMALL = ("tune", "--data", "mini:40", "--methods", "fopru,uniform", "--trials", 3, "--lose", 40)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command line in an empty folder, timing in one round; (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuning, "tune", lambda *args, **options: tune(*args, **options, rounds=1))

    def called(*args: object) -> tuple[int, str, str]:
        code = run([str(a) for a in args])
        out = capsys.readouterr()
        return code, out.out, out.err

    return called


def test_it_writes_a_recipe_that_the_other_commands_take(call: Any) -> None:
    code, text, _ = call(*SMALL, "--out", "mine.json")
    assert code == 0
    assert sorted(file.name for file in Path().iterdir()) == ["mine.db", "mine.front.json", "mine.json"]
    lines = text.splitlines()
    assert lines[0] == "Found, on 20 questions that the search has not seen"
    assert lines[1].split("  ")[0] == "pipeline"
    assert lines[1].endswith("first token ms")
    numbers = json.loads(Path("mine.front.json").read_text())
    assert lines[-2:] == [
        "written: mine.json",
        "use: tessella ask PICTURE QUESTION --model mini --method mine.json",
    ]
    assert f"the cheapest that loses at most 40 points: {numbers['chosen']} (" in text
    assert [row["role"] for row in numbers["held_out"]["rows"]][:2] == ["full", "chosen"]
    recipe = read_recipe("mine.json")
    assert (recipe.data.name, recipe.data.count, recipe.seed) == ("mini:40", 40, 0)
    assert recipe.evidence["pipeline"] == numbers["chosen"]

    demo.bundled()[0].image.save("picture.png")
    use = shlex.split(lines[-1].removeprefix("use: tessella "))
    words = [{"PICTURE": "picture.png", "QUESTION": "what color is the star?"}.get(word, word) for word in use]
    code, text, err = call(*words, "--max-new-tokens", 1)
    assert (code, err) == (0, "")
    name, kept = text.splitlines()[1].split(": ", 1)
    assert name.startswith("mine.json")
    assert " of 196 visual tokens" in kept
    code, text, _ = call(*words[:-1], numbers["chosen"], "--max-new-tokens", 1)
    assert text.splitlines()[1].split(": ", 1)[1].split(",")[0] == kept.split(",")[0]

    code, text, err = call("bench", "--methods", "mine.json", "--only", "--limit", 2, "--types", "colour", "--json")
    [setting] = json.loads(text)["keeps"][0]["settings"]
    assert (code, setting["pipeline"].partition(":")[0]) == (0, "mine.json")
    assert setting["mean_keep_ratio"] == pytest.approx(recipe.evidence["mean_keep_ratio"], abs=0.01)

    changed = json.loads(Path("mine.json").read_text())
    changed["model"] |= {"name": "someone/else", "num_layers": 32}
    Path("other.json").write_text(json.dumps(changed))
    code, _, err = call(*words[:-1], "other.json")
    assert code == 2
    assert "the recipe 'other.json' was fitted to 'someone/else' (llava, 32 layers" in err
    assert err.endswith("Fit one to it: tessella tune\n")


def test_where_nothing_keeps_to_the_limit_it_exits_with_1_and_writes_no_recipe(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "make_goal", lambda lose, keep: dataclasses.replace(tuning.Goal(), lose=-0.5))
    code, text, _ = call(*SMALL[:-2], "--json")
    assert code == 1
    assert json.loads(text)["out"] is None
    assert json.loads(text)["words"][0].startswith("nothing loses at most -50 points; the nearest is ")
    assert sorted(file.name for file in Path().iterdir()) == ["tuned.db", "tuned.front.json"]


def test_ctrl_c_before_anything_is_found_says_how_to_go_on(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tune", interrupted)
    code, text, err = call(*SMALL)
    assert (code, text) == (130, "")
    assert err == (
        "interrupted: no recipe was written; answers are kept in 'tuned.db', and the same command goes on from there\n"
    )


@pytest.mark.parametrize(
    "args, message",
    [
        (
            ("--data", "mini:39"),
            "tuning needs at least 40 samples, half of them to judge what was found on the others; got 39.",
        ),
        (("--data", "gone.jsonl"), "there is no file 'gone.jsonl'; data is a JSON-lines file"),
        (("--lose", "-1"), "lose must be points of accuracy, at least 0 and below 100; got -1."),
        (("--lose", "1", "--keep", "1/9"), "give lose or keep: the best at a keep has no limit of its loss"),
        (("--keep", "64"), "keep must be a share of the visual tokens here, below 1, such as 1/9; got 64 tokens."),
        (("--keep", "1.0"), "keep=1.0 is every token; there is nothing to tune."),
        (("--keep", "25%"), "For a quarter write 0.25 or 1/4."),
        (("--methods", "fast_v"), "no method 'fast_v'. Closest: 'fastv'"),
        (("--methods", "fastv,"), "methods must name ids of methods, each once, with commas between; got 'fastv,'."),
        (("--methods", "fastv,fastv"), "each once, with commas between; got 'fastv,fastv'."),
        (("--trials", "0"), "trials must be at least 1; got 0."),
        (("--batch", "0"), "batch must be at least 1 sample; got 0."),
        (("--out", "r.txt"), "the name must end in .json; got '.txt'."),
        (("--out", "no/such.json"), "cannot write 'no/such.json': there is no folder 'no'"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    call: Any, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tessella.loading.load", never)
    code, text, err = call("tune", *args)
    assert (code, text) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_samples_without_answers_are_counted(call: Any) -> None:
    demo.bundled()[0].image.save("a.png")
    line = {"image": "a.png", "question": "what color is the star?", "answer": "red"}
    lines = [line] * 40 + [{k: v for k, v in line.items() if k != "answer"}] * 3
    Path("own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, _, err = call("tune", "--data", "own.jsonl")
    assert (code, "3 of 43 samples have no answer, the first is number 41." in err) == (2, True)


def test_methods_that_leave_nothing_to_tune(call: Any) -> None:
    code, _, err = call("tune", "--data", "mini:40", "--methods", "none,blind")
    assert code == 2
    assert "none of the methods none, blind can leave fewer visual tokens on this model" in err
