"""What all public sets share: files of their schema, kinds and numbers, missing pictures, errors of one line."""

from __future__ import annotations

import io
import json
import re
import sys
import time

import datasets
import pytest
from drawn_pictures import picture
from PIL import Image

from tessella.bench.sets import SHARED, load_set, set_names
from tessella.bench.sets.loading import HubSet
from tessella.core.errors import InputError


def pope_row(category: str, answer: str, image: object, question: str = "Is there a dog in the image?") -> dict:
    return {"question": question, "answer": answer, "category": category, "image": image}


ROWS = [
    pope_row("adversarial", "yes", picture("red")),
    pope_row("random", "no", picture("lime")),
    pope_row("random", "yes", picture("blue"), "Is there a cat in the image?"),
]


def test_every_set_is_spelled_like_its_file_and_freezes_its_source():
    assert "pope" in set_names()
    assert not set(set_names()) & set(SHARED)
    for name in set_names():
        task = load_set(name)
        assert isinstance(task, HubSet)
        assert task.id == name == type(task).__module__.rpartition(".")[2]
        assert re.fullmatch("[0-9a-f]{40}|main", task.revision)
        assert "/" in task.repository
        assert task.title
        assert task.split
        assert task.metric
        assert 1 <= task.max_new_tokens <= 1024


def test_questions_are_numbered_by_kind_in_the_order_of_the_rows(write_set):
    task = load_set("pope", write_set(ROWS))
    assert task.kinds == ("random", "adversarial")
    assert [task.numbers(kind) for kind in task.kinds] == [range(2), range(1)]
    second, first = task.draw("random", [1, 0])
    assert (second.kind, second.number, second.truth) == ("random", 1, "yes")
    assert second.parts[1].startswith("Is there a cat")
    assert [q.parts[0].getpixel((0, 0)) for q in (first, second)] == [(0, 255, 0), (0, 0, 255)]


def test_the_digest_moves_with_what_is_read_and_not_with_pictures_or_other_columns(write_set):
    facts = load_set("pope", write_set(ROWS)).facts()
    assert facts["task"] == "pope 1"
    assert facts["data"] == "a copy"
    repainted = [row | {"image": picture("white"), "id": "7"} for row in ROWS]
    assert load_set("pope", write_set(repainted, "white.parquet")).facts() == facts
    reworded = [*ROWS[:2], ROWS[2] | {"question": "Is there a cow in the image?"}]
    assert load_set("pope", write_set(reworded, "cow.parquet")).facts()["rows"] != facts["rows"]


def test_missing_and_broken_pictures_are_left_out_of_a_draw(write_set):
    whole = io.BytesIO()
    picture("red", (64, 64)).save(whole, "PNG")
    cells = [
        {"bytes": whole.getvalue(), "path": None},
        {"bytes": whole.getvalue()[:60], "path": None},
        {"bytes": b"no picture", "path": None},
        None,
        {"bytes": None, "path": "gone.png"},
    ]
    task = load_set("pope", write_set([pope_row("random", "no", cell) for cell in cells]))
    assert task.numbers("random") == range(5)
    assert [q.number for q in task.draw("random", range(5))] == [0]


def test_lines_of_json_name_their_pictures_relative_to_the_file(tmp_path):
    picture("navy").save(tmp_path / "one.png")
    lines = [json.dumps(pope_row("popular", "yes", name)) for name in ("one.png", "two.png")]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    task = load_set("pope", tmp_path / "rows.jsonl")
    [asked] = task.draw("popular", [0, 1])
    assert asked.parts[0].getpixel((0, 0)) == (0, 0, 128)


def test_a_folder_is_read_like_the_repository(write_set, tmp_path):
    (tmp_path / "copy" / "data").mkdir(parents=True)
    write_set(ROWS, "copy/data/test-00000-of-00001.parquet")
    write_set(ROWS[:1], "copy/data/train-00000-of-00001.parquet")
    task = load_set("pope", tmp_path / "copy")
    assert sum(len(task.numbers(kind)) for kind in task.kinds) == 3


def test_arrow_files_are_read(tmp_path):
    with datasets.arrow_writer.ArrowWriter(path=str(tmp_path / "rows.arrow")) as writer:
        for row in ROWS:
            writer.write({**row, "image": None})
        writer.finalize()
    assert load_set("pope", tmp_path / "rows.arrow").numbers("random") == range(2)


def test_pictures_are_upright_and_rgb(write_set):
    wide, turned = picture("red", (20, 10)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    wide.save(turned, "JPEG", exif=exif)
    grey = io.BytesIO()
    Image.new("L", (4, 4), 7).save(grey, "PNG")
    cells = [{"bytes": b.getvalue(), "path": None} for b in (turned, grey)]
    first, second = load_set("pope", write_set([pope_row("random", "no", c) for c in cells])).draw("random", [0, 1])
    assert first.parts[0].size == (10, 20)
    assert (second.parts[0].mode, second.parts[0].getpixel((0, 0))) == ("RGB", (7, 7, 7))


def test_without_the_hub_one_line_names_the_set_and_the_way_out(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        _ = load_set("pope").kinds
    assert time.perf_counter() - start < 10  # and not the half a minute for which the library tries again
    assert str(caught.value) == (
        "POPE: lmms-lab-encoder/POPE@4db1276, test was not downloaded before, and the hub cannot be reached. "
        "Give data: a copy of the repository, or a file of its rows."
    )
    assert datasets.config.HF_HUB_OFFLINE is False


def test_without_the_library_one_line_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"^POPE is read with datasets.*pip install 'tessella\[sets\]'$"):
        _ = load_set("pope", tmp_path / "rows.parquet").kinds


def test_data_that_cannot_be_used_is_refused_in_one_line(write_set, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "rows.csv").write_text("question,answer\n")
    lacking = write_set([{"question": "?", "image": picture("red")}], "lacking.parquet")
    (tmp_path / "broken.jsonl").write_text('{"question": 1')
    for name in ("empty", "unclear", "unnamed"):
        (tmp_path / name).mkdir()
    (tmp_path / "unclear" / "README.md").write_text("---\nconfigs: [\n---\n")
    write_set(ROWS, "unnamed/train.parquet")
    for place, message in (
        (tmp_path / "none.parquet", r"^POPE: there is no file or folder '.*none\.parquet'\.$"),
        (tmp_path / "rows.csv", r"^POPE: a file of rows ends in \.parquet, \.jsonl, \.json, \.arrow; got '.*csv'\.$"),
        (tmp_path / "broken.parquet", r"^POPE cannot be read from '.*broken\.parquet': .*Give data: a copy"),
        (
            tmp_path / "broken.jsonl",
            r"^POPE cannot be read from '.*broken\.jsonl': JSON parse error: ",
        ),
        (tmp_path / "unclear", r"^POPE cannot be read from '.*unclear': .*Give data: a copy"),
        (tmp_path / "unnamed", r"^POPE cannot be read from '.*unnamed': Unknown split \"test\".*Give data: a copy"),
        (tmp_path / "empty", r"^POPE cannot be read from '.*empty': .*Give data: a copy"),
        (lacking, r"it has no column 'answer', 'category'; needed: question, answer, category, image\.$"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            _ = load_set("pope", place).kinds
        assert "\n" not in str(caught.value)


def test_unknown_sets_and_options_are_refused_with_the_closest():
    with pytest.raises(InputError, match=r"^no set 'popes'\. Closest: 'pope'\. Sets: .*pope"):
        load_set("popes")
    with pytest.raises(InputError, match=r"^no set 'loading'"):
        load_set("loading")
    with pytest.raises(InputError, match=r"^pope has no option 'ocr'; it has none\.$"):
        load_set("pope", ocr=True)
    with pytest.raises(InputError, match=r"^textvqa has no option 'oct'; allowed: ocr\. Closest: 'ocr'\.?$"):
        load_set("textvqa(oct=True)")
    with pytest.raises(InputError, match=r"^textvqa: ocr must be of type bool; got 'yes'\.$"):
        load_set("textvqa", ocr="yes")


def test_options_stand_behind_the_name_too(write_set):
    assert load_set("textvqa(ocr=True)") == load_set("textvqa", ocr=True) != load_set("textvqa()")
    assert str(load_set("textvqa", ocr=True)) == "textvqa(ocr=True)"
    assert str(load_set("textvqa", ocr=False)) == str(load_set("textvqa()")) == "textvqa"
    row = {"question": "?", "answers": ["a"], "ocr_tokens": [], "image": picture("red")}
    facts = load_set("textvqa(ocr=True)", write_set([row])).facts()
    assert (facts["task"], facts["options"]) == ("textvqa(ocr=True) 1", {"ocr": True})
    for text in ("textvqa(True)", "textvqa(ocr=", "textvqa(ocr=x)", "textvqa(ocr=True)(", "textvqa(*x)"):
        with pytest.raises(InputError, match=r"^options of a set are written as in 'textvqa\(ocr=True\)'; got '"):
            load_set(text)
