"""A saved model of every family is loaded, asked, drawn and listed as the embedded one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tessella
from tessella.app.answering import ask, compare
from tessella.app.catalogue import method_rows
from tessella.app.families import adapters
from tessella.app.prompting import prepare
from tessella.core.errors import InputError, UnsupportedError
from tessella.core.layout import THUMBNAIL
from tessella.pictures.fates import panels_of
from tessella.testing.families import tiny_families, tiny_family

# transformers 5.24 makes arrays of tensors in a way that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES = [name for name in tiny_families() if name in adapters()]
QUESTION = "what color is the star ?"
SIZES = ((60, 25), (40, 40))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each family is saved, once it was asked for."""

    class Saved(dict):
        def __missing__(self, name: str) -> Path:
            self[name] = tiny_family(name).save(tmp_path_factory.mktemp("families") / name)
            return self[name]

    return Saved()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def loaded(folders: dict[str, Path], family: str) -> tuple[Any, Any]:
    return tessella.load(folders[family], device="cpu")


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def plain_answer(model: Any, processor: Any, images: list[Image.Image], new: int) -> str:
    """The untouched model's, with the prompt of the family's own chat template."""
    content = [*({"type": "image", "image": i} for i in images), {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    inputs.pop("labels", None)
    out = model.generate(**inputs, max_new_tokens=new, do_sample=False)
    return processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_all_tokens_give_the_untouched_answer(loaded: tuple[Any, Any], family: str) -> None:
    for images in (pictures(SIZES[0]), pictures(*SIZES)):
        answer = ask(*loaded, images, QUESTION, max_new_tokens=4)
        assert answer.answer == plain_answer(*loaded, images, 4) != ""
        assert answer.report["tokens_kept"] == answer.report["tokens_in"] > 0


def test_kept_tokens_of_two_pictures_are_counted_and_drawn(loaded: tuple[Any, Any]) -> None:
    answer = ask(*loaded, pictures(*SIZES), QUESTION, "divprune", "1/2", max_new_tokens=2)
    report, blocks = answer.report, answer.shown.blocks
    assert sum(map(len, answer.kept)) == report["tokens_kept"] < report["tokens_in"]
    assert [len(m) for m in answer.shown.merged] == [sum(b.num_tokens for b in mine) for mine in blocks]
    assert sum(map(len, answer.shown.merged)) == report["tokens_in"]
    thumbnails = sum(b.num_tokens for mine in blocks for b in mine if b.role == THUMBNAIL)
    assert report["roles"].get("thumbnail", {"of": 0})["of"] == thumbnails
    for image, mine in zip(answer.shown.images, blocks, strict=True):
        assert isinstance(image, tuple) == (len(mine) > 1)
        assert not isinstance(image, tuple) or len(image) == sum(len(p.blocks) for p in panels_of(mine))
    assert answer.draw().width > 2 * 200


def test_a_processor_without_chat_template(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    processor.chat_template = None
    answer = ask(model, processor, pictures(*SIZES), QUESTION, "hiprune", "1/2", max_new_tokens=2)
    assert len(answer.kept) == len(answer.shown.blocks) == 2
    assert 0 < answer.report["tokens_kept"] < answer.report["tokens_in"]


def test_methods_are_listed_with_the_reason_where_they_do_not_run(loaded: tuple[Any, Any], family: str) -> None:
    rows = {row["id"]: row for row in method_rows(model=loaded[0])}
    assert all(rows[name]["can_apply"] for name in ("none", "random", "hiprune", "divprune", "fastv"))
    with_class = rows["fastervlm"]
    assert with_class["can_apply"] == (family in ("llava", "llava_next", "llava_next_video", "internvl"))
    if not with_class["can_apply"]:
        assert with_class["reason"] == (
            "fastervlm needs a class token in the vision encoder, its attention row or its features; "
            f"this {family} model has none."
        )


def test_batches_of_several_rows_have_their_own_pictures(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    first, second = pictures(*SIZES)
    both = prepare(model, processor, [(first,), (second,)], [QUESTION, QUESTION], 1)
    for row, image in enumerate((first, second)):
        alone = prepare(model, processor, [(image,)], [QUESTION], 1)
        assert both["input_ids"][row][both["attention_mask"][row].bool()].tolist() == alone["input_ids"][0].tolist()


# --- what only some families have -----------------------------------------------------------------------------------


def test_newlines_and_thumbnails_go_where_the_user_says(folders: dict[str, Path]) -> None:
    model, processor = tessella.load(folders["llava_next"], device="cpu")

    def roles(**options: Any) -> dict[str, tuple[int, int]]:
        answer = ask(model, processor, pictures((56, 56)), QUESTION, "uniform", "1/4", max_new_tokens=1, **options)
        return {name: (c["kept"], c["of"]) for name, c in answer.report["roles"].items()}

    assert roles(newlines="drop", thumbnails="drop") == {"newline": (0, 8), "thumbnail": (0, 16)}
    assert roles(newlines="keep", thumbnails="keep") == {"newline": (8, 8), "thumbnail": (16, 16)}
    compared = compare(
        model, processor, pictures((56, 56))[0], QUESTION, "uniform", "1/4", newlines="drop", thumbnails="keep",
        max_new_tokens=1,
    )  # fmt: skip
    assert compared.rows[0].answer.counts == "88 of 88 visual tokens (newline 8 of 8, thumbnail 16 of 16)"
    assert compared.rows[1].answer.counts == "32 of 88 visual tokens (newline 0 of 8, thumbnail 16 of 16)"


def test_a_mosaic_is_drawn_as_the_picture_that_was_given(folders: dict[str, Path]) -> None:
    """Eight by eight tokens of four tiles, nothing dropped: the panel beside the thumbnail is the picture enlarged."""
    model, processor = tessella.load(folders["llava_next"], device="cpu")
    [picture] = pictures((56, 56))
    drawn = ask(model, processor, picture, QUESTION, max_new_tokens=1).draw(" ")
    left = 16 + 224 + 16  # margins and the thumbnail
    panel = np.asarray(drawn.crop((left, 8, left + 448, 8 + 448)).resize((56, 56), Image.Resampling.BOX), dtype=int)
    assert np.abs(panel - np.asarray(picture)).mean() < 20
    assert np.abs(panel - np.asarray(picture.rotate(90))).mean() > 60


def test_pictures_as_wide_as_the_model_takes_them_are_not_refused(folders: dict[str, Path]) -> None:
    """`shortest_edge` of a Qwen processor is a number of pixels in all, not a side."""
    model, processor = tessella.load(folders["qwen3_vl"], device="cpu")
    processor.image_processor.size = {"shortest_edge": 12_544, "longest_edge": 20_000}
    inputs = prepare(model, processor, [pictures((800, 100))], [QUESTION], 1)
    assert inputs["image_grid_thw"].tolist() == [[1, 12, 100]]  # patches: 19,200 pixels


def test_clips_need_torchvision_and_pictures_do_not(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessella.without_torchvision.find_spec", lambda _: None)
    _, processor = tessella.load(folders["qwen2_5_vl"], device="cpu")
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    with pytest.raises(UnsupportedError, match=r"^preparing clips needs torchvision, which is not installed"):
        processor(text=["<|video_pad|>"], videos=[np.zeros((2, 24, 24, 3), dtype=np.uint8)])
    assert '"merge_size": 2' in repr(processor)


def test_a_family_without_adapter_is_refused_before_pictures_are_prepared(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = tessella.load(folders["llava"], device="cpu")
    monkeypatch.setattr("tessella.models.adapter.adapter_classes", lambda: ())
    monkeypatch.setattr("tessella.app.answering.prepare", None)
    for call in (lambda: ask(model, processor, pictures((9, 9)), QUESTION), lambda: method_rows(model=model)):
        with pytest.raises(UnsupportedError, match=r"^no adapter for model type 'llava'; known: "):
            call()
    with pytest.raises(InputError, match="the question is empty"):
        ask(model, processor, pictures((9, 9)), "")
