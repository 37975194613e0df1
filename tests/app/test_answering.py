"""Asking and comparing: answers equal plain generation, counts are exact, every limit is named."""

from __future__ import annotations

import base64
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing

import tessella
from siglip_folder import build_siglip
from tessella.app import answering
from tessella.app.answering import ask, ask_many, compare, default_method, read_methods
from tessella.app.demo import bundled
from tessella.app.prompting import prepare, seen_picture, write_prompt
from tessella.core.errors import BudgetError, InputError, MethodError, UnknownMethodError, UnsupportedError

QUESTION = "what color is the star?"


@pytest.fixture(scope="module")
def mini():
    return tessella.load("mini", device="cpu")


@pytest.fixture(scope="module")
def siglip():
    return build_siglip()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return bundled()[0].image


def _generate(model, processor, image, question):
    """The untouched model, written out."""
    text = f"<s><user><image>{question}<assistant>"
    inputs = processor(text=[text], images=[image], add_special_tokens=False, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_the_full_answer_is_the_untouched_models(mini, picture):
    answer = ask(*mini, picture, f" {QUESTION} ", max_new_tokens=8)
    assert answer.answer == _generate(*mini, picture, QUESTION)
    assert (answer.question, answer.pipeline) == (QUESTION, "none")
    assert (answer.report["tokens_in"], answer.report["tokens_kept"]) == (196, 196)
    assert answer.kept == (tuple(range(196)),)
    assert answer.counts == "196 of 196 visual tokens"


def test_keep_alone_means_hiprune_and_keeps_exactly_that_many(mini, picture):
    answer = ask(*mini, picture, QUESTION, keep="1/9", max_new_tokens=4)
    assert answer.pipeline == "hiprune:1/9"
    assert answer.counts == "22 of 196 visual tokens"
    (kept,) = answer.kept
    assert len(kept) == 22
    assert sorted(set(kept)) == list(kept)
    (merged,) = answer.shown.merged
    assert [m for i, m in enumerate(merged) if i in kept] == list(kept)
    assert {m for i, m in enumerate(merged) if i not in kept} == {-1}
    plain = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert plain["kept"] == [list(kept)]
    assert plain["report"]["tokens_kept"] == 22


def test_two_pictures_in_one_question(mini, picture):
    answer = ask(*mini, [picture, picture.rotate(90)], QUESTION, "divprune:10", max_new_tokens=2)
    assert [len(k) for k in answer.kept] == [10, 10]
    assert [len(m) for m in answer.shown.merged] == [196, 196]
    assert answer.report["tokens_in"] == 392
    assert answer.draw().width > 2 * 448


def test_the_drawing_shows_the_kept_patches(mini, picture, tmp_path):
    answer = ask(*mini, picture, QUESTION, "uniform", 49, max_new_tokens=2)
    answer.save_picture(tmp_path / "kept.png")
    drawn = np.asarray(Image.open(tmp_path / "kept.png").convert("RGB"), dtype=int)
    large = np.asarray(picture.resize((448, 448), Image.Resampling.LANCZOS), dtype=int)
    same = [
        np.array_equal(
            drawn[8 + 32 * r + 4 : 8 + 32 * r + 28, 16 + 32 * c + 4 : 16 + 32 * c + 28],
            large[32 * r + 4 : 32 * r + 28, 32 * c + 4 : 32 * c + 28],
        )
        for r in range(14)
        for c in range(14)
    ]
    assert [i for i, s in enumerate(same) if s] == list(answer.kept[0])


def test_a_batch_answers_as_single_questions_do(mini):
    examples = bundled()[:3]
    single = [ask(*mini, e.image, e.question, "hiprune", 64, max_new_tokens=4).answer for e in examples]
    batch = ask_many(
        *mini, [e.image for e in examples], [e.question for e in examples], "hiprune", 64, max_new_tokens=4
    )
    assert batch == single


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "^the question is empty; "),
        (" \n\t ", "^the question is empty; "),
        ("bad \udcff bytes", "^the question holds bytes that are not UTF-8 text"),
        ("what is <image>?", "^the question holds the picture marker '<image>'"),
        (
            "word " * 20_000,
            r"^the question is too long: \d\d,\d\d\d tokens and up to 32 to answer; .* at most 2,048\.$",
        ),
        ("a" * 100_000, r"^the question is too long: [\d,]+ tokens and up to 32 to answer; .* at most 2,048\.$"),
    ],
)
def test_questions_that_cannot_be_asked(mini, picture, question, message):
    with pytest.raises(InputError, match=message):
        ask(*mini, picture, question)


def test_visual_tokens_count_towards_the_limit(siglip, picture):
    with pytest.raises(InputError, match=r"\(392 of them visual\) and up to 200 to answer; .* at most 512\.$"):
        ask(*siglip, [picture, picture], QUESTION, max_new_tokens=200)
    with pytest.raises(InputError, match="max_new_tokens must be at least 1; got 0"):
        ask(*siglip, picture, QUESTION, max_new_tokens=0)


@pytest.mark.parametrize(
    ("pipeline", "keep", "error", "message"),
    [
        (None, 0, BudgetError, "got 0"),
        (None, "25%", BudgetError, r"got '25%'\. For a quarter write 0\.25 or 1/4"),
        (None, 500, BudgetError, "only 196 are there"),
        ("hiprune", None, BudgetError, "^hiprune needs a keep"),
        ("hiprne", 5, UnknownMethodError, "Closest: 'hiprune'"),
        ("hiprune(beta=1)", 5, MethodError, "has no setting 'beta'"),
        ("none", 5, BudgetError, "none takes no keep"),
    ],
)
def test_wrong_budgets_and_methods_raise_as_in_core(mini, picture, pipeline, keep, error, message):
    with pytest.raises(error, match=message):
        ask(*mini, picture, QUESTION, pipeline, keep)


def test_a_method_that_the_model_cannot_carry_says_why_and_what_instead(siglip, picture):
    with pytest.raises(UnsupportedError, match=r"^fastervlm needs a class token.*Nearest: \w+\.$"):
        ask(*siglip, picture, QUESTION, "fastervlm", 10)


def test_the_default_method_is_the_nearest_where_the_first_choice_does_not_run(mini, siglip, monkeypatch):
    assert default_method(mini[0]) == default_method(siglip[0]) == "hiprune"
    monkeypatch.setattr(answering, "DEFAULT_METHOD", "fastervlm")
    assert default_method(mini[0]) == "fastervlm"
    nearest = tessella.can_apply(siglip[0], "fastervlm").nearest
    assert default_method(siglip[0]) == nearest != "fastervlm"


def test_a_comparison_has_a_row_per_method_and_says_whether_answers_agree(mini, picture):
    found = compare(*mini, picture, QUESTION, "hiprune, fastv@2:0.5 ,blind", "1/9", max_new_tokens=4)
    assert [r.method for r in found.rows] == ["none", "hiprune:1/9", "fastv@2:0.5", "blind"]
    full, hiprune, fastv, blind = (r.to_dict() for r in found.rows)
    assert [r["tokens_kept"] for r in (full, hiprune, fastv, blind)] == [196, 22, 98, 0]
    assert fastv["mean_keep_ratio"] == pytest.approx((2 + 6 * 0.5) / 8)
    assert full["same_as_full"] is True
    assert all(r["same_as_full"] == (r["answer"] == full["answer"]) for r in (hiprune, fastv, blind))
    assert full["cache_bytes"] > fastv["cache_bytes"] > hiprune["cache_bytes"] > blind["cache_bytes"]
    assert all(r["ms"]["prefill"] > 0 for r in (full, hiprune, fastv, blind))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["keep"] == "1/9"


def test_without_the_full_row_nothing_is_compared(mini, picture):
    found = compare(*mini, picture, QUESTION, ["uniform"], 4, include_full=False, max_new_tokens=1)
    assert [(r.method, r.same_as_full) for r in found.rows] == [("uniform:4", None)]


def test_methods_that_cannot_run_become_rows_unless_asked_alone(siglip, picture):
    found = compare(*siglip, picture, QUESTION, "fastervlm,uniform", 9, max_new_tokens=2)
    assert [r.method for r in found.rows] == ["none", "fastervlm:9", "uniform:9"]
    assert found.rows[1].answer is None
    assert "needs a class token" in found.rows[1].reason
    assert found.rows[2].answer.report["tokens_kept"] == 9
    with pytest.raises(UnsupportedError, match="needs a class token"):
        compare(*siglip, picture, QUESTION, "fastervlm", 9)


@pytest.mark.parametrize(
    ("methods", "keep", "error", "message"),
    [
        ("", 5, InputError, "must name at least one"),
        ("hiprune,,fastv", 5, InputError, "must name at least one"),
        ("hiprune,hiprune", 5, InputError, "names 'hiprune:5' twice"),
        ("hiprune,fastv", None, BudgetError, "hiprune needs a keep"),
        ("hiprune,nothing_like_it", 5, UnknownMethodError, "no method 'nothing_like_it'"),
    ],
)
def test_method_lists_that_make_no_sense(methods, keep, error, message):
    with pytest.raises(error, match=message):
        read_methods(methods, keep)


def test_commas_inside_settings_do_not_split_methods():
    assert [str(p) for p in read_methods("hiprune(alpha=0.2, wrap=False), none", 5)] == [
        "hiprune(alpha=0.2, wrap=False):5",
        "none",
    ]


def test_the_page_holds_everything_and_escapes_text(mini, picture, tmp_path):
    question = "is <script>alert(1)</script> & \"this\" 'there'?"
    found = compare(*mini, picture, question, "uniform,hiprune", 9, max_new_tokens=2)
    found.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert page.count("is &lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;this&quot;") == 2  # title and heading
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page) == []
    assert re.findall("https?:", re.sub(r"base64,[^\"]+", "", page)) == []
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 3
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert 'class="steps"' not in page
    for text in ("uniform:9", "hiprune:9", "9 of 196 visual tokens", "196 of 196"):
        assert text in page
    with pytest.raises(InputError, match=r"must end in .html, .htm; got '.txt'"):
        found.save_html(tmp_path / "page.txt")


def test_the_page_shows_a_method_step_by_step(mini, picture, tmp_path):
    found = compare(*mini, picture, QUESTION, "divprune:0.5 | fastv@1:9", include_full=False, max_new_tokens=1)
    found.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    steps = re.findall(r"<span>(layer \d+)</span> <span>(\d+ kept)</span>", page)
    assert steps == [("layer 0", "98 kept"), ("layer 1", "9 kept")]
    assert len(re.findall("<img ", page)) == 3


def test_the_sheet_has_a_panel_per_method_that_answered(siglip, picture, tmp_path):
    found = compare(*siglip, picture, QUESTION, "fastervlm,uniform,divprune", 9, max_new_tokens=1)
    found.save_sheet(tmp_path / "sheet.png")
    width = found.rows[0].answer.draw("x", size=336).width
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.width == 3 * width


def test_prompts_without_a_chat_template():
    plain = SimpleNamespace(image_token="<img>")
    assert write_prompt(plain, " what? ", 1) == "USER: <img>\nwhat? ASSISTANT:"
    assert write_prompt(plain, "what?", 2) == "USER: Picture 1: <img>\nPicture 2: <img>\nwhat? ASSISTANT:"


def test_the_begin_token_that_the_template_wrote_is_not_written_twice(picture):
    model, processor = build_siglip()
    begin = processor.tokenizer.bos_token_id
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begin)]
    )
    inputs = prepare(model, processor, [(picture,)], [QUESTION], 8)
    assert inputs["input_ids"][0].tolist().count(begin) == 1
    processor.chat_template = None  # the fallback writes none, so the tokenizer does
    inputs = prepare(model, processor, [(picture,)], [QUESTION], 8)
    assert inputs["input_ids"][0].tolist().count(begin) == 1


def test_the_seen_part_follows_the_processors_crop(mini):
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("red", (100, 0, 200, 100))
    assert seen_picture(mini[1], picture).size == (300, 100)  # the embedded model squeezes
    settings = SimpleNamespace(do_center_crop=True, size={"shortest_edge": 50}, crop_size={"height": 50, "width": 50})
    seen = seen_picture(SimpleNamespace(image_processor=settings), picture)
    assert seen.size == (100, 100)
    assert seen.getcolors() == [(100 * 100, (255, 0, 0))]


def test_a_picture_that_would_be_scaled_to_a_huge_one_is_refused(mini, monkeypatch):
    model, processor = mini
    monkeypatch.setattr(processor.image_processor, "size", {"shortest_edge": 336})
    with pytest.raises(InputError, match="a picture of 4000 x 1 pixels is too narrow"):
        ask(model, processor, Image.new("RGB", (4000, 1)), QUESTION)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 3), (3, 1), (2, 500)])
def test_pictures_of_a_few_pixels_are_enlarged(mini, size):
    answer = ask(*mini, Image.new("RGB", size, "red"), QUESTION, "uniform", 4, max_new_tokens=1)
    assert len(answer.kept[0]) == 4


def test_asking_leaves_the_model_as_it_was(mini, picture):
    model, _ = mini
    _generate(*mini, picture, QUESTION)  # transformers installs hooks of its own on first use
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]
    ask(*mini, picture, QUESTION, "hiprune", 5, max_new_tokens=1)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()] == hooks
