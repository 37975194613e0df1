"""Ask eight kinds of questions about a picture; test answers are uniform and do not depend on the question's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from tessella.mini.variants import VARIANTS
from tessella.mini.world import (
    COLOURS,
    SHAPES,
    SIDE,
    Item,
    Scene,
    Spec,
    check_split,
    draw_scene,
    draw_spec,
    draw_word,
)

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

    @property
    def parts(self) -> tuple[str | Image.Image, ...]:
        """Picture and question in the order of the prompt."""
        return self.image, self.question


@dataclass(frozen=True)
class Plan:
    """The objects that a question is about, and how many more may stand beside them: `low` to `high`, none taboo."""

    specs: list[Spec]
    text: str
    low: int
    high: int
    taboo: Taboo


def sample(kind: str, seed: int, split: str = "test", variant: str = "plain") -> Sample:
    """Picture, question and answer, always the same for the same arguments."""
    name = f"{split}/{kind}/{seed}" if variant == "plain" else f"{split}/{kind}/{seed}/{variant}"
    scene, question = draw_sample(kind, Random(name), split, variant)
    return Sample(scene.image, kind, question.text, question.answer)


def draw_sample(kind: str, rng: Random, split: str, variant: str = "plain") -> tuple[Scene, Question]:
    """A picture made for one question; the answer is drawn first, so that all answers are equally likely."""
    check_split(split)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
    look = VARIANTS[variant]
    answer = rng.choice(ANSWERS[kind]) if ANSWERS[kind] else draw_word(rng, split)
    while True:
        plan = _COMPOSE[kind](rng, answer, split)
        low, high = look.extras(len(plan.specs), plan.low, plan.high)
        specs = plan.specs + draw_extras(rng, split, low, high, plan.taboo, plan.specs)
        scene = draw_scene(rng, specs, split, look.sizes)
        if scene is not None:
            return scene, Question(kind, plan.text, answer)


# --- a picture for a question: the objects it is about, then others that leave it unambiguous -----------------------


def draw_extras(rng: Random, split: str, low: int, high: int, taboo: Taboo, specs: Sequence[Spec]) -> list[Spec]:
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


def noun_of(spec: Spec) -> str:
    return spec.shape or spec.kind


def make_spec(rng: Random, noun: str, colour: str, split: str, text: str = "", spot: tuple | None = None) -> Spec:
    if noun in SHAPES:
        return Spec("shape", colour, shape=noun, spot=spot)
    if not text:
        text = rng.choice(DIGITS) if noun == "digit" else draw_word(rng, split, 2 if spot else None)
    return Spec(noun, colour, text=text, spot=spot)


def draw_colour(rng: Random) -> str:
    return rng.choice(tuple(COLOURS))


def draw_other(rng: Random, values: Sequence[str], *not_these: str) -> str:
    return rng.choice([value for value in values if value not in not_these])


def _compose_colour(rng: Random, answer: str, split: str) -> Plan:
    noun = rng.choice((*SHAPES, *SHAPES, "digit", "word"))
    target = make_spec(rng, noun, answer, split)
    return Plan([target], f"what color is the {noun}?", 2, 5, lambda s: noun_of(s) == noun)


def _compose_shape(rng: Random, answer: str, split: str) -> Plan:
    colour = draw_colour(rng)
    target = Spec("shape", colour, shape=answer)
    return Plan([target], f"what shape is the {colour} object?", 2, 5, lambda s: s.colour == colour)


def _compose_place(rng: Random, answer: str, split: str) -> Plan:
    vertical, horizontal = answer.split()
    half = SIDE / 2
    low, high = (0, half - MARGIN), (half + MARGIN, SIDE)
    spot = (*(low if horizontal == "left" else high), *(low if vertical == "top" else high))
    noun, colour = rng.choice((*SHAPES, *SHAPES, "digit", "word")), draw_colour(rng)
    target = make_spec(rng, noun, colour, split, spot=spot)
    if rng.random() < 0.5:
        return Plan([target], f"where is the {noun}?", 2, 5, lambda s: noun_of(s) == noun)
    twin = make_spec(
        rng, noun if noun in SHAPES else rng.choice(SHAPES), draw_other(rng, tuple(COLOURS), colour), split
    )
    text = f"where is the {colour} {noun}?"
    return Plan([target, twin], text, 1, 4, lambda s: noun_of(s) == noun and s.colour == colour)


def _compose_relation(rng: Random, answer: str, split: str) -> Plan:
    nouns = (*SHAPES, *SHAPES, *SHAPES, "digit")
    first, second = (rng.choice(nouns), draw_colour(rng)), (rng.choice(nouns), draw_colour(rng))
    while first == second:
        second = (rng.choice(nouns), draw_colour(rng))
    x, y = rng.uniform(14, SIDE - 14), rng.uniform(14, SIDE - 14)
    far = rng.uniform(MIN_DISTANCE + 3, 80)
    side = rng.uniform(-1, 1) * far / (DOMINANCE + 0.2)
    dx, dy = {"left": (-far, side), "right": (far, side), "above": (side, -far), "below": (side, far)}[answer]
    spot, other = (x + dx - 1, x + dx + 1, y + dy - 1, y + dy + 1), (x - 1, x + 1, y - 1, y + 1)
    specs = [make_spec(rng, *first, split, spot=spot), make_spec(rng, *second, split, spot=other)]
    text = f"where is the {first[1]} {first[0]} relative to the {second[1]} {second[0]}?"
    return Plan(specs, text, 1, 4, lambda s: (noun_of(s), s.colour) in (first, second))


def _compose_count(rng: Random, answer: str, split: str) -> Plan:
    if rng.random() < 0.7:
        shape = rng.choice(SHAPES)
        counted = [Spec("shape", draw_colour(rng), shape=shape) for _ in range(int(answer))]
        return Plan(counted, f"how many {plural(shape)} are there?", 1, 3, lambda s: s.shape == shape)
    colour = draw_colour(rng)
    counted = [Spec("shape", colour, shape=rng.choice(SHAPES)) for _ in range(int(answer))]
    return Plan(counted, f"how many {colour} objects are there?", 1, 3, lambda s: s.colour == colour)


def _compose_existence(rng: Random, answer: str, split: str) -> Plan:
    colour, shape = draw_colour(rng), rng.choice(SHAPES)
    near = draw_near(rng, colour, shape, answer == "yes")
    text = f"is there {article(colour)} {colour} {shape}?"
    return Plan(near, text, 0, 3, lambda s: s.colour == colour or s.shape == shape)


def draw_near(rng: Random, colour: str, shape: str, present: bool) -> list[Spec]:
    """Three shapes that share the colour or the shape, and exactly one or none that has both."""
    near = [
        Spec("shape", colour, shape=draw_other(rng, SHAPES, shape)),
        Spec("shape", draw_other(rng, tuple(COLOURS), colour), shape=shape),
    ]
    if present:
        near.append(Spec("shape", colour, shape=shape))
    elif rng.random() < 0.5:  # as many objects of the colour or of the shape as where both are present
        near.append(Spec("shape", colour, shape=draw_other(rng, SHAPES, shape)))
    else:
        near.append(Spec("shape", draw_other(rng, tuple(COLOURS), colour), shape=shape))
    rng.shuffle(near)
    return near


def _compose_digit(rng: Random, answer: str, split: str) -> Plan:
    return _compose_text(rng, answer, split, "digit", "what digit is shown?", "what is the {} digit?")


def _compose_reading(rng: Random, answer: str, split: str) -> Plan:
    return _compose_text(rng, answer, split, "word", "what word is written?", "what is the {} word?")


def _compose_text(rng: Random, answer: str, split: str, kind: str, one: str, many: str) -> Plan:
    """One digit or word, or (3 in 10) two that differ in colour."""
    colour = draw_colour(rng)
    specs = [make_spec(rng, kind, colour, split, answer)]
    if rng.random() < 0.7:
        return Plan(specs, one, 2, 4, lambda s: s.kind == kind)
    specs.append(make_spec(rng, kind, draw_other(rng, tuple(COLOURS), colour), split))
    return Plan(specs, many.format(colour), 1, 3, lambda s: s.kind == kind)


_COMPOSE: dict[str, Callable[[Random, str, str], Plan]] = {
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
