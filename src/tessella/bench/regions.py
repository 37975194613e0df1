"""Which third of a picture the kept and the dropped tokens come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.errors import InputError
from .embedded import Embedded
from .statistics import Bootstrap, Question
from .tables import Table, percent

THIRDS = ("top", "middle", "bottom")
BATCH = 40  # pictures read at once


@dataclass(frozen=True)
class Thirds:
    """Visual tokens of one picture by third of its rows, and how many of them were kept.

    Row r of R belongs to third `3 r // R`, so that of 14 rows 5, 5 and 4 do.
    """

    there: tuple[int, int, int]
    kept: tuple[int, int, int]

    def share_kept(self, third: int) -> float:
        """Share of the kept tokens that lie in a third. Raises InputError where nothing was kept."""
        if not sum(self.kept):
            raise InputError("no token was kept, so that none of them lies anywhere.")
        return self.kept[third] / sum(self.kept)

    def share_dropped(self, third: int) -> float:
        """Share of the dropped tokens that lie in a third. Raises InputError where nothing was dropped."""
        dropped = sum(self.there) - sum(self.kept)
        if not dropped:
            raise InputError("no token was dropped, so that none of them lies anywhere.")
        return (self.there[third] - self.kept[third]) / dropped


def count_thirds(kept: Sequence[int], rows: int, columns: int) -> Thirds:
    """Tokens by third, from the kept indices of a grid in raster order.

    >>> count_thirds([0, 1, 5], rows=3, columns=2)
    Thirds(there=(2, 2, 2), kept=(2, 0, 1))
    """
    third = np.arange(rows * columns) // columns * 3 // rows
    there, left = np.bincount(third, minlength=3), np.bincount(third[list(kept)], minlength=3)
    return Thirds(tuple(there.tolist()), tuple(left.tolist()))


@torch.no_grad()
def measure_thirds(model: Any, processor: Any, pipeline: str, questions: Sequence[Question]) -> dict[Question, Thirds]:
    """Thirds of the pictures of some questions under a pipeline with its budget, from the kept tokens of one prefill.

    Raises what `tessella.reduce` raises, and InputError for pictures of more than one grid.
    """
    from ..engine.apply import reduce
    from ..mini.evaluate import build_prompt
    from ..mini.questions import sample

    out: dict[Question, Thirds] = {}
    with reduce(model, pipeline) as run:
        for start in range(0, len(questions), BATCH):
            batch = questions[start : start + BATCH]
            samples = [sample(kind, seed, Embedded.split) for kind, seed in batch]
            prompts = [build_prompt(processor, s.question) for s in samples]
            images = [[s.image] for s in samples]
            inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt", add_special_tokens=False)
            model(**inputs.to(model.device), logits_to_keep=1)
            for question, kept, blocks in zip(batch, run.kept, run.layout.blocks, strict=True):
                if len(blocks) != 1 or blocks[0].newlines:
                    raise InputError(f"thirds need pictures of one grid; {question} has {len(blocks)} grids.")
                out[question] = count_thirds(kept[0].tolist(), blocks[0].rows, blocks[0].columns)
    return out


def thirds_table(thirds: dict[str, dict[Question, Thirds]], seed: int, resamples: int) -> Table:
    """For each pipeline the share of dropped tokens by third, the mean over pictures with its interval."""
    rows = []
    for pipeline, pictures in sorted(thirds.items()):
        questions = sorted(pictures)
        values = np.array([[pictures[q].share_dropped(t) for q in questions] for t in range(3)])
        bootstrap = Bootstrap(values, questions, seed, resamples)
        rows.append((pipeline, *(percent(bootstrap.mean(t).estimate()) for t in range(3)), str(len(questions))))
    heads = ("pipeline", *(f"dropped: {t} %" for t in THIRDS), "pictures")
    return Table("Where the dropped tokens were", heads, tuple(rows), (4,))
