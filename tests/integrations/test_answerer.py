"""A plug-in's answers, likelihoods and counts are those of the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image

import tessella
from tessella.app.answering import ask_many
from tessella.core.errors import InputError, UnsupportedError
from tessella.core.pipeline import parse
from tessella.integrations.answerer import Answerer, in_batches, load_answerer
from tessella.integrations.clips import Frames
from tessella.integrations.conversations import Prompt, Writer
from tessella.integrations.decoding import read_decoding
from tessella.integrations.model_args import read_model_args
from tessella.mini.questions import Sample, sample
from tessella.testing.families import tiny_family

SHORT = read_decoding({"max_new_tokens": 6})
SAMPLES = [sample(kind, 910_000) for kind in ("colour", "digit", "count", "reading", "relation")]
RED = Image.new("RGB", (72, 48), "red")


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini", device="cpu")


def answerer_of(mini: tuple[Any, Any], pipeline: str) -> Answerer:
    return Answerer(*mini, parse(pipeline))


def prompts_of(mini: tuple[Any, Any], samples: Sequence[Sample]) -> list[Prompt]:
    writer = Writer(mini[1], 4)
    parts = [[{"type": "image", "url": s.image}, {"type": "text", "text": s.question}] for s in samples]
    return [writer.write([{"role": "user", "content": content}]) for content in parts]


def lengths(mini: tuple[Any, Any], prompts: Sequence[Prompt]) -> list[int]:
    """Tokens of prompts in which a picture is one."""
    return [len(mini[1].tokenizer(p.text, add_special_tokens=False)["input_ids"]) for p in prompts]


@pytest.mark.parametrize("pipeline", ["none", "hiprune:1/9", "downsample:1/4", "divprune:0.5 | fastv@2:0.5"])
def test_answers_and_counts_are_those_of_the_library(mini: Any, pipeline: str) -> None:
    answerer = answerer_of(mini, pipeline)
    replies = answerer.answer(prompts_of(mini, SAMPLES), SHORT)
    pictures, questions = [s.image for s in SAMPLES], [s.question for s in SAMPLES]
    assert [r.text for r in replies] == ask_many(*mini, pictures, questions, pipeline, max_new_tokens=6)
    kept = {"none": 196, "hiprune:1/9": 22}.get(pipeline, 49)
    words = [
        len(mini[1].tokenizer(p.text, add_special_tokens=False)["input_ids"]) - 1 for p in prompts_of(mini, SAMPLES)
    ]
    assert [r.num_read for r in replies] == [w + kept for w in words]
    means = answerer.tally.means()
    assert (means["visual_tokens"], means["visual_tokens_kept"]) == (196, kept)
    depth = mini[0].config.text_config.num_hidden_layers
    layers = (2 * 98 + (depth - 2) * 49) / depth if "|" in pipeline else kept
    assert means["visual_tokens_kept_over_layers"] == pytest.approx(layers)


def test_the_end_of_an_answer_is_not_counted(mini: Any) -> None:
    replies = answerer_of(mini, "none").answer(prompts_of(mini, SAMPLES[:2]), SHORT)
    ids = [mini[1].tokenizer(r.text, add_special_tokens=False)["input_ids"] for r in replies]
    assert [r.num_written for r in replies] == [len(i) for i in ids]


def test_beams_count_each_prompt_once(mini: Any) -> None:
    answerer = answerer_of(mini, "hiprune:1/4")
    answerer.answer(prompts_of(mini, SAMPLES[:2]), read_decoding({"max_new_tokens": 3, "num_beams": 3}))
    assert (answerer.tally.prompts, answerer.tally.visual, answerer.tally.kept) == (2, 2 * 196, 2 * 49)


def test_a_prompt_without_pictures_is_answered_too(mini: Any) -> None:
    answerer = answerer_of(mini, "hiprune:1/4")
    text = Writer(mini[1], 4).write([{"role": "user", "content": "what color is the star?"}])
    (reply,) = answerer.answer([text], SHORT)
    assert [reply.num_read] == lengths(mini, [text])
    assert (answerer.tally.prompts, answerer.tally.visual) == (1, 0)


def test_batches_hold_one_sort_and_keep_the_numbers() -> None:
    one, two, words = Prompt("a", (RED,)), Prompt("b", (RED, RED)), Prompt("c")
    clip = Prompt("d", (), (Frames((RED,) * 3, (0, 1, 2), 3, 1.0),))
    long = read_decoding({"max_new_tokens": 7})
    asked = [(one, SHORT), (two, SHORT), (one, SHORT), (one, long), (words, SHORT), (one, SHORT), (clip, SHORT)]
    batches = [(numbers, decoding.max_new_tokens) for numbers, _, decoding in in_batches(asked, 2)]
    assert batches == [([0, 2], 6), ([1], 6), ([3], 7), ([4], 6), ([5], 6), ([6], 6)]


def test_replies_find_their_prompts(mini: Any) -> None:
    """Prompts with one picture and with two in turn."""
    answerer = answerer_of(mini, "hiprune:1/4")
    single = prompts_of(mini, SAMPLES[:3])
    double = [Prompt(p.text.replace("<image>", "<image><image>"), p.pictures * 2) for p in single]
    mixed = [p for pair in zip(single, double, strict=True) for p in pair]
    replies = dict(answerer.answer_all(((p, SHORT) for p in mixed), batch_size=2))
    alone = [answerer.answer([p], SHORT)[0] for p in mixed]
    assert [replies[i] for i in range(len(mixed))] == alone
    assert len({reply.num_read > 100 for reply in alone}) == 2


# -- likelihoods -----------------------------------------------------------------------------------------------------


def loss_in_one_pass(answerer: Answerer, prompt: Prompt, answer: str) -> float:
    """From labels on the answer, with prompt and answer read at once: right where no method looks at the answer."""
    ids = answerer._answer_ids(prompt.text, answer)
    inputs = dict(answerer._inputs([Prompt(prompt.text + answer, prompt.pictures)], 1))
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -len(ids) :] = ids
    with tessella.reduce(answerer.model, answerer.pipeline), torch.inference_mode():
        return float(answerer.model(**inputs, labels=labels).loss)


@pytest.mark.parametrize("pipeline", ["none", "hiprune:1/9", "visionzip:1/4"])
@pytest.mark.parametrize("answer", ["red", "top left", "blue star 7"])
def test_losses_are_those_of_labels(mini: Any, pipeline: str, answer: str) -> None:
    answerer = answerer_of(mini, pipeline)
    (prompt,) = prompts_of(mini, SAMPLES[:1])
    loss, _ = answerer.loss(prompt, answer)
    assert loss == pytest.approx(loss_in_one_pass(answerer, prompt, answer), rel=1e-4)


@pytest.mark.parametrize("pipeline", ["none", "hiprune:1/9", "fastv@1:1/4", "downsample:1/4"])
def test_what_the_model_writes_is_greedy_and_likeliest(mini: Any, pipeline: str) -> None:
    answerer = answerer_of(mini, pipeline)
    for prompt in prompts_of(mini, SAMPLES[:2]):
        (reply,) = answerer.answer([prompt], SHORT)
        loss, greedy = answerer.loss(prompt, reply.text)
        other, is_greedy = answerer.loss(prompt, "not this")
        assert greedy
        assert not is_greedy
        assert loss < other


def test_losses_where_positions_have_three_axes() -> None:
    family = tiny_family("qwen2_5_vl")
    answerer = Answerer(family.model(), family.processor(), parse("divprune:1/2"))
    prompt = Prompt(f"what color {family.image_text} is the star assistant :", (RED,))
    loss, _ = answerer.loss(prompt, " red and blue")
    assert loss == pytest.approx(loss_in_one_pass(answerer, prompt, " red and blue"), rel=1e-4)


def test_an_answer_without_tokens_is_refused(mini: Any) -> None:
    with pytest.raises(InputError, match="the answer '' adds no tokens to its prompt"):
        answerer_of(mini, "none").loss(prompts_of(mini, SAMPLES[:1])[0], "")


# -- clips and loading -----------------------------------------------------------------------------------------------


def test_a_clip_keeps_its_share_and_its_times() -> None:
    family = tiny_family("qwen3_vl")
    answerer = Answerer(family.model(), family.processor(), parse("divprune:1/2"))
    clip = Frames((RED,) * 4, (0, 10, 20, 30), total=31, fps=10.0)
    prompt = Prompt(f"what color {family.video_text} is the star", (), (clip,))
    (reply,) = answerer.answer([prompt], read_decoding({"max_new_tokens": 2}))
    assert reply.num_written == 2
    assert answerer.tally.kept * 2 == answerer.tally.visual == 2 * 9 * 6  # two frames make one patch


def test_arguments_reach_the_model() -> None:
    args = {"pretrained": "mini", "pipeline": "hiprune", "keep": "1/9", "attn_implementation": "eager", "device": "cpu"}
    answerer = load_answerer(read_model_args({**args, "dtype": "bfloat16"}))
    assert str(answerer.pipeline) == "hiprune:1/9"
    assert answerer.model.config._attn_implementation == "eager"
    assert answerer.model.dtype == torch.bfloat16


def test_what_the_model_cannot_do_is_refused_before_anything_runs() -> None:
    with pytest.raises(UnsupportedError, match="fastv: at_layer=99 is not a layer"):
        load_answerer(read_model_args({"pretrained": "mini", "pipeline": "fastv@99:0.5", "device": "cpu"}))
    with pytest.raises(InputError, match="attn_implementation='flash_attention_2' cannot be used here"):
        load_answerer(read_model_args({"pretrained": "mini", "attn_implementation": "flash_attention_2"}))
