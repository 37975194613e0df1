"""The commands as a user types them: what they print, what they write, and one line for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tessella
from siglip_folder import write_siglip
from tessella import mini
from tessella.app import demo
from tessella.core.registry import method_modules

QUESTION = "what color is the star?"


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
    assert lines[2].startswith("note: hiprune: layers fitted to this model: object_layer=")
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
    library = tessella.app.answering.ask(
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
    shown = [line.split()[0] for line in out.splitlines()[1:-1] if not line.startswith(" ")]  # cells may wrap
    assert shown == list(method_modules())


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
