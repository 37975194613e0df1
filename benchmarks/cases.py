"""What the registry offers to measure: every method that takes a keep, wrappers in the example of their card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tessella
from tessella.core.contracts import Rewriter
from tessella.core.registry import methods


@dataclass(frozen=True)
class Case:
    """A pipeline at a keep; `keep` is None where the pipeline has budgets of its own."""

    method: str
    pipeline: str
    keep: int | None
    cost: str
    rewrites: bool

    @property
    def label(self) -> str:
        return self.method if self.keep is None else f"{self.method}:{self.keep}"


def cases(keeps: Sequence[int], only: Sequence[str] = ()) -> list[Case]:
    """A case for every registered method that cuts to a keep (or for those named in `only`), at each keep."""
    out: list[Case] = []
    for method_id, cls in methods().items():
        if only and method_id not in only:
            continue
        text = cls.card.example or method_id
        parts = tessella.parse(text).parts
        open_ = any(p.method.card.takes_keep and p.budget is None for p in parts)
        if not open_ and all(p.budget is None for p in parts):
            continue  # none and blind decide without a keep
        rewrites = any(isinstance(p.method, Rewriter) for p in parts)
        out += [Case(method_id, text, k, cls.card.cost, rewrites) for k in (keeps if open_ else [None])]
    return out
