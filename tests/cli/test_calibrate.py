"""tessella calibrate: what it prints and writes, and one line for every mistake."""

from __future__ import annotations

import dataclasses
import doctest
import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from tessella.app import calibrating
from tessella.cli import progress
from tessella.cli.progress import Reporter
from tessella.core.recipe import read_recipe
from tiny_fitter import install_tiny_fitter


@pytest.fixture
def fitter(monkeypatch, tmp_path):
    install_tiny_fitter(monkeypatch, tmp_path)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", float("inf"))  # on a slow machine too


def test_it_writes_a_recipe_and_says_how_to_use_it(call, picture, fitter, tmp_path):
    out = tmp_path / "my recipe.json"
    code, text, err = call("calibrate", "fastv", "--data", "mini:5", "--out", out, "--option", "layer=3", "--batch", 2)
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0].startswith("fastv, fitted on 5 samples of 'mini:5' to 'mini' (llava, ")
    assert [line.split() for line in lines[1:3]] == [["setting", "value"], ["at_layer", "3"]]
    assert lines[3:] == [
        f"written: {out}",
        f"use: tessella ask PICTURE QUESTION --model mini --method '{out}' --keep 1/4",
    ]
    recipe = read_recipe(out)
    assert (recipe.settings, recipe.evidence["rows"]) == ({"at_layer": 3}, (2, 2, 1))
    use = shlex.split(lines[-1].removeprefix("use: tessella "))
    words = [{"PICTURE": picture, "QUESTION": "what color is the star?"}.get(word, word) for word in use]
    code, text, err = call(*words, "--max-new-tokens", 1)
    assert (code, err) == (0, "")
    assert text.splitlines()[1].startswith(f"{out}:1/4: 49 of 196 visual tokens".replace("1/4", "0.25"))


def test_as_json_it_prints_the_recipe(call, fitter, tmp_path):
    out = tmp_path / "r.json"
    code, text, err = call("calibrate", "fastv@1", "--limit", 4, "--seed", 5, "--out", out, "--json")
    assert (code, err) == (0, "")
    assert json.loads(text) == {**json.loads(out.read_text()), "out": str(out)}
    assert json.loads(text)["data"] | {"digest": ""} == {"name": "mini:64", "count": 4, "digest": ""}
    assert json.loads(text)["seed"] == 5


def test_the_recipe_is_named_after_the_method_by_default(call, fitter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("calibrate", "fastv", "--data", "mini:4")[0] == 0
    assert read_recipe("fastv.json").method == "fastv"


def test_samples_come_from_the_users_file(call, refusal, picture, fitter, tmp_path):
    data = tmp_path / "samples.jsonl"
    line = json.dumps({"image": Path(picture).name, "question": "what color is the star?"})
    data.write_text("\n".join([line] * 4))
    assert call("calibrate", "fastv", "--data", data, "--out", tmp_path / "r.json")[0] == 0
    assert read_recipe(tmp_path / "r.json").data.name == "samples.jsonl"
    data.write_text("\n".join([line] * 3))
    assert "needs at least 4 samples; got 3" in refusal("calibrate", "fastv", "--data", data)


@pytest.mark.parametrize(
    "args, message",
    [
        (("divprune",), "divprune has no settings that are fitted to samples; these have: "),
        (("fast_v",), "no method 'fast_v'. Closest: 'fastv'"),
        (("fastv:9",), "cannot read ':9' in 'fastv:9'"),
        (("fastv", "--data", "gone.jsonl"), "there is no file 'gone.jsonl'; data is a JSON-lines file"),
        (("fastv", "--data", "mini:3"), "calibrating fastv needs at least 4 samples; got 3."),
        (("fastv", "--limit", "0"), "limit must be at least 1 sample; got 0."),
        (("fastv", "--out", "no/such.json"), "cannot write 'no/such.json': there is no folder 'no'"),
        (("fastv", "--out", "r.txt"), "the name must end in .json; got '.txt'."),
        (("fastv", "--option", "layer"), "an option is written name=value; got 'layer'."),
        (("fastv", "--option", "layer=1", "--option", "layer=2"), "option 'layer' is given twice."),
        (("fastv", "--option", "layers=1"), "has no option 'layers'; allowed: layer, package, stop_at."),
        (("fastv", "--keep", "0.5"), "does not depend on a keep; got 0.5."),
        (("fastv", "--keep", "25%"), "For a quarter write 0.25 or 1/4."),
        (("fastv", "--scope", "tile"), "scope='tile' was given without a keep."),
        (("fastv", "--batch", "0"), "batch must be at least 1 sample; got 0."),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(refusal, fitter, monkeypatch, tmp_path, args, message):
    def never(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tessella.loading.load", never)
    monkeypatch.chdir(tmp_path)
    assert message in refusal("calibrate", *args)


def test_ctrl_c_in_the_middle_writes_nothing(call, fitter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    done = call("calibrate", "fastv", "--data", "mini:8", "--batch", 2, "--option", "stop_at=2")
    assert done == (130, "", "interrupted: nothing was written\n")
    assert sorted(os.listdir()) == before


def test_a_search_that_was_stopped_says_so(call, fitter, tmp_path, monkeypatch):
    """vflowopt's search keeps the best so far; its own test sends the interrupt."""
    out = tmp_path / "r.json"
    assert call("calibrate", "fastv", "--data", "mini:4", "--out", out)[0] == 0
    recipe = read_recipe(out)
    for done, said in ((5, ()), (2, ("the search was stopped after 2 of 5 trials; the best of them was written.",))):
        evidence = {"trials": done, "trials_wanted": 5}
        assert calibrating.remarks_on(dataclasses.replace(recipe, evidence=evidence)) == said
    assert calibrating.remarks_on(recipe) == ()
    monkeypatch.setattr(calibrating, "remarks_on", lambda recipe: ("stopped early",))
    code, text, err = call("calibrate", "fastv", "--data", "mini:4", "--out", out, "--json")
    assert (code, err) == (0, "note: stopped early\n")
    assert json.loads(text)["method"] == "fastv"


def test_a_missing_package_is_named_with_its_extra(refusal, fitter, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    error = refusal("calibrate", "fastv", "--data", "mini:4", "--option", "package=scipy", "--out", tmp_path / "r.json")
    assert error == "calibrating fastv needs scipy, which is not installed: pip install 'tessella[calibrate]'"


def test_a_recipe_of_another_model_is_one_line(refusal, call, picture, fitter, tmp_path):
    out = tmp_path / "r.json"
    call("calibrate", "fastv", "--data", "mini:4", "--out", out)
    changed = json.loads(out.read_text())
    changed["model"] |= {"name": "someone/else", "num_layers": 32}
    out.write_text(json.dumps(changed))
    error = refusal("ask", picture, "what color is the star?", "--method", f"{out}:9")
    assert "was fitted to 'someone/else' (llava, 32 layers of width " in error
    assert "this model is 'mini' (llava, " in error
    assert error.endswith("Fit one to it: tessella calibrate fastv")


def test_steps_are_shown_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with Reporter() as reporter:
        for done in range(0, 5):
            reporter.advance(done, 4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0 of 4 steps"
    assert all(" of 4 steps, " in line and line.endswith(" s left") for line in lines[1:])


def test_options_are_python_values_or_texts():
    assert doctest.testmod(calibrating) == (0, 1)
    assert calibrating.read_options(["a = (1, 2)", "b=0.5", "c=x=y"]) == {"a": (1, 2), "b": 0.5, "c": "x=y"}
