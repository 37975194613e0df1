"""Bad input: one clear line, exit code 2, nothing lost."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from siglip_folder import write_siglip
from tessella import mini
from tessella.core.errors import InputError

QUESTION = "what color is the star?"


def _bad_pictures(folder: Path) -> list[tuple[Path, str]]:
    text = folder / "text.png"
    text.write_text("not a picture")
    short = folder / "short.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(short)
    short.write_bytes(short.read_bytes()[:2000])
    bomb = folder / "bomb.png"
    Image.new("RGB", (8, 8)).save(bomb)
    data = bytearray(bomb.read_bytes())
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    bomb.write_bytes(bytes(data))
    return [
        (text, "is not a picture that can be read"),
        (short, "is cut short"),
        (bomb, "claims 30,000 x 30,000 pixels; allowed are 80 million in all"),
        (folder, "is a folder; give one picture file"),
        (folder / "gone.png", "there is no file"),
    ]


@pytest.mark.parametrize("command", [["ask"], ["compare", "--methods", "uniform", "--keep", "9"]])
def test_bad_pictures(refusal, tmp_path, command):
    for path, message in _bad_pictures(tmp_path):
        error = refusal(command[0], path, QUESTION, *command[1:])
        assert message in error
        assert str(path) in error


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "the question is empty"),
        ("   ", "the question is empty"),
        ("x" * 100_000, "tokens and up to 32 to answer; this model reads at most 2,048."),
        ("bad \udcff bytes", "not UTF-8"),
    ],
)
def test_bad_questions(refusal, picture, question, message):
    assert message in refusal("ask", picture, question)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("0", "keep must be an int >= 1, a fraction in (0, 1] or a/b; got 0."),
        ("-3", "got -3."),
        ("1.5", "got 1.5."),
        ("25%", "got 25%. For a quarter write 0.25 or 1/4."),
        ("500", "keep=500 asks for 500 visual tokens per image, but only 196 are there"),
        ("many", "got many."),
        ("1/0", "got 1/0."),
    ],
)
def test_bad_keeps(refusal, picture, keep, message):
    for args in (
        ("ask", picture, QUESTION),
        ("ask", picture, QUESTION, "--method", "hiprune"),
        ("compare", picture, QUESTION, "--methods", "hiprune,divprune"),
    ):
        assert message in refusal(*args, "--keep", keep).replace("'", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "hiprne", "--keep", 5), "no method 'hiprne'. Closest: 'hiprune'"),
        (("--method", "hiprune"), "hiprune needs a keep"),
        (("--method", "hiprune:5", "--keep", 5), "was given beside a pipeline with its own budgets"),
        (("--method", "hiprune:5", "--scope", "tile"), "scope='tile' was given without a keep"),
        (("--scope", "tile"), "scope='tile' was given without a keep"),
        (("--keep", 5, "--scope", "galaxy"), "no scope 'galaxy'; allowed: image, tile, frame, prompt, layer-mean"),
        (("--method", "fastv@99:5"), "is not a layer of this decoder"),
        (("--max-new-tokens", 0), "max_new_tokens must be at least 1; got 0"),
        (("--dtype", "int3"), "dtype must be one of float32, bfloat16, float16 or auto; got 'int3'"),
        (("--device", "moon"), "device 'moon' cannot be used here"),
    ],
)
def test_bad_settings(refusal, picture, options, message):
    assert message in refusal("ask", picture, QUESTION, *options)


def test_a_method_that_the_model_cannot_carry(refusal, call, picture, tmp_path):
    folder = write_siglip(tmp_path / "siglip")
    error = refusal("ask", picture, QUESTION, "--model", folder, "--method", "fastervlm", "--keep", 5)
    assert error.startswith("fastervlm needs a class token")
    assert "Nearest: " in error
    assert refusal("compare", picture, QUESTION, "--model", folder, "--methods", "fastervlm:5") == error
    code, out, _ = call(
        "compare", picture, QUESTION, "--model", folder, "--methods", "fastervlm,uniform", "--keep", 5,
        "--max-new-tokens", 1,
    )  # fmt: skip
    assert code == 0
    assert "cannot run here: fastervlm needs a class token" in out


def test_bad_model_folders(refusal, picture, tmp_path):
    assert "there is no model folder" in refusal("ask", picture, QUESTION, "--model", tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "holds no config.json" in refusal("ask", picture, QUESTION, "--model", tmp_path / "empty")
    broken = shutil.copytree(mini.path(), tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:100_000])
    assert "are damaged or cut short" in refusal("ask", picture, QUESTION, "--model", broken)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "text")
    error = refusal("ask", picture, QUESTION, "--model", tmp_path / "text")
    assert "is a 'llama' model, which takes no pictures" in error
    assert error == refusal("methods", "--model", tmp_path / "text")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("aks",), "No such command 'aks'. Did you mean 'ask'? Help: tessella --help"),
        (("ask", "--kep", "3"), "--keep"),
        (("ask",), "Missing argument 'IMAGE'. Help: tessella ask --help"),
        (("ask", "a.png"), "Missing argument 'QUESTION'."),
        (("ask", "a.png", "b", "c"), "unexpected extra argument"),
        (("ask", "a.png", "b", "--max-new-tokens", "x"), "Invalid value for '--max-new-tokens': "),
        (("compare", "a.png", "b"), "Missing option '--methods'."),
        (("compare", "a.png", "b", "--methods", ""), "must name at least one"),
        (("show", "fastvv"), "no method 'fastvv'. Closest: 'fastv'"),
        (("methods", "--stage", "kitchen"), "stage must be one of input, encoder, connector, prefill, decode"),
        (("methods", "--needs", "luck"), "needs must be one of features, class_token"),
    ],
)
def test_typing_mistakes(refusal, args, message):
    assert message in refusal(*args)


@pytest.mark.parametrize(
    "options",
    [
        ("ask", "--show", "no/such/kept.png"),
        ("ask", "--show", "kept.docx"),
        ("compare", "--methods", "uniform:9", "--sheet", "no/such/sheet.png"),
        ("compare", "--methods", "uniform:9", "--html", "no/such/page.html"),
        ("compare", "--methods", "uniform:9", "--html", "page.pdf"),
    ],
)
def test_targets_are_refused_before_the_model_is_loaded(refusal, picture, options, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tessella.loading.load", never)
    assert refusal(options[0], picture, QUESTION, *options[1:]).startswith("cannot write ")


def test_demo_refuses_a_folder_that_cannot_be_made(refusal, tmp_path):
    assert "there is no folder" in refusal("demo", "--out", tmp_path / "no" / "such")
    (tmp_path / "file").write_text("x")
    assert "file" in refusal("demo", "--out", tmp_path / "file")


def test_ctrl_c_prints_one_line_and_leaves_nothing_half_written(call, picture, tmp_path, monkeypatch):
    before = sorted(tmp_path.iterdir())

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for place in ("tessella.loading.load", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            result = call("ask", picture, QUESTION, "--keep", 5, "--show", tmp_path / "k.png", "--max-new-tokens", 1)
        assert result == (130, "", "interrupted\n")
        assert sorted(tmp_path.iterdir()) == before


def test_an_error_of_several_lines_becomes_one(refusal, picture, monkeypatch):
    def broken(*_, **__):
        raise InputError("two\n  lines")

    monkeypatch.setattr("tessella.loading.load", broken)
    assert refusal("ask", picture, QUESTION) == "two lines"


def test_a_mistake_of_ours_is_not_hidden(call, picture, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("tessella.loading.load", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        call("ask", picture, QUESTION)
