"""Training batches of the stages that teach contexts and clips, with single pictures among them, as before.

A lesson is a part of a batch: a few rows that have as many pictures, of one size, at the same places. Questions are
packed behind the pictures as in `lessons`. Demonstrations answer themselves: from the second on, the text behind a
picture is also what the row learns to say there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from tessella.mini.clips import CLIP_KINDS, draw_clip
from tessella.mini.contexts import Context, draw_context
from tessella.mini.lessons import BLIND, CONVERSATION, draw_asked, encode_text, pack, special_ids
from tessella.mini.model import BOS, IMAGE, USER
from tessella.mini.shrinking import shrink
from tessella.mini.world import PATCH, Scene

MIX = {"album": 0.55, "clip": 0.3, "shots": 0.15}  # of the lessons that are no single pictures
SMALL_SINGLES = 0.25  # share of the single pictures that are small
ALBUMS = {"which": 0.4, "pick": 0.6}  # of the albums; picking is learned last
ROWS = 4  # of a lesson
TAILS = {"single": 122, "album": 160, "shots": 4, "clip": 48}  # tokens behind the pictures
SMALL = {"single": (3, 14), "album": (5, 9), "shots": (6, 9), "clip": (5, 9)}  # patches a side of small pictures
PICTURES = {"album": (2, 2, 3, 3, 4), "shots": (2, 3, 3, 4), "clip": (4, 4, 5, 6)}  # how many, as often


@dataclass(frozen=True)
class Lesson:
    """R rows of P pictures and a question or more; all but pixels as in `Batch`."""

    kind: str
    pixels: np.ndarray  # [R, P, H, W, 3] uint8
    input_ids: np.ndarray  # [R, N]
    labels: np.ndarray
    positions: np.ndarray
    segments: np.ndarray


def draw_lessons(
    tokenizer: PreTrainedTokenizerFast,
    seed: str,
    count: int,
    singles: int,
    weights: dict[str, float],
    crowds: float,
    small: float,
) -> list[Lesson]:
    """`count` lessons of a seed, the first `singles` of them of single pictures.

    `weights` and `crowds` are of single pictures, `small` is the share of small pictures in contexts and clips.
    """
    rng = Random(seed)
    lessons = []
    for index in range(count):
        kind = "single" if index < singles else rng.choices(list(MIX), list(MIX.values()))[0]
        shrunk = rng.random() < (SMALL_SINGLES if kind == "single" else small)
        lessons.append(draw_lesson(tokenizer, rng, kind, weights, crowds, shrunk))
    return lessons


def draw_lesson(
    tokenizer: PreTrainedTokenizerFast, rng: Random, kind: str, weights: dict[str, float], crowds: float, small: bool
) -> Lesson:
    """One lesson of a kind."""
    count = rng.choice(PICTURES[kind]) if kind != "single" else 1
    contexts = [_draw(rng, kind, count, weights, crowds) for _ in range(ROWS)]
    pixels = np.stack([np.stack([scene.pixels for scene in context.scenes]) for context in contexts])
    if small:
        pixels = _shrink(pixels, rng, *SMALL[kind])
    num_visual = pixels.shape[2] * pixels.shape[3] // PATCH**2
    conversation = kind == "single" and rng.random() < CONVERSATION
    rows = []
    for context in contexts:
        prefix, demonstrations = lay_out(tokenizer, context, num_visual)
        share = BLIND if kind == "single" else 0.0
        length = len(prefix) + TAILS[kind]
        ids, labels, positions, segments = pack(tokenizer, context.questions, rng, conversation, prefix, length, share)
        if kind == "shots":
            labels[[at - 1 for at in demonstrations[1:]]] = ids[demonstrations[1:]]
        rows.append((ids, labels, positions, segments))
    return Lesson(kind, pixels, *(np.stack(column) for column in zip(*rows, strict=True)))


def _draw(rng: Random, kind: str, count: int, weights: dict[str, float], crowds: float) -> Context:
    if kind == "single":
        scene, asked = draw_asked(rng, weights, crowds)
        return Context((scene,), tuple(asked))
    if kind == "clip":
        return draw_clip(rng.choice(CLIP_KINDS), rng, "train", count)
    asked = "shots" if kind == "shots" else rng.choices(list(ALBUMS), list(ALBUMS.values()))[0]
    return draw_context(asked, rng, "train", count)


def _shrink(pixels: np.ndarray, rng: Random, least: int, most: int) -> np.ndarray:
    flat = torch.from_numpy(pixels).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    small = (shrink(flat, rng, least, most) * 255).round().to(torch.uint8)
    return small.permute(0, 2, 3, 1).unflatten(0, pixels.shape[:2]).numpy()


def lay_out(tokenizer: PreTrainedTokenizerFast, context: Context, num_visual: int) -> tuple[Sequence[int], list[int]]:
    """The ids in front of the questions, and the places of the first token of each text."""
    bos, user, image = special_ids(tokenizer, BOS, USER, IMAGE)
    ids, texts = [bos, user], []
    for part in context.parts:
        if isinstance(part, Scene):
            ids += [image] * num_visual
        else:
            texts.append(len(ids))
            ids += encode_text(tokenizer, part)
    return ids, texts
