"""Cards: what a method says about itself. Lists, docs, tests and benchmarks are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .budget import ROUNDINGS, SCOPES, Rounding, Scope
from .errors import MethodError
from .layout import UNITS, Unit

Stage = Literal["input", "encoder", "connector", "prefill", "decode"]
STAGES: tuple[Stage, ...] = ("input", "encoder", "connector", "prefill", "decode")
Positions = Literal["original", "compact"]
POSITIONS: tuple[Positions, ...] = ("original", "compact")
Fate = Literal["compete", "follow", "keep", "drop"]
FATES: tuple[Fate, ...] = ("compete", "follow", "keep", "drop")
THUMBNAIL_FATES: tuple[Fate, ...] = ("compete", "keep", "drop")
Count = Literal["exact", "at_most", "adaptive"]

NEEDS = {
    "features": "encoder features before the connector",
    "class_token": "a class token in the vision encoder, its attention row or its features",
    "class_features": "a class token whose features the connector can take",
    "attention_received": "attention that each patch receives in an encoder layer",
    "encoder_keys": "key vectors of an encoder layer",
    "grid": "the whole grid of each image",
    "connector": "the connector as a function",
    "decoder_rows": "attention rows of chosen queries in a decoder layer",
    "projection": "queries and keys of a decoder layer before it runs",
    "text": "embeddings of the prompt's text",
    "words": "the words of the question, for which a run needs the processor",
    "text_tower": "a text encoder that shares a space with the vision encoder",
    "frames": "the frames of a clip",
    "pixels": "the pixels of each image",
    "sizes": "an encoder that takes pictures of other sizes",
    "made_tokens": "a language model that takes visual tokens of a method's own making",
    "several_grids": "a language model that takes several grids in the place of a picture",
}


@dataclass(frozen=True)
class Card:
    """Facts about a method; the contract suite checks the method by its own card.

    `count`: kept tokens are `exact`ly, `at_most` or `adaptive`ly what was asked. `exact_with_keep`: an adaptive method
    that keeps exactly what is asked, where a keep is given. `min_keep`: 0 only where everything is removed by design.
    `takes_keep`: False where a keep makes no sense. `unit`: the groups among which tokens compete unless the scope is
    wider. `newlines` and `thumbnails`: what becomes of such tokens, see `RolePolicy`. `example`: a pipeline text for
    methods that wrap another.
    """

    title: str
    stages: tuple[Stage, ...]
    paper: str | None = None
    year: int | None = None
    training_free: bool = True
    baseline: bool = False
    needs: tuple[str, ...] = ()
    count: Count = "exact"
    count_reason: str = ""
    exact_with_keep: bool = False
    min_keep: int = 1
    takes_keep: bool = True
    rounding: Rounding = "nearest"
    rounding_source: str = ""
    cost: Literal["light", "heavy"] = "light"
    prompt_dependent: bool = False
    positions: Positions = "compact"
    newlines: Fate = "follow"
    thumbnails: Fate = "compete"
    scope: Scope = "image"
    unit: Unit = "tile"
    example: str | None = None
    nearest: str | None = None

    def __post_init__(self) -> None:
        _one_of("stages", self.stages, STAGES)
        _one_of("needs", self.needs, tuple(NEEDS))
        _one_of("scope", (self.scope,), SCOPES)
        _one_of("unit", (self.unit,), UNITS)
        _one_of("positions", (self.positions,), POSITIONS)
        _one_of("newlines", (self.newlines,), FATES)
        _one_of("thumbnails", (self.thumbnails,), THUMBNAIL_FATES)
        _one_of("rounding", (self.rounding,), ROUNDINGS)
        if self.count != "exact" and not self.count_reason:
            raise MethodError(f"card {self.title!r}: count={self.count!r} needs a count_reason from the specification.")
        if self.exact_with_keep and self.count != "adaptive":
            raise MethodError(f"card {self.title!r}: exact_with_keep is for count='adaptive'; got {self.count!r}.")
        if self.rounding != "nearest" and not self.rounding_source:
            raise MethodError(f"card {self.title!r}: rounding={self.rounding!r} needs a rounding_source.")

    def promised_count(self, asked: bool) -> Count:
        """What is promised of the count where a keep was `asked` for, or was not."""
        return "exact" if asked and self.exact_with_keep else self.count


def _one_of(name: str, given: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    wrong = [g for g in given if g not in allowed]
    if wrong:
        raise MethodError(f"card field {name}: {wrong[0]!r} is not allowed; allowed: {', '.join(allowed)}.")
