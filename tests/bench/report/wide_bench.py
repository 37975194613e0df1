"""What a page is made from: many methods, and names, answers and truths that would like to be markup."""

from __future__ import annotations

import dataclasses

from PIL import Image
from synthetic import Row, rows_of

from tessella.bench.report.boards import Board
from tessella.bench.report.gallery import Exhibit, Gallery, find_disagreements
from tessella.core.layout import Block
from tessella.pictures.figure import reduction_figure
from tessella.pictures.shown import Cut, Shown

HOSTILE = "<img src=x onerror=\"console.error('markup')\">"
KINDS = ("colour", "count", "place", "reading & <writing>")
KEEPS = {"1/2": 98, "1/4": 49, "1/9": 22, "1/16": 12}


def wide_bench() -> list[Row]:
    """20 methods at 4 keeps and the references, four types of 30 questions; names, answers and truths are hostile."""

    def right(share: float) -> dict[str, str]:
        return {kind: ("1" * round(30 * share)).ljust(30, "0")[n:] + "0" * n for n, kind in enumerate(KINDS)}

    rows = [*rows_of("none", right(1), tokens=196), *rows_of("blind", right(0.2), tokens=0)]
    for step, (keep, tokens) in enumerate(KEEPS.items()):
        rows += rows_of(f"downsample:{keep}", right(0.7 - step / 10), tokens)
        for n in range(20):
            name = f"compose(score=method_{n}, select=<b>another</b>)" if n % 5 == 0 else f"method_{n}"
            rows += rows_of(f"{name}:{keep}", right(0.95 - n / 40 - step / 20), tokens)
    return [(s, dataclasses.replace(r, answer=f"{HOSTILE} {r.answer}", truth=HOSTILE)) for s, r in rows]


def make_exhibits(board: Board, number: int) -> Gallery:
    picture = Image.linear_gradient("L").resize((140, 140)).convert("RGB")
    out = []
    for found in find_disagreements(board, number):
        figures = tuple(
            reduction_figure(
                m.label,
                _shown(picture, range(0, 196, 1 + n)),
                m.records[found.question].answer,
                "22 of 196 visual tokens",
                m.records[found.question].score > 0.5,
                level=5,
                ending=".webp",
                size=280,
            )
            for n, m in enumerate(found.shown)
        )
        out.append(Exhibit(found, f"what is it? {HOSTILE}", HOSTILE, figures))
    return Gallery(tuple(out))


def _shown(picture: Image.Image, kept: range) -> Shown:
    """Every second patch that is left by the first cut goes in a second one."""
    cuts = tuple(
        Cut(layer, (left,), (tuple(i if i in left else -1 for i in range(196)),))
        for layer, left in ((0, tuple(kept)), (2, tuple(kept[::2])))
    )
    return Shown((picture,), ((Block(image=0, rows=14, columns=14),),), cuts)
