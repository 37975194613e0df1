"""A claim and answers to its questions that make it come out as asked."""

from __future__ import annotations

from synthetic import Row, rows_of

from tessella.bench.claims.claim import Claim
from tessella.bench.claims.conditions import Floor
from tessella.bench.embedded import first_number

N = 60  # questions of a type
FULL_ROWS = {"place": "1" * 54 + "0" * 6, "colour": "1" * 60}
CLAIM = Claim(
    "divprune-random",
    "DivPrune is better.",
    "a paper",
    (("divprune:1/9", "random:1/9"),),
    ("place", "colour"),
    samples=N,
    preconditions=(Floor(0.9),),
)


def bench(pipeline: str, answers: dict[str, str], seed: int = 0) -> list[Row]:
    return rows_of(pipeline, answers, first=first_number(seed))


def right(number: int, of: int = N) -> str:
    return "1" * number + "0" * (of - number)


def rows(place: int = 30, colour: int = 50, full: dict[str, str] | None = None) -> list[Row]:
    """Random selection has 20 places and 40 colours; DivPrune as many of the 60 as given."""
    return [
        *bench("none", full or FULL_ROWS),
        *bench("random:1/9", {"place": right(20), "colour": right(40)}),
        *bench("divprune:1/9", {"place": right(place), "colour": right(colour)}),
    ]
