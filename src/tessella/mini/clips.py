"""Draw short clips of one scene and ask what happens: which way a thing moves, and what colour another turns.

In each clip one object moves all the time and another changes its colour once; the rest stands still. The question
says which of the two it is about. Directions and colours are drawn first and are uniform.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tessella.mini.contexts import Context, Prompt
from tessella.mini.questions import Question, make_spec
from tessella.mini.world import COLOURS, SHAPES, Item, check_split, paint, place_items

CLIP_KINDS = ("motion", "change")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
CLIP_ANSWERS = {"motion": tuple(DIRECTIONS), "change": tuple(COLOURS)}
NUM_FRAMES = (4, 5, 6)
TRAVEL = range(36, 57, 4)  # pixels from the first frame to the last
NUM_STILL = (1, 2)  # objects to which nothing happens


def sample_clip(kind: str, seed: int, split: str = "test") -> Prompt:
    """The frames of a clip and a question, always the same for the same arguments."""
    return draw_clip(kind, Random(f"{split}/{kind}/{seed}"), split).prompt


def draw_clip(kind: str, rng: Random, split: str, count: int | None = None) -> Context:
    """`count` frames, 4 to 6 by default, and the questions about them: first the one of the kind."""
    check_split(split)
    if kind not in CLIP_KINDS:
        raise ValueError(f"kind must be one of {', '.join(CLIP_KINDS)}; got {kind!r}")
    count = count or rng.choice(NUM_FRAMES)
    direction = rng.choice(tuple(DIRECTIONS))
    before, after = rng.sample(tuple(COLOURS), 2)
    moving, turning, *still = rng.sample((*SHAPES, "digit"), 2 + rng.choice(NUM_STILL))
    turn = rng.randrange(1, count)  # the first frame in the new colour
    while True:
        length = rng.choice(TRAVEL)
        across, down = (length * step for step in DIRECTIONS[direction])
        specs = [
            replace(make_spec(rng, moving, rng.choice(tuple(COLOURS)), split), travel=(across, down)),
            make_spec(rng, turning, before, split),
            *(make_spec(rng, noun, rng.choice(tuple(COLOURS)), split) for noun in still),
        ]
        items = place_items(rng, specs, split)
        if items is not None:
            break
    mover, changer, *rest = items
    ground = rng.getrandbits(64)
    frames = []
    for frame in range(count):
        moved = _shift(mover, round(across * frame / (count - 1)), round(down * frame / (count - 1)))
        turned = replace(changer, colour=after) if frame >= turn else changer
        frames.append(paint(Random(ground), (moved, turned, *rest)))
    asked = [
        Question("motion", f"which way does the {moving} move?", direction),
        Question("change", f"what color does the {turning} turn?", after),
    ]
    return Context(tuple(frames), tuple(asked if kind == "motion" else asked[::-1]))


def _shift(item: Item, across: int, down: int) -> Item:
    left, top, right, bottom = item.box
    return replace(item, box=(left + across, top + down, right + across, bottom + down))
