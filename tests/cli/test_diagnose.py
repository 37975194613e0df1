"""tessella diagnose: what it prints and writes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tessella.calibration import withdrawing
from tessella.testing.families import tiny_family

QUICK = ("--data", "mini:8", "--instruments", "horizon,overlap", "--methods", "random,uniform")


@pytest.fixture(autouse=True)
def no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine lines of progress would be printed."""
    monkeypatch.setattr("tessella.cli.progress.SECONDS_BETWEEN_LINES", 1e9)


def test_page_and_numbers(call, tmp_path):
    page = tmp_path / "out.html"
    code, text, err = call("diagnose", *QUICK, "--html", page)
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0] == "Information horizon"
    assert "Overlap between methods" in lines
    assert lines[-1] == f"written: {page} and {tmp_path / 'out.json'}"
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert (numbers["model"], numbers["data"], numbers["seed"]) == ("mini", "mini:8", 0)
    assert numbers["methods"] == ["random:0.25", "uniform:0.25"]
    measured = numbers["instruments"]["horizon"]
    assert [k["kind"] for k in measured["kinds"]][:2] == ["colour", "shape"]
    assert measured["overall"]["change"][0] < -0.5  # without a picture the embedded model does not know
    assert abs(measured["overall"]["change"][-1]) < 0.05
    shown = page.read_text()
    assert "<h1>Diagnosis of mini</h1>" in shown
    assert '<a href="out.json">out.json</a>' in shown
    assert sorted(os.listdir(tmp_path)) == ["out.html", "out.json"]


def test_as_json_it_prints_the_numbers(call):
    code, text, err = call("diagnose", *QUICK, "--limit", 2, "--seed", 3, "--keep", 9, "--json")
    assert (code, err) == (0, "")
    told = json.loads(text)
    assert (told["samples"], told["seed"], told["methods"]) == (2, 3, ["random:9", "uniform:9"])
    assert told["instruments"]["overlap"]["kept"] == [9, 9]


def test_all_instruments_on_the_users_own_samples_and_model(call, picture, tmp_path):
    folder = tiny_family("qwen2_5_vl").save(tmp_path / "model")
    data = tmp_path / "samples.jsonl"
    line = {"image": Path(picture).name, "question": "what color is the star ?", "kind": "stars"}
    data.write_text("\n".join([json.dumps(line)] * 2))
    code, text, err = call("diagnose", "--model", folder, "--data", data, "--json", "--keep", 4)
    assert (code, err) == (0, "")
    told = json.loads(text)
    assert (told["model"], told["data"], told["left_out"]) == ("model", "samples.jsonl", {})
    assert list(told["instruments"]) == ["horizon", "position", "dominance", "spectrum", "overlap", "regions"]
    assert "fastv:4" in told["methods"]
    assert told["instruments"]["horizon"]["num_own"] == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--instruments", "horizn"), "no instrument 'horizn'; allowed: horizon, position,"),
        (("--methods", "fast_v"), "no method 'fast_v'. Closest: 'fastv'"),
        (("--methods", "fastv,fastv"), "methods names 'fastv:0.25' twice."),
        (("--methods", "fastv", "--keep", "25%"), "For a quarter write 0.25 or 1/4."),
        (("--keep", "0"), "keep must be"),
        (("--data", "gone.jsonl"), "there is no file 'gone.jsonl'"),
        (("--limit", "0"), "limit must be at least 1 sample; got 0."),
        (("--batch", "0"), "batch must be at least 1; got 0."),
        (("--html", "no/such.html"), "cannot write 'no/such.html': there is no folder 'no'"),
        (("--html", "page.png"), "the name must end in .html, .htm; got '.png'."),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(refusal, monkeypatch, tmp_path, args, message):
    def never(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tessella.loading.load", never)
    monkeypatch.chdir(tmp_path)
    assert message in refusal("diagnose", *args)


def test_a_folder_in_the_place_of_the_numbers(refusal, tmp_path):
    (tmp_path / "out.json").mkdir()
    assert "out.json': it is a folder" in refusal("diagnose", "--html", tmp_path / "out.html")


def test_data_without_questions(refusal, picture, tmp_path):
    data = tmp_path / "samples.jsonl"
    data.write_text(json.dumps({"image": Path(picture).name}))
    error = refusal("diagnose", "--data", data)
    assert "question" in error
    assert str(data) in error


def test_a_layer_that_the_model_does_not_have(refusal):
    error = refusal("diagnose", *QUICK[:4], "--methods", "fastv@9,random")
    assert "at_layer=9 is not a layer of this decoder; it has 8 layers: 0 to 7." in error


def test_a_model_that_takes_no_pictures(refusal, tmp_path):
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=16)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "text")
    error = refusal("diagnose", "--data", "mini:2", "--model", tmp_path / "text")
    assert "is a 'llama' model, which takes no pictures" in error


def test_figures_need_an_extra_and_numbers_do_not(refusal, call, monkeypatch, tmp_path):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = refusal("diagnose", *QUICK, "--html", tmp_path / "out.html")
    assert "pip install 'tessella[diagnose]'" in error
    assert os.listdir(tmp_path) == []
    code, text, _ = call("diagnose", *QUICK, "--limit", 2)
    assert code == 0
    assert text.startswith("Information horizon\n")


def test_ctrl_c_in_the_middle_writes_nothing(call, monkeypatch, tmp_path):
    asked = []

    def interrupted(model, inputs):
        asked.append(inputs)
        if len(asked) > 3:
            raise KeyboardInterrupt
        return horizon_next(model, inputs)

    horizon_next = withdrawing.likely_next
    monkeypatch.setattr(withdrawing, "likely_next", interrupted)
    done = call("diagnose", *QUICK, "--html", tmp_path / "out.html")
    assert done == (130, "", "interrupted: nothing was written\n")
    assert len(asked) == 4
    assert os.listdir(tmp_path) == []
