"""Lessons of several pictures: packed as they are asked later, and learned by all of the model but its encoder."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from tessella.mini import path
from tessella.mini.clips import draw_clip
from tessella.mini.context_lessons import MIX, PICTURES, ROWS, TAILS, Lesson, draw_lesson, draw_lessons, lay_out
from tessella.mini.contexts import Context, draw_context
from tessella.mini.evaluate import render
from tessella.mini.forward import decode, encode
from tessella.mini.lessons import PREFIX, WEIGHTS, pack
from tessella.mini.model import NUM_VISUAL, build_model, build_processor
from tessella.mini.train import Trainer, normalise, parse


def _lesson(kind: str, small: bool = False, seed: int = 0) -> Lesson:
    return draw_lesson(build_processor().tokenizer, Random(f"{kind}/{seed}"), kind, WEIGHTS, 0.3, small)


def _contexts() -> list[Context]:
    rng = Random(5)
    return [
        draw_context("which", rng, "train", 2),
        draw_context("shots", rng, "train", 3),
        draw_clip("motion", rng, "train", 4),
    ]


@pytest.mark.parametrize("context", _contexts(), ids=["which", "shots", "motion"])
def test_packed_questions_give_the_logits_of_the_chat_with_several_pictures(context: Context) -> None:
    processor = build_processor()
    model = build_model(processor, seed=3).eval()
    prefix, _ = lay_out(processor.tokenizer, context, NUM_VISUAL)
    packed = pack(processor.tokenizer, context.questions, Random(1), False, prefix, len(prefix) + 48, blind_share=0)
    ids, labels, positions, segments = (torch.from_numpy(array)[None] for array in packed)
    prompt = context.prompt
    pictures = [part for part in prompt.parts if not isinstance(part, str)]
    text = [render(processor, prompt.parts)]
    inputs = processor(text=text, images=pictures, return_tensors="pt", add_special_tokens=False)
    length = inputs["input_ids"].shape[1]
    assert ids[:, :length].tolist() == inputs["input_ids"].tolist()
    with torch.no_grad():
        hidden, _ = encode(model, inputs["pixel_values"])
        ours = model.lm_head(decode(model, hidden[:, 1:].flatten(0, 1)[None], ids, positions, segments))[0]
        theirs = model(**inputs).logits[0]
    torch.testing.assert_close(ours[: length - len(prefix)], theirs[len(prefix) :], atol=2e-4, rtol=2e-4)
    assert processor.decode(labels[0, length - 1 : length + 4].clamp(0)).startswith(prompt.answer)


@pytest.mark.parametrize("kind", [*MIX, "single"])
def test_rows_of_a_lesson_have_their_pictures_at_the_same_places(kind: str) -> None:
    for small in (False, True):
        lesson = _lesson(kind, small)
        rows, count, height, width, channels = lesson.pixels.shape
        visual = lesson.input_ids == build_processor().tokenizer.convert_tokens_to_ids("<image>")
        assert (rows, channels) == (ROWS, 3)
        assert count in PICTURES.get(kind, (1,))
        assert (height == width == 112) != small
        assert (visual == visual[0]).all()
        assert visual[0].sum() == count * height * width / 64
        assert lesson.input_ids.shape[1] == np.flatnonzero(visual[0])[-1] + 1 + TAILS[kind]
        assert ((lesson.labels >= 0).sum(1) >= 1).all()


def test_smaller_pictures_of_a_lesson_keep_their_brightness() -> None:
    full, small = _lesson("clip"), _lesson("clip", small=True)
    assert small.pixels.shape[2] < full.pixels.shape[2]
    assert abs(float(small.pixels.mean()) - float(full.pixels.mean())) < 2.0


def test_demonstrations_are_learned_from_the_second_on() -> None:
    lesson = next(x for x in (_lesson("shots", seed=s) for s in range(9)) if x.pixels.shape[1] == 4)
    tokenizer = build_processor().tokenizer
    for ids, labels in zip(lesson.input_ids, lesson.labels, strict=True):
        learned = np.flatnonzero(labels >= 0)
        assert len(learned) == 4  # two demonstrations, the answer and its end
        assert (ids[learned + 1] == labels[learned]).all()
        assert learned[0] == PREFIX + NUM_VISUAL  # behind the second picture, in front of which one text stands
        assert tokenizer.decode(ids[learned[:2]]) == "<image><image>"


def test_so_many_lessons_are_single_pictures_and_a_seed_draws_them_again() -> None:
    tokenizer = build_processor().tokenizer
    first, again = (draw_lessons(tokenizer, "mix", 6, 4, WEIGHTS, 0.3, 1.0) for _ in range(2))
    assert [lesson.kind == "single" for lesson in first] == [True] * 4 + [False] * 2
    assert {lesson.kind for lesson in first} <= {"single", *MIX}
    assert all((a.pixels == b.pixels).all() and (a.labels == b.labels).all() for a, b in zip(first, again, strict=True))


def test_the_encoder_stays_as_it_is_and_all_else_learns(tmp_path: Path) -> None:
    trainer = Trainer(parse(["--contexts", "3", "--run", str(tmp_path)]))
    stage = trainer.stages[6]
    assert (stage.name, stage.singles) == ("contexts", 0.5)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    lessons = draw_lessons(trainer.processor.tokenizer, "frozen", 2, 1, WEIGHTS, 0.0, 1.0)
    frozen = {name for name in before if "vision_tower" in name}
    trainer.learn(stage, lessons[1], 1.0)
    assert {name for name, weight in trainer.model.named_parameters() if weight.grad is None} == frozen
    trainer.set_rate(stage, 0)
    assert set(trainer.update(stage, lessons)) == {"single", lessons[1].kind, "norm"}
    moved = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == before.keys() - frozen


@pytest.mark.parametrize("small", [False, True])
def test_the_shipped_weights_answer_single_pictures_as_lessons_ask(small: bool) -> None:
    trainer = Trainer(parse(["--start", str(path())]))
    with torch.no_grad():
        assert trainer.lesson_loss(_lesson("single", small))["single"] < (0.4 if small else 0.2)


def test_features_are_normalised_as_by_the_processor() -> None:
    context = _contexts()[0]
    pictures = [scene.image for scene in context.scenes]
    theirs = build_processor()(text=["<image><image>"], images=pictures, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in context.scenes])).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(normalise(pixels), theirs, atol=1e-6, rtol=1e-5)
