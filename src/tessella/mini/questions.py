"""Ask eight kinds of questions about a picture; test answers are uniform and do not depend on the question's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from tessella.mini.world import COLOURS, SHAPES, SIDE, Item, Scene, Spec, check_split, draw_scene, draw_spec, draw_word

KINDS = ("colour", "shape", "place", "relation", "count", "existence", "digit", "reading")
PLACES = ("top left", "top right", "bottom left", "bottom right")
RELATIONS = ("left", "right", "above", "below")
COUNTS = ("1", "2", "3", "4", "5")
DIGITS = tuple("0123456789")
ANSWERS: dict[str, tuple[str, ...]] = {  # reading has none: its answers are random letters
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "place": PLACES,
    "relation": RELATIONS,
    "count": COUNTS,
    "existence": ("yes", "no"),
    "digit": DIGITS,
    "reading": (),
}
MARGIN = 8  # pixels between the middle of the picture and the centre of an object whose place is asked
MIN_DISTANCE = 24  # pixels between the centres of two objects whose relation is asked
DOMINANCE = 1.8  # how many times the larger of the two offsets is the smaller one, at least

Taboo = Callable[[Spec], bool]  # True for objects that would make the question ambiguous


@dataclass(frozen=True)
class Question:
    kind: str
    text: str
    answer: str


@dataclass(frozen=True)
class Sample:
    image: Image.Image
    kind: str
    question: str
    answer: str


def sample(kind: str, seed: int, split: str = "test") -> Sample:
    """Picture, question and answer, always the same for the same arguments."""
    scene, question = draw_sample(kind, Random(f"{split}/{kind}/{seed}"), split)
    return Sample(scene.image, kind, question.text, question.answer)


def draw_sample(kind: str, rng: Random, split: str) -> tuple[Scene, Question]:
    """A picture made for one question; the answer is drawn first, so that all answers are equally likely."""
    check_split(split)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    answer = rng.choice(ANSWERS[kind]) if ANSWERS[kind] else draw_word(rng, split)
    while True:
        specs, text = _COMPOSE[kind](rng, answer, split)
        scene = draw_scene(rng, specs, split)
        if scene is not None:
            return scene, Question(kind, text, answer)


# --- a picture for a question: the objects it is about, then others that leave it unambiguous -----------------------


def _extras(rng: Random, split: str, low: int, high: int, taboo: Taboo, specs: Sequence[Spec] = ()) -> list[Spec]:
    """`low` to `high` more objects, at most one of them a word and one a digit."""
    left, extras = ["digit", "word"], []
    if sum(spec.kind == "word" for spec in specs) > 1:
        left.remove("word")
    for _ in range(rng.randint(low, high)):
        while True:
            kind = rng.choice(left) if left and rng.random() < 0.4 else "shape"
            spec = draw_spec(rng, kind, split)
            if not taboo(spec):
                break
            if kind != "shape" and kind in left and rng.random() < 0.5:
                left.remove(kind)
        if kind in left:
            left.remove(kind)
        extras.append(spec)
    return extras


def _noun(spec: Spec) -> str:
    return spec.shape or spec.kind


def _make(rng: Random, noun: str, colour: str, split: str, text: str = "", spot: tuple | None = None) -> Spec:
    if noun in SHAPES:
        return Spec("shape", colour, shape=noun, spot=spot)
    if not text:
        text = rng.choice(DIGITS) if noun == "digit" else draw_word(rng, split, 2 if spot else None)
    return Spec(noun, colour, text=text, spot=spot)


def _colour(rng: Random) -> str:
    return rng.choice(tuple(COLOURS))


def _other(rng: Random, values: Sequence[str], *not_these: str) -> str:
    return rng.choice([value for value in values if value not in not_these])


def _compose_colour(rng: Random, answer: str, split: str) -> tuple[list[Spec], str]:
    noun = rng.choice((*SHAPES, *SHAPES, "digit", "word"))
    target = _make(rng, noun, answer, split)
    return [target, *_extras(rng, split, 2, 5, lambda s: _noun(s) == noun)], f"what color is the {noun}?"


def _compose_shape(rng: Random, answer: str, split: str) -> tuple[list[Spec], str]:
    colour = _colour(rng)
    target = Spec("shape", colour, shape=answer)
    return [target, *_extras(rng, split, 2, 5, lambda s: s.colour == colour)], f"what shape is the {colour} object?"


def _compose_place(rng: Random, answer: str, split: str) -> tuple[list[Spec], str]:
    vertical, horizontal = answer.split()
    half = SIDE / 2
    low, high = (0, half - MARGIN), (half + MARGIN, SIDE)
    spot = (*(low if horizontal == "left" else high), *(low if vertical == "top" else high))
    noun, colour = rng.choice((*SHAPES, *SHAPES, "digit", "word")), _colour(rng)
    target = _make(rng, noun, colour, split, spot=spot)
    if rng.random() < 0.5:
        return [target, *_extras(rng, split, 2, 5, lambda s: _noun(s) == noun)], f"where is the {noun}?"
    twin = _make(rng, noun if noun in SHAPES else rng.choice(SHAPES), _other(rng, tuple(COLOURS), colour), split)
    extras = _extras(rng, split, 1, 4, lambda s: _noun(s) == noun and s.colour == colour)
    return [target, twin, *extras], f"where is the {colour} {noun}?"


def _compose_relation(rng: Random, answer: str, split: str) -> tuple[list[Spec], str]:
    nouns = (*SHAPES, *SHAPES, *SHAPES, "digit")
    first, second = (rng.choice(nouns), _colour(rng)), (rng.choice(nouns), _colour(rng))
    while first == second:
        second = (rng.choice(nouns), _colour(rng))
    x, y = rng.uniform(14, SIDE - 14), rng.uniform(14, SIDE - 14)
    far = rng.uniform(MIN_DISTANCE + 3, 80)
    side = rng.uniform(-1, 1) * far / (DOMINANCE + 0.2)
    dx, dy = {"left": (-far, side), "right": (far, side), "above": (side, -far), "below": (side, far)}[answer]
    spot, other = (x + dx - 1, x + dx + 1, y + dy - 1, y + dy + 1), (x - 1, x + 1, y - 1, y + 1)
    specs = [_make(rng, *first, split, spot=spot), _make(rng, *second, split, spot=other)]
    extras = _extras(rng, split, 1, 4, lambda s: (_noun(s), s.colour) in (first, second))
    return specs + extras, f"where is the {first[1]} {first[0]} relative to the {second[1]} {second[0]}?"


def _compose_count(rng: Random, answer: str, split: str) -> tuple[list[Spec], str]:
    if rng.random() < 0.7:
        shape = rng.choice(SHAPES)
        counted = [Spec("shape", _colour(rng), shape=shape) for _ in range(int(answer))]
        return counted + _extras(rng, split, 1, 3, lambda s: s.shape == shape), f"how many {plural(shape)} are there?"
    colour = _colour(rng)
    counted = [Spec("shape", colour, shape=rng.choice(SHAPES)) for _ in range(int(answer))]
    return counted + _extras(rng, split, 1, 3, lambda s: s.colour == colour), f"how many {colour} objects are there?"


def _compose_existence(rng: Random, answer: str, split: str) -> tuple[list[Spec], str]:
    colour, shape = _colour(rng), rng.choice(SHAPES)
    near = [
        Spec("shape", colour, shape=_other(rng, SHAPES, shape)),
        Spec("shape", _other(rng, tuple(COLOURS), colour), shape=shape),
    ]
    if answer == "yes":
        near.append(Spec("shape", colour, shape=shape))
    elif rng.random() < 0.5:  # as many objects of the colour or of the shape as in a picture with the answer yes
        near.append(Spec("shape", colour, shape=_other(rng, SHAPES, shape)))
    else:
        near.append(Spec("shape", _other(rng, tuple(COLOURS), colour), shape=shape))
    rng.shuffle(near)
    extras = _extras(rng, split, 0, 3, lambda s: s.colour == colour or s.shape == shape)
    return near + extras, f"is there {article(colour)} {colour} {shape}?"


def _compose_digit(rng: Random, answer: str, split: str) -> tuple[list[Spec], str]:
    return _compose_text(rng, answer, split, "digit", "what digit is shown?", "what is the {} digit?")


def _compose_reading(rng: Random, answer: str, split: str) -> tuple[list[Spec], str]:
    return _compose_text(rng, answer, split, "word", "what word is written?", "what is the {} word?")


def _compose_text(rng: Random, answer: str, split: str, kind: str, one: str, many: str) -> tuple[list[Spec], str]:
    """One digit or word, or (3 in 10) two that differ in colour."""
    colour = _colour(rng)
    specs = [_make(rng, kind, colour, split, answer)]
    if rng.random() < 0.7:
        return specs + _extras(rng, split, 2, 4, lambda s: s.kind == kind), one
    specs.append(_make(rng, kind, _other(rng, tuple(COLOURS), colour), split))
    return specs + _extras(rng, split, 1, 3, lambda s: s.kind == kind, specs), many.format(colour)


_COMPOSE: dict[str, Callable[[Random, str, str], tuple[list[Spec], str]]] = {
    "colour": _compose_colour,
    "shape": _compose_shape,
    "place": _compose_place,
    "relation": _compose_relation,
    "count": _compose_count,
    "existence": _compose_existence,
    "digit": _compose_digit,
    "reading": _compose_reading,
}


# --- a question for a picture ---------------------------------------------------------------------------------------


def plural(shape: str) -> str:
    return "crosses" if shape == "cross" else shape + "s"


def article(colour: str) -> str:
    return "an" if colour == "orange" else "a"


def find_place(item: Item) -> str | None:
    """The quadrant of an object's centre; None near the middle lines."""
    dx, dy = item.centre[0] - SIDE / 2, item.centre[1] - SIDE / 2
    if min(abs(dx), abs(dy)) < MARGIN:
        return None
    return f"{'top' if dy < 0 else 'bottom'} {'left' if dx < 0 else 'right'}"


def find_relation(first: Item, second: Item) -> str | None:
    """Where the first object is, seen from the second; None when neither direction clearly dominates."""
    dx, dy = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
    large, small = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
    if large < MIN_DISTANCE or large < DOMINANCE * small:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def ask(scene: Scene, kind: str, rng: Random) -> Question | None:
    """A random unambiguous question of a kind about a picture; None when the picture allows none."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    options = _OPTIONS[kind](scene.items)
    if kind == "count" or kind == "existence":  # many pictures offer far more of one answer
        answers = sorted({answer for _, answer in options})
        wanted = rng.choice(answers) if answers else ""
        options = [option for option in options if option[1] == wanted]
    return Question(kind, *rng.choice(options)) if options else None


def _names(items: Sequence[Item]) -> list[tuple[str, Item]]:
    """All the names that refer to exactly one object, with and without its colour."""
    nouns = Counter(item.noun for item in items)
    pairs = Counter((item.colour, item.noun) for item in items)
    names = [(item.noun, item) for item in items if nouns[item.noun] == 1]
    return names + [(f"{item.colour} {item.noun}", item) for item in items if pairs[item.colour, item.noun] == 1]


def _ask_colour(items: Sequence[Item]) -> list[tuple[str, str]]:
    return [(f"what color is the {name}?", item.colour) for name, item in _names(items) if name == item.noun]


def _ask_shape(items: Sequence[Item]) -> list[tuple[str, str]]:
    colours = Counter(item.colour for item in items)
    alone = [item for item in items if item.shape and colours[item.colour] == 1]
    return [(f"what shape is the {item.colour} object?", item.shape) for item in alone]


def _ask_place(items: Sequence[Item]) -> list[tuple[str, str]]:
    places = [(name, find_place(item)) for name, item in _names(items)]
    return [(f"where is the {name}?", place) for name, place in places if place]


def _ask_relation(items: Sequence[Item]) -> list[tuple[str, str]]:
    names = [(name, item) for name, item in _names(items) if name != item.noun and item.kind != "word"]
    options = []
    for first, a in names:
        for second, b in names:
            relation = find_relation(a, b) if a is not b else None
            if relation:
                options.append((f"where is the {first} relative to the {second}?", relation))
    return options


def _ask_count(items: Sequence[Item]) -> list[tuple[str, str]]:
    shapes = Counter(item.shape for item in items if item.shape)
    colours = Counter(item.colour for item in items)
    options = [(f"how many {plural(shape)} are there?", str(n)) for shape, n in shapes.items()]
    options += [(f"how many {colour} objects are there?", str(n)) for colour, n in colours.items()]
    return [option for option in options if option[1] in COUNTS]


def _ask_existence(items: Sequence[Item]) -> list[tuple[str, str]]:
    shapes = [item for item in items if item.shape]
    present = {(item.colour, item.shape) for item in shapes}
    near = {(a.colour, b.shape) for a in shapes for b in shapes}
    return [(f"is there {article(c)} {c} {s}?", "yes" if (c, s) in present else "no") for c, s in sorted(near)]


def _ask_text(items: Sequence[Item], kind: str, one: str, many: str) -> list[tuple[str, str]]:
    texts = [item for item in items if item.kind == kind]
    if len(texts) == 1:
        return [(one, texts[0].text)]
    colours = Counter(item.colour for item in texts)
    return [(many.format(item.colour), item.text) for item in texts if colours[item.colour] == 1]


def _ask_digit(items: Sequence[Item]) -> list[tuple[str, str]]:
    return _ask_text(items, "digit", "what digit is shown?", "what is the {} digit?")


def _ask_reading(items: Sequence[Item]) -> list[tuple[str, str]]:
    return _ask_text(items, "word", "what word is written?", "what is the {} word?")


_OPTIONS: dict[str, Callable[[Sequence[Item]], list[tuple[str, str]]]] = {
    "colour": _ask_colour,
    "shape": _ask_shape,
    "place": _ask_place,
    "relation": _ask_relation,
    "count": _ask_count,
    "existence": _ask_existence,
    "digit": _ask_digit,
    "reading": _ask_reading,
}


def list_texts() -> list[str]:
    """Every question and every answer word that can occur, for the tokenizer."""
    texts = ["what digit is shown?", "what word is written?", "where is the digit?", "what color is the word?"]
    for colour in COLOURS:
        texts += [f"what is the {colour} {noun}?" for noun in ("digit", "word")]
        texts += [f"how many {colour} objects are there?", f"what shape is the {colour} object?"]
        texts += [f"is there {article(colour)} {colour} {shape}?" for shape in SHAPES]
        texts += [f"where is the {colour} {shape} relative to the {colour} {shape}?" for shape in SHAPES]
    for shape in SHAPES:
        texts += [f"how many {plural(shape)} are there?", f"what color is the {shape}?", f"where is the {shape}?"]
    for kind in ("colour", "shape", "place", "relation", "existence"):
        texts += [*ANSWERS[kind], *(" " + answer for answer in ANSWERS[kind])]
    return texts
