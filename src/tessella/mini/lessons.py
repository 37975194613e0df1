"""Training batches: pictures with several packed questions, and labels for every patch, for the auxiliary losses.

Packing: one sequence holds the picture and then questions, each of which sees the picture and itself only and starts
at the position right behind the picture, so that every question is trained exactly as it is asked later. A few
questions are blind: they see themselves only, and stand either behind the gap that the picture leaves or right behind
the start.

A crowd is a picture with many objects of one sort, of which many questions can be asked: it shows the encoder six
digits instead of one, and gives counts of three and more their share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

import numpy as np
from transformers import PreTrainedTokenizerFast

from tessella.mini.model import ASSISTANT, BOS, END, IMAGE, NUM_VISUAL, PAD, USER
from tessella.mini.questions import Question, ask, draw_sample
from tessella.mini.world import COLOURS, LETTERS, PATCH, SHAPES, SIDE, Item, Scene, Spec, draw_scene, draw_spec

GRID = SIDE // PATCH
PREFIX = NUM_VISUAL + 2  # tokens before the first question: start, user, picture
LENGTH = 320  # tokens of a packed sequence
NUM_TAGS = len(COLOURS) * len(SHAPES) + 10 + 26  # what a picture holds: coloured shapes, digits, letters
NUM_THINGS = 1 + NUM_TAGS  # what a patch shows; 0 is ground
NUM_SLOTS = 1 + 2 + 3 + 4  # place of a letter in a word of 2, 3 or 4; 0 is no letter
CAPITALISED = 0.1  # share of questions that start with a capital letter
BLIND = 0.08  # share of questions that do not see the picture
CONVERSATION = 0.2  # share of batches in which questions see those before them
CROWDS = {"digit": 0.5, "shape": 0.4, "word": 0.1}  # how often a crowd is of a sort
# How often a picture is made for a question of a kind, and how often a further question is of that kind.
WEIGHTS = {
    "colour": 0.6,
    "shape": 0.6,
    "place": 1.0,
    "relation": 2.2,
    "count": 1.3,
    "existence": 2.0,
    "digit": 0.9,
    "reading": 2.2,
}
_COLOUR_INDEX = {colour: index for index, colour in enumerate(COLOURS)}


@dataclass(frozen=True)
class Batch:
    """B pictures with packed questions and labels; `things`, `colours`, `slots`, `centres` have a value per patch."""

    pixels: np.ndarray  # [B, H, W, 3] uint8
    input_ids: np.ndarray  # [B, N]
    labels: np.ndarray  # [B, N], the token that follows, -100 where no answer is
    positions: np.ndarray  # [B, N]
    segments: np.ndarray  # [B, N], 0 for the picture, then 1, 2, ...; negative if blind; all 0 in a conversation
    tags: np.ndarray  # [B, 84] of 0 and 1
    things: np.ndarray  # [B, 196]
    colours: np.ndarray  # [B, 196]
    slots: np.ndarray  # [B, 196]
    centres: np.ndarray  # [B, 196] of 0 and 1


def draw_batch(
    tokenizer: PreTrainedTokenizerFast,
    seed: str,
    size: int,
    weights: dict[str, float] = WEIGHTS,
    crowds: float = 0.0,
) -> Batch:
    """The batch of a seed; a fifth of the batches are conversations in which questions see those before them.

    `crowds` is the share of the pictures that are crowds.
    """
    rng = Random(seed)
    conversation = rng.random() < CONVERSATION
    rows = []
    for _ in range(size):
        scene, asked = draw_asked(rng, weights, crowds)
        rows.append((scene.pixels, *pack(tokenizer, asked, rng, conversation), *label_patches(scene)))
    return Batch(*(np.stack(column) for column in zip(*rows, strict=True)))


def draw_asked(rng: Random, weights: dict[str, float], crowds: float) -> tuple[Scene, list[Question]]:
    """A training picture and questions about it in any order; `crowds` is the chance that it is a crowd."""
    kinds, shares = list(weights), list(weights.values())
    if rng.random() < crowds:
        scene, first = draw_crowd(rng)
    else:
        scene, question = draw_sample(rng.choices(kinds, shares)[0], rng, "train")
        first = [question]
    questions = {question.text: question for question in first}
    for kind in rng.choices(kinds, shares, k=22):
        further = ask(scene, kind, rng)
        if further is not None:
            questions.setdefault(further.text, further)
    asked = list(questions.values())
    rng.shuffle(asked)
    return scene, asked


def draw_crowd(rng: Random) -> tuple[Scene, list[Question]]:
    """A training picture of many digits, of a few words, or of shapes in few colours, with the questions it is for."""
    sort = rng.choices(list(CROWDS), list(CROWDS.values()))[0]
    kinds = ("count",) if sort == "shape" else ("digit", "reading")
    while True:
        if sort == "shape":
            shapes, colours = rng.sample(SHAPES, 3), rng.sample(tuple(COLOURS), 3)
            specs = [Spec("shape", rng.choice(colours), shape=rng.choice(shapes)) for _ in range(rng.randint(6, 9))]
        else:
            colours = rng.sample(tuple(COLOURS), rng.randint(5, 7) if sort == "digit" else 3)
            specs = [replace(draw_spec(rng, sort, "train"), colour=colour) for colour in colours]
        scene = draw_scene(rng, specs)
        if scene is not None:
            asked = (ask(scene, kind, rng) for kind in kinds for _ in range(16))
            return scene, list({question.text: question for question in asked if question is not None}.values())


@cache
def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    """The ids of a text, without any that mark its start or end."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def special_ids(tokenizer: PreTrainedTokenizerFast, *tokens: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def pack(
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    rng: Random,
    conversation: bool,
    prefix: Sequence[int] | None = None,
    length: int = LENGTH,
    blind_share: float = BLIND,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids, labels, positions and segments [length] of the questions that fit behind a prefix, by default a picture."""
    bos, user, image, assistant, end, pad = special_ids(tokenizer, BOS, USER, IMAGE, ASSISTANT, END, PAD)
    prefix = prefix or [bos, user] + [image] * NUM_VISUAL
    ids = np.full(length, pad)
    ids[: len(prefix)] = prefix
    labels, positions, segments = np.full(length, -100), np.arange(length), np.zeros(length, np.int64)
    start = len(prefix)
    for index, question in enumerate(questions):
        text = question.text
        if rng.random() < CAPITALISED:
            text = text[:1].upper() + text[1:]
        prompt = [*encode_text(tokenizer, text), assistant]
        if conversation and index:
            prompt = [user, *prompt]
        answer = [*encode_text(tokenizer, question.answer), end]
        stop = start + len(prompt) + len(answer)
        if stop > length:
            continue
        ids[start:stop] = prompt + answer
        labels[stop - len(answer) - 1 : stop - 1] = answer
        if not conversation:
            blind = rng.random() < blind_share
            place = 2 if blind and rng.random() < 0.5 else len(prefix)
            positions[start:stop] = np.arange(place, place + stop - start)
            segments[start:stop] = -(index + 1) if blind else index + 1
        start = stop
    if not conversation:
        segments[start:] = len(questions) + 1
    return ids, labels, positions, segments


def label_patches(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tags of the picture, and for each patch its thing, colour, letter slot and whether it holds a centre."""
    tags = np.zeros(NUM_TAGS, np.float32)
    things, colours, slots = (np.zeros((GRID, GRID), np.int64) for _ in range(3))
    centres = np.zeros((GRID, GRID), np.float32)
    for item in scene.items:
        colour = _COLOUR_INDEX[item.colour]
        left, top, right, bottom = item.box
        y, x = top // PATCH, left // PATCH
        padded = np.zeros((-(-bottom // PATCH) * PATCH - y * PATCH, -(-right // PATCH) * PATCH - x * PATCH), np.float32)
        padded[top - y * PATCH : bottom - y * PATCH, left - x * PATCH : right - x * PATCH] = item.alpha
        cells = padded.reshape(padded.shape[0] // PATCH, PATCH, -1, PATCH).sum((1, 3))
        window = (slice(y, y + cells.shape[0]), slice(x, x + cells.shape[1]))
        covered = cells >= (8 if item.kind == "shape" else 4)
        colours[window][covered] = 1 + colour
        centres[int(item.centre[1]) // PATCH, int(item.centre[0]) // PATCH] = 1
        if item.kind == "word":
            _label_letters(item, tags, things, slots)
            continue
        tag = colour * len(SHAPES) + SHAPES.index(item.shape) if item.shape else 48 + int(item.text)
        things[window][covered] = 1 + tag
        tags[tag] = 1
    return tags, things.ravel(), colours.ravel(), slots.ravel(), centres.ravel()


def _label_letters(item: Item, tags: np.ndarray, things: np.ndarray, slots: np.ndarray) -> None:
    """Give each patch of a word the letter that covers most of its width."""
    first_slot = {2: 1, 3: 3, 4: 6}[len(item.text)]
    _, top, _, bottom = item.letters[0]
    rows = [row for row in range(GRID) if min(bottom, row * PATCH + PATCH) - max(top, row * PATCH) >= 3]
    best = np.zeros(GRID)
    for index, (letter, box) in enumerate(zip(item.text, item.letters, strict=True)):
        tag = 58 + LETTERS.index(letter)
        tags[tag] = 1
        for column in range(box[0] // PATCH, min(GRID, -(-box[2] // PATCH))):
            overlap = min(box[2], column * PATCH + PATCH) - max(box[0], column * PATCH)
            if overlap > max(best[column], 1):
                best[column] = overlap
                things[rows, column] = 1 + tag
                slots[rows, column] = first_slot + index
