"""The first thing a visitor runs: the embedded model on bundled pictures, with all tokens and with a fraction."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.errors import InputError
from ..pictures.drawing import sheet
from ..pictures.opening import open_picture
from ..pictures.saving import save_picture
from .answering import FULL, Answer, ask, ask_many

METHOD = "hiprune"
KEEPS = ("1/4", "1/9")
RIVALS = ("divprune", "fastervlm", "visionzip", "fastv", "uniform", "random")
PICTURE_SEED = 7  # of the bundled pictures, one per kind; fixed before any answer was seen
BUNDLED_KINDS = ("reading", "count", "relation", "place", "colour", "digit")
PER_KIND = 40  # questions of each kind in the table, if time allows
FIRST_SEED = 100_000  # of the questions for the table
BATCH = 16
LONGEST = 8  # tokens of an answer; the right ones have at most five


@dataclass(frozen=True)
class Example:
    """A picture with a question and the right answer."""

    name: str
    image: Image.Image = field(repr=False)
    question: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Introduction:
    num_weights: int


@dataclass(frozen=True)
class ExampleAnswers:
    """For each example its answers with every token, then with each keep."""

    examples: Sequence[Example]
    answers: Sequence[Sequence[Answer]]


@dataclass(frozen=True)
class RivalAnswers:
    """For each other method its answers to the examples, on the smallest keep."""

    examples: Sequence[Example]
    answers: dict[str, list[Answer]]


@dataclass(frozen=True)
class Score:
    """Right answers of one setting on freshly drawn questions."""

    pipeline: str
    right: dict[str, int]
    asked: dict[str, int]
    seconds: float

    @property
    def share(self) -> float:
        return sum(self.right.values()) / max(1, sum(self.asked.values()))


@dataclass(frozen=True)
class Scores:
    """Scores of all settings on the same questions."""

    scores: Sequence[Score]


def bundled() -> list[Example]:
    """The bundled examples. Raises InputError when the package lacks them."""
    folder = Path(__file__).parents[1] / "mini" / "pictures"
    try:
        entries = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))["pictures"]
    except OSError as error:
        raise InputError(f"the bundled pictures are missing from {str(folder)!r}; install tessella again.") from error
    return [
        Example(e["file"], open_picture(folder / e["file"]), e["question"], e["answer"], e["kind"]) for e in entries
    ]


def draw_bundled(folder: Path) -> None:
    """Draw the bundled pictures and their list into a folder, from the seeds named above."""
    from ..mini.questions import sample

    entries = []
    for kind in BUNDLED_KINDS:
        drawn = sample(kind, PICTURE_SEED, split="test")
        save_picture(drawn.image, folder / f"{kind}.png")
        entry = {"file": f"{kind}.png", "kind": kind, "seed": PICTURE_SEED, "split": "test"}
        entries.append(entry | {"question": drawn.question, "answer": drawn.answer})
    about = "Drawn by tessella.app.demo.draw_bundled; its held-out seeds were fixed before any answer was seen."
    (folder / "pictures.json").write_text(json.dumps({"about": about, "pictures": entries}, indent=2) + "\n")


def answer_examples(
    model: Any, processor: Any, examples: Sequence[Example], keeps: Sequence[str] = KEEPS
) -> list[list[Answer]]:
    """For each example its answers: with every token, then with each keep."""
    out = []
    for example in examples:
        settings = [(FULL, None), *((METHOD, keep) for keep in keeps)]
        row = [ask(model, processor, example.image, example.question, *s, max_new_tokens=LONGEST) for s in settings]
        out.append(row)
    return out


def compare_rivals(
    model: Any, processor: Any, examples: Sequence[Example], rivals: Sequence[str] = RIVALS, keep: str = "1/9"
) -> dict[str, list[Answer]]:
    """Answers of other methods to every example on the same budget; methods that are not there are left out."""
    from ..core.registry import method_modules

    present = [name for name in rivals if name in method_modules()]
    return {
        name: [ask(model, processor, e.image, e.question, name, keep, max_new_tokens=LONGEST) for e in examples]
        for name in present
    }


def score_settings(
    model: Any,
    processor: Any,
    settings: Sequence[tuple[str, str | None]],
    per_kind: int,
    seconds: float = 25.0,
    first_seed: int = FIRST_SEED,
    progress: Callable[[int], None] | None = None,
) -> list[Score]:
    """Exact matches on freshly drawn test questions, the same ones for every setting (pipeline, keep).

    All settings answer a batch before the next one is drawn; it stops at `per_kind` questions of each kind or once
    `seconds` have passed, whichever comes first.
    """
    from ..mini.questions import KINDS, sample

    right = [dict.fromkeys(KINDS, 0) for _ in settings]
    asked = dict.fromkeys(KINDS, 0)
    spent = [0.0] * len(settings)
    start = time.perf_counter()
    step = max(1, BATCH // len(KINDS))
    for first in range(0, per_kind, step):
        spent_so_far = time.perf_counter() - start
        if first and spent_so_far * (first + step) / first > seconds:
            break  # the next batch would take longer than there is time
        seeds = range(first_seed + first, first_seed + min(first + step, per_kind))
        samples = [sample(kind, seed, split="test") for kind in KINDS for seed in seeds]
        for n, (pipeline, keep) in enumerate(settings):
            begin = time.perf_counter()
            images, questions = [s.image for s in samples], [s.question for s in samples]
            answers = ask_many(model, processor, images, questions, pipeline, keep, max_new_tokens=LONGEST)
            spent[n] += time.perf_counter() - begin
            for given, truth in zip(answers, samples, strict=True):
                right[n][truth.kind] += given == truth.answer
        for truth in samples:
            asked[truth.kind] += 1
        if progress is not None:
            progress(sum(asked.values()))
    names = [p if k is None else f"{p}:{k}" for p, k in settings]
    return [Score(n, r, dict(asked), s) for n, r, s in zip(names, right, spent, strict=True)]


def table_settings(keeps: Sequence[str] = KEEPS) -> list[tuple[str, str | None]]:
    """The settings of the demo's table: every token, then each keep."""
    return [(FULL, None), *((METHOD, keep) for keep in keeps)]


def draw_sheet(answers: Sequence[Sequence[Answer]], examples: Sequence[Example]) -> Image.Image:
    """A picture sheet, two examples a row: all tokens, then each keep."""
    panels = []
    for example, row in zip(examples, answers, strict=True):
        for answer in row:
            mark = "correct" if answer.answer == example.answer else f"correct is {example.answer}"
            caption = f"{example.question}\n{answer.answer} ({mark})\n{answer.counts}"
            name = "all tokens" if answer.pipeline == FULL else answer.pipeline
            panels.append((name, answer.draw(caption, size=280)))
    return sheet(panels, columns=2 * len(answers[0]), title="The same questions on fewer visual tokens")
