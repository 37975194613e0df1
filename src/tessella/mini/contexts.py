"""Ask about several pictures at once: which one shows a thing, what one of them shows, and what demonstrations ask for.

Answers are drawn first and are uniform (given the number of pictures, where the answer is one of them); the words of a
question do not depend on them. Wrong pictures hold near misses, so that no picture gives the answer by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from tessella.mini.questions import DIGITS, Question, draw_extras, draw_near, make_spec, noun_of
from tessella.mini.world import COLOURS, SHAPES, Scene, Spec, check_split, draw_scene

CONTEXT_KINDS = ("which", "pick", "shots")
NUM_PICTURES = (2, 3, 4)
SORTS = {"colour": tuple(COLOURS), "shape": SHAPES, "digit": DIGITS}  # what demonstrations may name


@dataclass(frozen=True)
class Prompt:
    """Texts and pictures in the order of the prompt, and the right answer."""

    kind: str
    parts: tuple[str | Image.Image, ...]
    answer: str


@dataclass(frozen=True)
class Context:
    """Texts and pictures that stand in front of a question, and such questions: first the one they were drawn for."""

    parts: tuple[str | Scene, ...]
    questions: tuple[Question, ...]

    @property
    def scenes(self) -> tuple[Scene, ...]:
        return tuple(part for part in self.parts if isinstance(part, Scene))

    @property
    def prompt(self) -> Prompt:
        """The first question behind its pictures."""
        question = self.questions[0]
        parts = [part.image if isinstance(part, Scene) else part for part in self.parts]
        return Prompt(question.kind, (*parts, *([question.text] if question.text else [])), question.answer)


def sample_context(kind: str, seed: int, split: str = "test") -> Prompt:
    """Several pictures and a question, always the same for the same arguments."""
    return draw_context(kind, Random(f"{split}/{kind}/{seed}"), split).prompt


def draw_context(kind: str, rng: Random, split: str, count: int | None = None) -> Context:
    """`count` pictures made for one question, 2 to 4 of them by default; `which` and `pick` come with further ones."""
    check_split(split)
    if kind not in CONTEXT_KINDS:
        raise ValueError(f"kind must be one of {', '.join(CONTEXT_KINDS)}; got {kind!r}")
    count = count or rng.choice(NUM_PICTURES)
    if kind == "shots":
        return _draw_shots(rng, split, count)
    return _draw_which(rng, split, count) if kind == "which" else _draw_pick(rng, split, count)


def _draw_which(rng: Random, split: str, count: int) -> Context:
    """A coloured shape that one picture shows; each of the others shows its colour and its shape apart."""
    answer = rng.randrange(count)
    colour, shape = rng.choice(tuple(COLOURS)), rng.choice(SHAPES)
    scenes: list[Scene] = []
    while len(scenes) < count:
        near = draw_near(rng, colour, shape, present=len(scenes) == answer)
        extras = draw_extras(rng, split, 0, 2, lambda s: s.colour == colour or s.shape == shape, near)
        if (scene := draw_scene(rng, near + extras, split)) is not None:
            scenes.append(scene)
    question = Question("which", _which(colour, shape), str(answer + 1))
    return _ask_further(rng, scenes, question)


def _draw_pick(rng: Random, split: str, count: int) -> Context:
    """One object of a name in each picture, each in another colour."""
    picture = rng.randrange(count)
    noun = rng.choice((*SHAPES, *SHAPES, "digit"))
    colours = rng.sample(tuple(COLOURS), count)
    scenes: list[Scene] = []
    while len(scenes) < count:
        target = make_spec(rng, noun, colours[len(scenes)], split)
        extras = draw_extras(rng, split, 1, 4, lambda s: noun_of(s) == noun, [target])
        if (scene := draw_scene(rng, [target, *extras], split)) is not None:
            scenes.append(scene)
    return _ask_further(rng, scenes, Question("pick", _pick(noun, picture), colours[picture]))


def _ask_further(rng: Random, scenes: Sequence[Scene], first: Question) -> Context:
    """The pictures with a number each, the question they were drawn for and all others that they answer."""
    further = [question for question in ask_album(scenes) if question.text != first.text]
    rng.shuffle(further)
    parts = [part for index, scene in enumerate(scenes) for part in (f"picture {index + 1}:", scene)]
    return Context(tuple(parts), (first, *further))


def ask_album(scenes: Sequence[Scene]) -> list[Question]:
    """All questions of which the pictures show one of a coloured shape and what colour a thing in one of them has."""
    places = [(item.colour, item.shape, index) for index, scene in enumerate(scenes) for item in scene.items]
    shapes = Counter((colour, shape) for colour, shape, _ in places if shape)
    asked = [Question("which", _which(c, s), str(index + 1)) for c, s, index in places if shapes[c, s] == 1]
    for index, scene in enumerate(scenes):
        nouns = Counter(item.noun for item in scene.items)
        alone = [item for item in scene.items if nouns[item.noun] == 1]
        asked += [Question("pick", _pick(item.noun, index), item.colour) for item in alone]
    return asked


def _which(colour: str, shape: str) -> str:
    return f"which picture shows the {colour} {shape}?"


def _pick(noun: str, index: int) -> str:
    return f"what color is the {noun} in picture {index + 1}?"


def _draw_shots(rng: Random, split: str, count: int) -> Context:
    """Pictures of a shape and a digit in one colour: those before the last are named by colour, by shape or by digit.

    All three could be asked of the last picture; only the demonstrations say which.
    """
    sort = rng.choice(tuple(SORTS))
    parts: list[str | Scene] = []
    while len(parts) < 2 * count:
        things = {name: rng.choice(values) for name, values in SORTS.items()}
        specs = [
            Spec("shape", things["colour"], shape=things["shape"]),
            Spec("digit", things["colour"], text=things["digit"]),
        ]
        if (scene := draw_scene(rng, specs, split)) is not None:
            parts += [scene, things[sort]]
    return Context(tuple(parts[:-1]), (Question("shots", "", str(parts[-1])),))
