"""Samples from the user's file, or drawn: what they hold, and one line for each that cannot be read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import tessella
from tessella import samples as module
from tessella.bench.embedded import Embedded
from tessella.core.errors import InputError
from tessella.mini.questions import KINDS, sample
from tessella.samples import Sample, batches, digest_samples, load_samples, name_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pictures in a folder of their own."""
    (tmp_path / "pictures").mkdir()
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (8, 6), colour).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path


def write_lines(folder: Path, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "samples.jsonl").write_text(text, encoding="utf-8")
    return folder / "samples.jsonl"


RED = {"image": "pictures/red.png", "question": "which colour?"}


def test_a_file_gives_its_pictures_questions_answers_and_kinds(folder: Path) -> None:
    both = {"images": ["pictures/red.png", "pictures/blue.png"], "question": "same?", "answer": "no", "kind": "pairs"}
    file = write_lines(folder, "\ufeff" + json.dumps(RED), "", both, {**RED, "answer": None})
    first, second, third = load_samples(file)
    assert (first.question, first.answer, first.kind) == ("which colour?", None, None)
    assert [(i.size, i.getpixel((0, 0))) for i in first.images] == [((8, 6), (255, 0, 0))]
    assert (second.question, second.answer, second.kind) == ("same?", "no", "pairs")
    assert [i.getpixel((7, 5)) for i in second.images] == [(255, 0, 0), (0, 0, 255)]
    assert third == first
    assert load_samples(folder) == load_samples(str(file)) == [first, second, third]


def test_a_limit_draws_lines_by_the_seed_and_keeps_their_order(folder: Path) -> None:
    file = write_lines(folder, *({**RED, "question": f"{n:02d}?"} for n in range(40)))
    taken = [[s.question for s in load_samples(file, 10, seed)] for seed in (0, 0, 1)]
    assert taken[0] == taken[1] == sorted(taken[0])
    assert len(set(taken[0])) == 10
    assert taken[0] != taken[2]
    assert len(load_samples(file, 100)) == 40


def test_drawn_samples_go_through_the_kinds_apart_from_those_of_the_bench() -> None:
    drawn = load_samples("mini:10", seed=3)
    assert [s.kind for s in drawn] == [*KINDS, *KINDS[:2]]
    wanted = [sample(KINDS[i % 8], 30_000 + i, "train") for i in range(10)]
    assert [(s.question, s.answer, s.images[0].tobytes()) for s in drawn] == [
        (w.question, w.answer, w.image.convert("RGB").tobytes()) for w in wanted
    ]
    assert Embedded.split != "train"
    assert load_samples("mini:200", 4) == load_samples("mini", 4)
    assert len(load_samples("mini")) == 64
    assert load_samples("mini:4", seed=1) != load_samples("mini:4", seed=2)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{'image': 1}", r"is not JSON: Expecting property name enclosed in double quotes\."),
        ('["a"]', r"must be an object with image, images, question, answer, kind; got '\[\"a\"\]'\."),
        ({**RED, "anwser": "x"}, r"has a field 'anwser'; allowed: image, .*, kind\. Closest: 'answer'\."),
        ({"question": "which?"}, r"needs one of 'image' \(a file\) and 'images' \(a list of files\)\."),
        ({**RED, "images": ["x.png"]}, "needs one of 'image'"),
        (
            {"image": 3, "question": "which?"},
            r"'image' is a file's name and 'images' a list of .*; got \[3\]",
        ),
        ({"images": [], "question": "which?"}, r"at least one; got \[\]"),
        ({"images": "pictures/red.png", "question": "which?"}, "at least one; got 'pictures/red.png'"),
        ({"image": "pictures/red.png"}, "the question is empty; give a text"),
        ({**RED, "question": ["a"]}, r"'question' must be a text that is not empty; got \['a'\]"),
        ({**RED, "answer": 3}, "'answer' must be a text that is not empty; got 3"),
        ({**RED, "kind": " "}, "'kind' must be a text that is not empty; got ' '"),
        ({"image": "pictures/green.png", "question": "which?"}, r"there is no picture file '.*pictures/green\.png'\."),
        ({"image": "pictures", "question": "which?"}, r"there is no picture file '.*pictures'\."),
        ({"image": "broken.png", "question": "which?"}, "broken.png' is not a picture that can be read"),
    ],
)
def test_a_bad_line_is_named(folder: Path, line: object, message: str) -> None:
    (folder / "broken.png").write_text("no picture")
    file = write_lines(folder, RED, "", line)
    with pytest.raises(InputError, match=message) as error:
        load_samples(file)
    assert str(error.value).startswith(f"line 3 of {str(file)!r}")


def test_lines_that_a_limit_leaves_out_are_checked_too(folder: Path) -> None:
    file = write_lines(folder, *[RED] * 20, {"image": "gone.png", "question": "which?"})
    for seed in range(3):
        with pytest.raises(InputError, match="line 21 of"):
            load_samples(file, 1, seed)


def test_data_that_is_none(folder: Path) -> None:
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    (folder / "empty.jsonl").write_text("\n \n")
    for data, message in (
        (
            folder / "gone.jsonl",
            "there is no file '.*gone.jsonl'; data is a JSON-lines file, a folder with",
        ),
        (folder / "pictures", "the folder '.*pictures' holds no samples.jsonl; data is"),
        (folder / "binary.jsonl", "binary.jsonl' is not UTF-8 text: invalid start byte at byte 0"),
        (folder / "empty.jsonl", "empty.jsonl' holds no samples; one JSON object a line is needed"),
        ("mini:0", "'mini' or 'mini:1' to 'mini:10000'; got 'mini:0'"),
        ("mini:", "got 'mini:'"),
        ("mini:many", "got 'mini:many'"),
    ):
        with pytest.raises(InputError, match=message):
            load_samples(data)
    with pytest.raises(InputError, match="limit must be at least 1 sample; got 0"):
        load_samples("mini", 0)
    with pytest.raises(InputError, match="at most 10,000 samples are drawn; got limit 10,001"):
        load_samples("mini", 10_001)
    with pytest.raises(InputError, match="seed must be at least 0; got -1"):
        load_samples("mini", seed=-1)


def test_pictures_that_do_not_fit_into_memory_ask_for_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_lines(folder, RED, RED, RED)
    monkeypatch.setattr(module, "MAX_PIXELS", 2 * 8 * 6)
    assert len(load_samples(file, 2)) == 2
    with pytest.raises(InputError, match="the pictures of the first 3 of 3 samples have more than 0 million pixels"):
        load_samples(file)


def test_the_digest_moves_with_all_that_a_sample_holds() -> None:
    one = Sample((Image.new("RGB", (4, 2)),), "q", "a", "k")
    other = Image.new("RGB", (4, 2))
    other.putpixel((3, 1), (0, 0, 1))
    changed = [
        dataclasses.replace(one, images=(other,)),
        dataclasses.replace(one, images=(Image.new("RGB", (2, 4)),)),
        dataclasses.replace(one, images=one.images * 2),
        dataclasses.replace(one, question="r"),
        dataclasses.replace(one, answer=None),
        dataclasses.replace(one, kind="a"),
    ]
    digests = {digest_samples([one]), *(digest_samples([c]) for c in changed), digest_samples([one, changed[0]])}
    assert len(digests) == 8
    assert digest_samples([one, changed[0]]) != digest_samples([changed[0], one])
    assert digest_samples([one]) == digest_samples([Sample((Image.new("RGB", (4, 2)),), "q", "a", "k")])
    assert len(digest_samples([])) == 16


def test_data_is_named_without_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_data(folder / "samples.jsonl") == "samples.jsonl"
    assert name_data("mini:8") == "mini:8"
    monkeypatch.chdir(folder / "pictures")
    assert name_data(".") == "pictures"


def test_batches_are_in_order_and_ready_for_the_model() -> None:
    model, processor = tessella.load("mini")
    drawn = load_samples("mini:5")
    found = list(batches(model, processor, drawn, 2))
    assert [some for some, _ in found] == [drawn[:2], drawn[2:4], drawn[4:]]
    assert [inputs["pixel_values"].shape for _, inputs in found] == [(2, 3, 112, 112)] * 2 + [(1, 3, 112, 112)]
    with torch.no_grad():
        assert len(model(**found[1][1]).logits) == 2
    marked = dataclasses.replace(drawn[0], question="<image> what?")
    with pytest.raises(InputError, match="the question holds the picture marker '<image>'"):
        next(batches(model, processor, [marked]))
