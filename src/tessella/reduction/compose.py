"""Compose: one paper's score with another's selection, allocation or merging.

Paper    none of its own: those of its parts
Acts     connector, once
Needs    what its parts need
Differs  parts keep their own settings; fractions are rounded to the nearest count, whatever a part's own rounding. The
         groups among which tokens compete are the widest that a part asks for. Of a count the merging part makes some
         tokens by itself (`KeptMerger.reserved`); the selection is given the rest
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import (
    Allocator,
    KeptMerger,
    Method,
    ScoredSelector,
    Scorer,
    check_shape,
    keep_highest,
    mask_of,
)
from ..core.errors import MethodError
from ..core.layout import UNITS
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.allocation import take_by_quota

PARTS: dict[str, tuple[tuple[type, ...], str]] = {  # by field: the contracts that it takes, and what they do
    "score": ((Scorer, ScoredSelector), "scores tokens"),
    "select": ((ScoredSelector,), "selects by a score"),
    "allocate": ((Allocator,), "divides a count by a score"),
    "merge": ((KeptMerger,), "folds dropped tokens into kept ones"),
}


@register
@dataclass(frozen=True)
class Compose(Method):
    score: Method  # whose score
    select: Method | None = None  # whose selection by it; None: the highest
    allocate: Method | None = None  # whose division of the count among groups, the highest in each; None: no groups
    merge: Method | None = None  # whose merging of what was not selected; None: it is dropped

    card = Card(
        title="Compose",
        stages=("connector",),
        example="compose(score=fopru, select=zoo_prune)",
    )

    def __post_init__(self) -> None:
        for name, (contracts, does) in PARTS.items():
            part = getattr(self, name)
            if part is None and name != "score":
                continue
            if not isinstance(part, contracts):
                given = part.id if isinstance(part, Method) else repr(part)
                raise MethodError(f"compose: {name} takes a method that {does}; {given} does not.")
            if "connector" not in part.card.stages:
                raise MethodError(f"compose: {part.id} acts at {', '.join(part.card.stages)}, not at the connector.")
        if self.select is not None and self.allocate is not None:
            raise MethodError(
                f"compose: select={self.select.id} and allocate={self.allocate.id} both choose; give one of them."
            )
        object.__setattr__(self, "card", self._card())  # of its parts

    @property
    def parts(self) -> tuple[Method, ...]:
        """The methods that it is made of: at least a scorer."""
        return tuple(p for p in (self.score, self.select, self.allocate, self.merge) if p is not None)

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return tuple(dict.fromkeys(n for part in self.parts for n in part.needs(info)))

    def captures(self, info: ModelInfo) -> Captures:
        return functools.reduce(operator.or_, (part.captures(info) for part in self.parts))

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return tuple(f"{part.id}: {remark}" for part in self.parts for remark in part.remarks(info))

    def reduce(self, view: View, counts: Counts) -> Reduction:
        if not isinstance(self.merge, KeptMerger):
            return Reduction(self.kept(view, counts), counts.num_keep if self.card.count == "exact" else None)
        reserved = self.merge.reserved(counts)
        left = tuple(max(k - r, 0) for k, r in zip(counts.num_keep, reserved, strict=True))
        kept = self.kept(view, dataclasses.replace(counts, num_keep=left))
        with view.clock("select"):
            return self.merge.fold(kept, view, counts)

    def kept(self, view: View, counts: Counts) -> Bool[Tensor, "B V"]:
        """The tokens that are selected, before anything is merged into them."""
        assert isinstance(self.score, Scorer | ScoredSelector)
        with view.clock("score"):
            scores = self.score.score(view).float()
        check_shape(self.score.id, "score", scores, view.mask)
        with view.clock("select"):
            if isinstance(self.select, ScoredSelector):
                return mask_of(self.select.choose(scores, view, counts), scores.shape[1])
            if isinstance(self.allocate, Allocator):
                allocation = self.allocate.allocate(scores, view, counts)
                return take_by_quota(scores, allocation.group, allocation.quota, view.mask)
            protected = self.score.protect(view) if isinstance(self.score, Scorer) else None
            return keep_highest(scores, counts, mask=view.mask, protected=protected)

    def _card(self) -> Card:
        """What holds of all parts together."""
        cards = [part.card for part in self.parts]
        choosing = next(p.card for p in (self.merge, self.select, self.allocate, self.score) if p is not None)
        loose = next((c for c in cards[1:] if c.count != "exact"), type(self).card)
        return dataclasses.replace(
            type(self).card,
            needs=tuple(dict.fromkeys(n for c in cards for n in c.needs)),
            count=loose.count,
            count_reason=loose.count_reason,
            cost="heavy" if any(c.cost == "heavy" for c in cards) else "light",
            prompt_dependent=any(c.prompt_dependent for c in cards),
            positions=choosing.positions,
            newlines=choosing.newlines,
            thumbnails=choosing.thumbnails,
            unit=max((c.unit for c in cards), key=UNITS.index),
        )
