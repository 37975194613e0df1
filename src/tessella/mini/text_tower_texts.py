"""What the text tower learns to tell apart: pictures in words, and the patches that a text speaks of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

import numpy as np

from tessella.mini.lessons import GRID
from tessella.mini.questions import KINDS, article, ask, draw_sample, plural
from tessella.mini.world import COLOURS, PATCH, SHAPES, SIDE, Item, Scene

FACTS = 0.4  # share of the texts about a picture that are a question with its answer
NAMES = 0.3  # share of the texts about patches that are the name of an object
_NOUNS = {noun: noun for noun in (*SHAPES, "digit", "word")} | {plural(shape): shape for shape in SHAPES}
_NAME = re.compile(rf"(?:({'|'.join(COLOURS)}) )?({'|'.join(sorted(_NOUNS, key=len, reverse=True))}|objects?)\b")


def draw_scene_of(seed: int | str, number: int, split: str) -> Scene:
    """The picture of a number, drawn for a question of any kind."""
    rng = Random(f"text tower/{split}/{seed}/{number}")
    return draw_sample(rng.choice(KINDS), rng, split)[0]


def name_of(item: Item) -> str:
    """An object in words: 'a red star', 'a blue digit 7'."""
    return f"{article(item.colour)} {item.colour} {item.noun} {item.text}".rstrip()


def describe(scene: Scene, rng: Random) -> str:
    """A text about the picture: all its objects in any order, or a question with its answer behind it."""
    if rng.random() < FACTS:
        question = ask(scene, rng.choice(KINDS), rng)
        if question is not None:
            return f"{question.text} {question.answer}"
    return list_items(scene, rng)


def list_items(scene: Scene, rng: Random) -> str:
    """All objects of a picture in any order: 'a red star, a blue digit 7'."""
    return ", ".join(name_of(item) for item in rng.sample(scene.items, len(scene.items)))


def point_at(scene: Scene, rng: Random) -> tuple[str, np.ndarray]:
    """A question or a name, and the patches [196] of what it speaks of, of which there is at least one."""
    while rng.random() >= NAMES:
        question = ask(scene, rng.choice(KINDS), rng)
        if question is not None and spoken_of(question.text, scene.items):
            return question.text, patches_of(spoken_of(question.text, scene.items))
    item = rng.choice(scene.items)
    same = [i for i in scene.items if (i.colour, i.noun, i.text) == (item.colour, item.noun, item.text)]
    return name_of(item), patches_of(same)


def spoken_of(text: str, items: Sequence[Item]) -> list[Item]:
    """The objects that a question names, by noun, by colour or by both; several where it compares or counts."""
    names = [(colour, _NOUNS.get(noun)) for colour, noun in _NAME.findall(text)]
    return [i for i in items if any(c in ("", i.colour) and n in (None, i.noun) for c, n in names)]


def patches_of(items: Sequence[Item]) -> np.ndarray:
    """True for each of the 196 patches of which an object covers at least a sixteenth."""
    cover = np.zeros((SIDE, SIDE), np.float32)
    for item in items:
        left, top, right, bottom = item.box
        cover[top:bottom, left:right] += item.alpha
    return cover.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3)).ravel() >= PATCH * PATCH / 16
