"""Draw small pictures of coloured shapes, handwritten digits and words, each with the list of what is in it.

The digits are the 8 x 8 pictures of the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak,
licence CC BY 4.0), as packed in scikit-learn's `load_digits`; `digits.npz` holds them, so scikit-learn is not needed.
Letters come from the font inside Pillow. Training and test pictures share no digit picture and no word.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WORLD_VERSION = "2"  # raised whenever a seed draws something else or kinds are added; "1" had single pictures only
SIDE = 112  # pixels a side of every picture
PATCH = 8  # pixels a side of the encoder's patches
GAP = 3  # free pixels between the boxes of two objects
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (225, 40, 45),
    "orange": (245, 135, 20),
    "yellow": (245, 230, 55),
    "green": (45, 190, 75),
    "cyan": (70, 215, 225),
    "blue": (65, 105, 250),
    "purple": (185, 70, 230),
    "white": (245, 245, 245),
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHAPE_SIZES = range(16, 29, 2)
DIGIT_SIZES = range(20, 29, 2)
CAP_HEIGHTS = range(12, 17)  # height of the letters in pixels
STROKE = 0.6  # pixels added around the font's thin strokes
NUM_TEXTURES = 24
TEST_DIGITS = 400  # of 1,797: the last ones in a seeded order

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside


@dataclass(frozen=True)
class Sizes:
    """Pixels a side of shapes and digits, and of a word's capitals; each is drawn as often as the next."""

    shapes: Sequence[int] = SHAPE_SIZES
    digits: Sequence[int] = DIGIT_SIZES
    caps: Sequence[int] = CAP_HEIGHTS


PLAIN_SIZES = Sizes()


@dataclass(frozen=True)
class Spec:
    """An object that is asked for.

    `spot` bounds its centre: lowest and highest x, lowest and highest y. `travel` are the pixels to the right and down
    by which it will move: its way is kept free of other objects.
    """

    kind: str  # "shape", "digit" or "word"
    colour: str
    shape: str = ""
    text: str = ""  # the digit, or the letters of the word
    spot: tuple[float, float, float, float] | None = None
    travel: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Item:
    """An object of a picture, where it was drawn; `letters` are the boxes of a word's letters."""

    kind: str
    colour: str
    shape: str
    text: str
    box: Box
    alpha: np.ndarray
    letters: tuple[Box, ...] = ()

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def noun(self) -> str:
        """The word for it without its colour: the shape's name, "digit" or "word"."""
        return self.shape or self.kind


@dataclass(frozen=True)
class Scene:
    """A picture [112, 112, 3] of uint8 and its objects."""

    pixels: np.ndarray
    items: tuple[Item, ...]

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)


def check_split(split: str) -> None:
    """Raise ValueError unless `split` is one of the two that exist."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")


def is_test_word(word: str) -> bool:
    """True for the tenth of all words that only test pictures show."""
    return zlib.crc32(word.encode()) % 10 == 0


def draw_word(rng: Random, split: str, length: int | None = None) -> str:
    """2 to 4 random upper-case letters of the split; every length is equally likely."""
    length = length or rng.randint(2, 4)
    while True:
        word = "".join(rng.choices(LETTERS, k=length))
        if is_test_word(word) == (split == "test"):
            return word


def draw_spec(rng: Random, kind: str, split: str) -> Spec:
    """A random object of a kind, anywhere."""
    colour = rng.choice(tuple(COLOURS))
    if kind == "shape":
        return Spec(kind, colour, shape=rng.choice(SHAPES))
    return Spec(kind, colour, text=str(rng.randrange(10)) if kind == "digit" else draw_word(rng, split))


def draw_scene(rng: Random, specs: Sequence[Spec], split: str = "train", sizes: Sizes = PLAIN_SIZES) -> Scene | None:
    """Draw the objects on a textured ground, the first ones placed first; None when they do not fit."""
    items = place_items(rng, specs, split, sizes)
    return None if items is None else paint(rng, items)


def place_items(
    rng: Random, specs: Sequence[Spec], split: str = "train", sizes: Sizes = PLAIN_SIZES
) -> tuple[Item, ...] | None:
    """Objects where they stand before they move, the first ones placed first; None when they do not fit."""
    check_split(split)
    items: list[Item] = []
    ways: list[Box] = []
    for spec in specs:
        alpha, columns = _draw_alpha(rng, spec, split, sizes)
        height, width = alpha.shape
        right, down = spec.travel
        way = _find_box(rng, width + abs(right), height + abs(down), spec.spot, ways)
        if way is None:
            return None
        ways.append(way)
        left, top = way[0] + max(0, -right), way[1] + max(0, -down)
        box = (left, top, left + width, top + height)
        letters = tuple((left + start, box[1], left + stop, box[3]) for start, stop in columns)
        items.append(Item(spec.kind, spec.colour, spec.shape, spec.text, box, alpha, letters))
    return tuple(items)


def paint(rng: Random, items: Sequence[Item]) -> Scene:
    """The picture of objects on a ground; a copy of `rng` paints the same ground again."""
    canvas = _draw_ground(rng)
    for item in items:
        left, top, right, bottom = item.box
        ink = np.array([min(255, max(0, c + rng.randint(-14, 14))) for c in COLOURS[item.colour]], np.float32)
        region = canvas[top:bottom, left:right]
        region += (ink - region) * item.alpha[..., None]
    return Scene(canvas.astype(np.uint8), tuple(items))


def _find_box(rng: Random, width: int, height: int, spot: tuple | None, taken: Sequence[Box]) -> Box | None:
    low_x, high_x, low_y, high_y = spot or (0, SIDE, 0, SIDE)
    low_x, high_x = max(1, math.ceil(low_x - width / 2)), min(SIDE - 1 - width, math.floor(high_x - width / 2))
    low_y, high_y = max(1, math.ceil(low_y - height / 2)), min(SIDE - 1 - height, math.floor(high_y - height / 2))
    if high_x < low_x or high_y < low_y:
        return None
    for _ in range(30):
        left, top = rng.randint(low_x, high_x), rng.randint(low_y, high_y)
        right, bottom = left + width, top + height
        for a, b, c, d in taken:
            if left < c + GAP and a < right + GAP and top < d + GAP and b < bottom + GAP:
                break
        else:
            return left, top, right, bottom
    return None


def _draw_alpha(rng: Random, spec: Spec, split: str, sizes: Sizes) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    if spec.kind == "shape":
        return _shape_alpha(spec.shape, rng.choice(sizes.shapes), rng.randrange(3)), ()
    if spec.kind == "digit":
        bank = _digit_bank(split)[int(spec.text)]
        return _digit_alpha(rng, bank[rng.randrange(len(bank))], split, sizes.digits), ()
    return _word_alpha(spec.text, rng.choice(sizes.caps))


@cache
def _shape_alpha(shape: str, size: int, turn: int) -> np.ndarray:
    """Coverage in [0, 1] of a shape, by drawing it 8 times larger."""
    big = size * 8
    image = Image.new("L", (big, big))
    draw = ImageDraw.Draw(image)
    angle, t = (turn - 1) * 0.2, 0.34  # t: half the width of the cross's bars

    def polygon(points: list[tuple[float, float]]) -> None:
        """Fill a polygon given in [-1, 1], turned by `angle` and shrunk to stay inside."""
        cos, sin = math.cos(angle), math.sin(angle)
        turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in points]
        reach = max(max(abs(x), abs(y)) for x, y in turned)
        draw.polygon([((x / reach + 1) * big / 2, (y / reach + 1) * big / 2) for x, y in turned], fill=255)

    if shape == "circle":
        draw.ellipse((0, 0, big - 1, big - 1), fill=255)
    elif shape == "ring":
        draw.ellipse((0, 0, big - 1, big - 1), fill=255)
        hole = big * 0.24
        draw.ellipse((hole, hole, big - 1 - hole, big - 1 - hole), fill=0)
    elif shape == "square":
        polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    elif shape == "triangle":
        polygon([(0, -1), (1, 0.85), (-1, 0.85)])
    elif shape == "star":
        rays = [(1 if i % 2 == 0 else 0.42, math.pi * (i / 5 - 0.5)) for i in range(10)]
        polygon([(r * math.cos(a), r * math.sin(a)) for r, a in rays])
    elif shape == "cross":
        x, y = (-t, t, t, 1, 1, t, t, -t, -t, -1, -1, -t), (-1, -1, -t, -t, t, t, 1, 1, t, t, -t, -t)
        polygon(list(zip(x, y, strict=True)))
    else:
        raise ValueError(f"no shape {shape!r}; there are {', '.join(SHAPES)}")
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32) / 255


@cache
def _digit_bank(split: str) -> list[list[Image.Image]]:
    """The 8 x 8 pictures of a split, by digit."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        images, labels = file["images"], file["labels"]
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = order[-TEST_DIGITS:] if split == "test" else order[:-TEST_DIGITS]
    bank: list[list[Image.Image]] = [[] for _ in range(10)]
    for index in chosen:
        pixels = np.minimum(images[index].astype(np.uint16) * 16, 255).astype(np.uint8)
        bank[labels[index]].append(Image.fromarray(pixels))
    return bank


def _digit_alpha(rng: Random, image: Image.Image, split: str, sizes: Sequence[int]) -> np.ndarray:
    """Enlarge a digit; training pictures are also turned, sheared and stretched a little."""
    size = rng.choice(sizes)
    scale = 8 / size
    if split == "train":
        angle, shear, stretch = rng.uniform(-0.17, 0.17), rng.uniform(-0.15, 0.15), rng.uniform(0.9, 1.1)
    else:
        angle, shear, stretch = 0.0, 0.0, 1.0
    a, b = scale * stretch * math.cos(angle), scale * (shear - math.sin(angle))
    d, e = scale * math.sin(angle), scale * math.cos(angle) / stretch
    half = size / 2
    matrix = (a, b, 4 - (a + b) * half, d, e, 4 - (d + e) * half)
    large = image.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32) / 255


@cache
def _letter_alpha(letter: str, height: int) -> np.ndarray:
    """Coverage of a letter whose capitals are `height` pixels high, cut to its width; two rows more for tails."""
    font = next(f for f in map(_font, range(8, 40)) if _cap_height(f) >= height)
    left, _, right, _ = font.getbbox(letter, stroke_width=STROKE)
    top = font.getbbox("H", stroke_width=STROKE)[1]
    image = Image.new("L", (int(right - left) + 2, height + 2))
    ImageDraw.Draw(image).text((1 - left, -top), letter, fill=255, font=font, stroke_width=STROKE)
    alpha = np.asarray(image, np.float32) / 255
    inked = np.flatnonzero(alpha.max(0) > 0.1)
    return alpha[:, inked[0] : inked[-1] + 1]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _cap_height(font: ImageFont.FreeTypeFont) -> float:
    _, top, _, bottom = font.getbbox("H", stroke_width=STROKE)
    return bottom - top


def _word_alpha(word: str, height: int) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Coverage of a word, and the first and last column of each letter."""
    gap = np.zeros((height + 2, 2), np.float32)
    parts: list[np.ndarray] = []
    columns, left = [], 0
    for letter in word:
        alpha = _letter_alpha(letter, height)
        parts += [alpha, gap]
        columns.append((left, left + alpha.shape[1]))
        left += alpha.shape[1] + 2
    return np.concatenate(parts[:-1], axis=1), tuple(columns)


@cache
def _textures() -> np.ndarray:
    """Bank [24, 160, 160] of patterns in [-1, 1]: cloudy noise at four scales, stripes, checks and slopes."""
    rng = np.random.default_rng(7)
    side, bank = 160, []
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    for index in range(NUM_TEXTURES):
        if index % 2 == 0:
            cells = (4, 10, 24, 80)[index // 2 % 4]
            noise = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
            pattern = np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
        else:
            angle, period = rng.uniform(0, math.pi), rng.uniform(7, 26)
            u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
            wave = np.sin(2 * math.pi * u / period)
            pattern = (wave, wave * np.sin(2 * math.pi * v / period), (u - u.mean()) / 80)[index // 2 % 3]
        bank.append(pattern / np.abs(pattern).max())
    return np.stack(bank).astype(np.float32)


def _draw_ground(rng: Random) -> np.ndarray:
    """A dim textured ground [112, 112, 3] of float32: one tint, a pattern of another, a little fine noise."""
    bank = _textures()
    left, top = rng.randrange(160 - SIDE), rng.randrange(160 - SIDE)
    pattern = bank[rng.randrange(NUM_TEXTURES), top : top + SIDE, left : left + SIDE]
    if rng.random() < 0.5:
        pattern = pattern[:, ::-1]
    grey, strength = rng.uniform(30, 70), rng.uniform(4, 20)
    base = np.array([grey + rng.uniform(-14, 14) for _ in range(3)], np.float32)
    tint = np.array([strength * rng.uniform(0.6, 1.0) for _ in range(3)], np.float32)
    ground = base + pattern[..., None] * tint
    left, top = rng.randrange(160 - SIDE), rng.randrange(160 - SIDE)
    ground += 5 * bank[6, top : top + SIDE, left : left + SIDE, None]
    return ground
