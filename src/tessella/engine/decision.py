"""What was decided for one prompt: every cut, to be replayed, drawn and reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.cards import Positions
from ..core.layout import Layout, Units
from ..core.reduction import Reduction
from .bystanders import Bystanders
from .encoder import Picture
from .finite import Finite
from .report import PromptRecord, count_roles
from .rewriting import Rewrite
from .sequence import Segment


@dataclass(frozen=True)
class Decision:
    """One cut's answer, with kept counts on the host and new vectors already projected."""

    at_layer: int
    units: Units
    reduction: Reduction
    num_kept: tuple[int, ...]
    positions: Positions
    vectors: Float[Tensor, "U K C"] | None
    bystanders: Bystanders | None = None


@dataclass(frozen=True)
class Remainder:
    """What a cut has left in front of a decoder layer, by row and image as `Prompt.kept` and `Prompt.merged` say it."""

    at_layer: int
    kept: list[list[Tensor]]
    merged: list[list[Tensor]]


@dataclass
class Prompt:
    """One prompt read under a run. `segments[0]` is the whole prompt; one more follows each cut.

    `pictures` are in the order of the visual tokens. `rewrite` says how the prompt came from the one that the user
    gave, where methods have rewritten that one.
    """

    input_ids: Tensor | None
    pictures: list[Picture]
    num_layers: int
    segments: list[Segment] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    cache_lengths: tuple[int, ...] = ()
    cache_bytes: int = 0
    full_cache_bytes: int = 0
    rewrite: Rewrite | None = None
    finite: Finite = field(default_factory=Finite)

    @property
    def layout(self) -> Layout:
        return self.segments[0].layout

    @property
    def full_layout(self) -> Layout:
        """Visual tokens of the prompt that the user gave."""
        return self.layout if self.rewrite is None else self.rewrite.layout

    @property
    def full_length(self) -> int:
        """Tokens of the prompt that the user gave, and of what has been added since."""
        read = self.segments[0].length
        return read if self.rewrite is None else read + self.rewrite.length - self.rewrite.origin.shape[1]

    def continues_as(self, inputs: dict[str, Any], pictures: list[Picture]) -> bool:
        """True if a cache-less forward reads this prompt again with tokens added at the end."""
        ids = inputs.get("input_ids")
        if ids is None or self.input_ids is None:
            return False
        length = self.input_ids.shape[1]
        if ids.shape[0] != self.input_ids.shape[0] or ids.shape[1] <= length:
            return False
        same = len(pictures) == len(self.pictures) and all(map(_same, pictures, self.pictures))
        return same and torch.equal(ids[:, :length], self.input_ids)

    def visual_per_layer(self) -> list[int]:
        """Visual tokens of all rows seen by each decoder layer."""
        return [sum(rows) for rows in self._visual_by_layer()]

    def mean_keep_ratios(self) -> tuple[float, ...]:
        """For each row the average over decoder layers of the share of its visual tokens that a layer sees."""
        by_row = zip(*self._visual_by_layer(), strict=True)
        counts = zip(by_row, self.full_layout.num_tokens, strict=True)
        return tuple(sum(seen) / (len(seen) * there) if there else 1.0 for seen, there in counts)

    def kept(self, num_cuts: int | None = None) -> list[list[Tensor]]:
        """Kept tokens per row and image, as ascending indices through its grids, each in raster order.

        `num_cuts`: behind so many cuts, by default all of them.
        """
        first, last = self.layout, self.segments[-1 if num_cuts is None else num_cuts].layout
        out = []
        for row, count in enumerate(last.num_tokens):
            slots = set(last.slot[row, :count].tolist())
            out.append([_indices_in(image, slots) for image in _slots_by_image(first, row)])
        return out

    def merged(self, num_cuts: int | None = None) -> list[list[Tensor]]:
        """For each token of each image the index of the kept token that holds it, or -1 if it was dropped.

        `num_cuts` as for `kept`.
        """
        parent_slot = self._parent_slots(num_cuts)
        out = []
        for row in range(len(self.layout.slot)):
            images = []
            for slots in _slots_by_image(self.layout, row):
                number = {slot: i for i, slot in enumerate(slots)}
                images.append(
                    torch.tensor([number.get(parent_slot[row].get(s, -1), -1) for s in slots], dtype=torch.long)
                )
            out.append(images)
        return out

    def remainders(self) -> list[Remainder]:
        """What each cut has left, in the order in which they were made."""
        return [Remainder(d.at_layer, self.kept(n), self.merged(n)) for n, d in enumerate(self.decisions, start=1)]

    def record(self) -> PromptRecord:
        """Counts for the report. Raises InputError where a method has read values that are not finite."""
        self.finite.poll(wait=True)
        full = self.full_layout
        tokens_in = tuple(tuple(len(i) for i in _slots_by_image(full, r)) for r in range(len(full.slot)))
        tokens_kept = tuple(tuple(len(i) for i in row) for row in self.kept())
        return PromptRecord(
            tokens_in,
            tokens_kept,
            tuple(self.visual_per_layer()),
            self.mean_keep_ratios(),
            self.cache_lengths,
            self.cache_bytes,
            self.full_cache_bytes,
            count_roles(full, self.segments[-1].layout),
        )

    def _visual_by_layer(self) -> list[tuple[int, ...]]:
        """Visual tokens of each row, for each decoder layer."""
        out = []
        for layer in range(self.num_layers):
            segment = next(s for s in reversed(self.segments) if s.start <= layer)
            out.append(segment.num_visual)
        return out

    def _parent_slots(self, num_cuts: int | None) -> list[dict[int, int]]:
        """For each row, the slot of the kept token that holds the token of a slot behind `num_cuts` cuts, or all."""
        parents = [{s: s for s in self.layout.slot[r, :n].tolist()} for r, n in enumerate(self.layout.num_tokens)]
        for decision in self.decisions[:num_cuts]:
            moves: list[dict[int, int]] = [{} for _ in parents]
            keep = decision.reduction.keep.cpu()
            source = None if decision.reduction.source is None else decision.reduction.source.cpu()
            for u, row in enumerate(decision.units.source_row):
                slots = decision.units.layout.slot[u, : decision.units.num_tokens[u]].tolist()
                for i, slot in enumerate(slots):
                    to = i if keep[u, i] else -1
                    if to < 0 and source is not None:
                        to = int(source[u, i])
                    moves[row][slot] = slots[to] if to >= 0 else -1
            parents = [{s: moves[r].get(p, -1) for s, p in row.items()} for r, row in enumerate(parents)]
        return parents


def _same(a: Picture, b: Picture) -> bool:
    """Whether two pictures have the same content."""
    mine, yours = a.content, b.content
    return mine is yours or (mine.shape == yours.shape and torch.equal(mine, yours))


def _slots_by_image(layout: Layout, row: int) -> list[list[int]]:
    """Slots of each image's tokens, block after block, each in raster order."""
    count = layout.num_tokens[row]
    order = torch.argsort(layout.frame[row, :count] * (count + 1) + layout.tile[row, :count], stable=True)
    slots, images = layout.slot[row, order].tolist(), layout.image[row, order].tolist()
    return [[s for s, i in zip(slots, images, strict=True) if i == image] for image in range(layout.num_images[row])]


def _indices_in(slots: list[int], kept: set[int]) -> Tensor:
    return torch.tensor([i for i, s in enumerate(slots) if s in kept], dtype=torch.long)
