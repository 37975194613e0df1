"""The commands as a user types them: what they print, what they write, and one line for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

import tessella
from siglip_folder import write_siglip
from tessella import demo, mini
from tessella.cli.application import run
from tessella.core.errors import InputError
from tessella.core.registry import method_modules

QUESTION = "what color is the star?"


@pytest.fixture
def picture(tmp_path: Path) -> str:
    demo.bundled()[0].image.save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]):
    """Run the command line; returns (exit code, standard output, standard error)."""

    def called(*args: object) -> tuple[int, str, str]:
        code = run([str(a) for a in args])
        out = capsys.readouterr()
        return code, out.out, out.err

    return called


@pytest.fixture
def refusal(call):
    """Run a command that must fail with exit code 2, nothing on standard output and one line of error."""

    def refused(*args: object) -> str:
        code, out, err = call(*args)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert len(err) < 500
        return err.removeprefix("error: ").rstrip("\n")

    return refused


# --- what works -----------------------------------------------------------------------------------------------------


def test_no_arguments_and_help_list_the_commands(call):
    for args in ((), ("--help",), ("-h",)):
        code, out, err = call(*args)
        assert (code, err) == (0, "")
        assert out.startswith("Usage: tessella ")
        assert all(f"\n  {name} " in out for name in ("ask", "compare", "methods", "show", "doctor", "demo"))


def test_version(call):
    assert call("--version") == (0, f"tessella {tessella.__version__}\n", "")


def test_ask_prints_the_answer_and_the_counts(call, picture, tmp_path):
    target = tmp_path / "kept.png"
    code, out, err = call("ask", picture, QUESTION, "--keep", "1/9", "--show", target, "--max-new-tokens", 4)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].startswith("hiprune:1/9: 22 of 196 visual tokens, ")
    assert lines[2].startswith("note: hiprune: layers scaled to this model's depth: object_layer=")
    assert lines[3:] == [f"drawn: {target}"]
    assert np.asarray(Image.open(target)).shape[1] == 448 + 32


def test_ask_as_json_says_the_same_as_the_library(call, picture):
    code, out, err = call(
        "ask", picture, QUESTION, "--method", "divprune", "--keep", 7, "--json", "--max-new-tokens", 4
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["pipeline"], found["report"]["tokens_kept"], len(found["kept"][0])) == ("divprune:7", 7, 7)
    model, processor = tessella.load("mini")
    library = tessella.answering.ask(
        model, processor, Image.open(picture).convert("RGB"), QUESTION, "divprune", 7, max_new_tokens=4
    )
    assert (found["answer"], found["kept"]) == (library.answer, [list(library.kept[0])])


def test_ask_with_a_pipeline_a_scope_and_a_folder(call, picture):
    code, out, _ = call(
        "ask", picture, QUESTION, "--method", "divprune:0.5 | fastv@2:0.5", "--model", mini.path(), "--json"
    )
    assert code == 0
    assert json.loads(out)["report"]["tokens_kept"] == 49
    code, out, _ = call(
        "ask", picture, QUESTION, "--method", "fastv", "--keep", "0.5", "--scope", "layer-mean", "--json"
    )
    assert code == 0
    assert json.loads(out)["report"]["mean_keep_ratio"] == pytest.approx(0.5, abs=0.01)


def test_compare_prints_a_table_and_writes_sheet_and_page(call, picture, tmp_path):
    sheet, page = tmp_path / "sheet.png", tmp_path / "page.html"
    code, out, err = call(
        "compare", picture, QUESTION, "--methods", "hiprune,uniform", "--keep", "1/9", "--max-new-tokens", 2,
        "--sheet", sheet, "--html", page,
    )  # fmt: skip
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == QUESTION
    assert lines[1].split()[0] == "method"
    assert [line.split()[0] for line in lines[2:5]] == ["none", "hiprune:1/9", "uniform:1/9"]
    assert all("22 of 196" in line for line in lines[3:5])
    assert lines[-2:] == [f"written: {sheet}", f"written: {page}"]
    assert np.asarray(Image.open(sheet)).ndim == 3
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_compare_as_json(call, picture):
    code, out, _ = call("compare", picture, QUESTION, "--methods", "random:5", "--json", "--max-new-tokens", 1)
    assert code == 0
    assert [r["method"] for r in json.loads(out)["rows"]] == ["none", "random:5"]


def test_methods_lists_every_registered_method_and_filters(call):
    listed = lambda *args: [r["id"] for r in json.loads(call("methods", "--json", *args)[1])]  # noqa: E731
    assert listed() == list(method_modules())
    assert "fastv" in listed("--stage", "prefill")
    assert "hiprune" not in listed("--stage", "prefill")
    assert "fastervlm" in listed("--needs", "class_token")
    assert "divprune" not in listed("--needs", "class_token")
    assert {"none", "random"} <= set(listed("--baseline"))
    assert set(listed("--baseline")) | set(listed("--no-baseline")) == set(listed())
    code, out, _ = call("methods")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == list(method_modules())


def test_methods_says_what_a_model_can_carry(call, tmp_path):
    folder = write_siglip(tmp_path / "siglip")
    rows = {r["id"]: r for r in json.loads(call("methods", "--json", "--model", folder)[1])}
    assert rows["divprune"]["can_apply"] is True
    assert rows["fastervlm"]["can_apply"] is False
    assert "class token" in rows["fastervlm"]["reason"]
    assert rows[rows["fastervlm"]["nearest"]]["can_apply"] is True
    out = call("methods", "--model", folder)[1]
    line = next(line for line in out.splitlines() if line.startswith("fastervlm"))
    assert line.split()[1] == "no:"


def test_show_prints_card_settings_and_paper(call):
    code, out, err = call("show", "fastv")
    assert (code, err) == (0, "")
    assert "https://arxiv.org/abs/2403.06764" in out
    assert any(line.split()[:2] == ["at_layer", "2"] for line in out.splitlines())
    details = json.loads(call("show", "hiprune", "--json")[1])
    assert details["contract"] == "Selector"
    assert {s["name"] for s in details["settings"]} >= {"alpha", "object_layer"}


def test_doctor_says_that_the_embedded_model_works(call):
    code, out, err = call("doctor", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["embedded_model"]["ok"] is True
    assert report["embedded_model"]["tokens"] == [196, 22]
    assert report["methods"] == {"registered": len(method_modules()), "broken": {}}
    assert report["packages"]["pillow"].split(".")[0].isdigit()


def test_doctor_reports_what_is_broken_and_exits_1(call, tmp_path, monkeypatch):
    broken = shutil.copytree(mini.path(), tmp_path / "weights")
    (broken / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(mini, "path", lambda: broken)
    code, out, err = call("doctor")
    assert (code, err) == (1, "")
    assert "does not work: the weights of" in out


def test_demo_writes_a_sheet_and_names_it_last(call, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "PER_KIND", 2)
    code, out, err = call("demo", "--out", tmp_path / "made")
    assert (code, err) == (0, "")
    sheet = tmp_path / "made" / "sheet.png"
    assert out.splitlines()[-1] == f"Picture sheet: {sheet}"
    assert "16 freshly drawn questions, 2 of each kind" in out
    assert "all 196" in out
    assert "hiprune 1/9 (22)" in out
    assert np.asarray(Image.open(sheet)).shape[0] > 3 * 280


# --- pictures that work, with a note where something was decided ----------------------------------------------------


def _kinds(folder: Path) -> dict[str, Path]:
    base = demo.bundled()[0].image
    base.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257).save(folder / "wide.png")
    base.save(folder / "moving.gif", save_all=True, append_images=[base.rotate(90)])
    base.convert("RGBA").save(folder / "clear.png")
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    base.save(folder / "turned.png", exif=exif)
    return {path.stem: path for path in folder.iterdir()}


def test_unusual_pictures_are_answered(call, tmp_path):
    kinds = _kinds(tmp_path)
    for name, path in kinds.items():
        code, out, err = call("ask", path, QUESTION, "--keep", 20, "--json", "--max-new-tokens", 2)
        assert code == 0, name
        assert json.loads(out)["report"]["tokens_kept"] == 20
        note = "note: moving.gif has several frames; the first one is used.\n"
        assert err == (note if name == "moving" else "")


def test_exif_rotation_reaches_the_model(call, tmp_path):
    base = demo.bundled()[0].image
    exif = Image.Exif()
    exif[0x0112] = 6
    base.save(tmp_path / "turned.png", exif=exif)
    base.rotate(-90).save(tmp_path / "upright.png")
    base.save(tmp_path / "plain.png")
    kept = {
        name: json.loads(
            call("ask", tmp_path / f"{name}.png", QUESTION, "--keep", 20, "--json", "--max-new-tokens", 1)[1]
        )["kept"]
        for name in ("turned", "upright", "plain")
    }
    assert kept["turned"] == kept["upright"] != kept["plain"]


# --- bad input ------------------------------------------------------------------------------------------------------


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


# --- as a process of its own ----------------------------------------------------------------------------------------


def _process(*args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-m", "tessella.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_the_exit_code_and_the_one_line_of_a_real_process(picture):
    done = _process("ask", picture, QUESTION, "--keep", "25%")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: keep must be an int >= 1, a fraction in (0, 1] or 'a/b'; got '25%'. For a quarter write 0.25 or 1/4.\n"
    )


def test_a_real_process_prints_nothing_but_its_answer(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    folder = shutil.copytree(mini.path(), tmp_path / "model")
    settings = json.loads((folder / "generation_config.json").read_text()) | {"max_length": 300}
    (folder / "generation_config.json").write_text(json.dumps(settings))  # of which transformers warns
    options = ["--model", str(folder), "--keep", "9", "--max-new-tokens", "2"]
    done = _process("ask", str(tmp_path / "dot.png"), QUESTION, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith("hiprune:9: 9 of 196 visual tokens, ")


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from tessella.cli.application import run; code = run(['--help']);"
        "print([m for m in ('torch', 'transformers', 'PIL', 'numpy') if m in sys.modules], code)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[] 0"
