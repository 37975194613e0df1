"""The sequence after each cut: which tokens are left, where they came from, which positions they have.

A `Segment` is the run of decoder layers between two cuts. It says for its sequence of S tokens which slots of the full
prompt they are. Rows that keep fewer tokens are padded on the left with dropped tokens that nobody may look at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..core.budget import on_device
from ..core.cards import Positions
from ..core.layout import Layout, Units
from ..core.reduction import Reduction
from ..models.on_host import on_host
from .bystanders import Bystanders


@dataclass(frozen=True)
class Segment:
    """Layers from `start` on see S tokens.

    - `places [B, S]`: slot of the full prompt of each token (where it stands, for masks and positions).
    - `padded [B, S]`: True for padding that the engine added; None if there is none.
    - `valid [B, S]`: False for engine padding and for padding of the prompt; None if all are real.
    - `shift [B]`: how far later positions moved (compact policy); None if they did not.
    - `visual [B, V]`: where the visual tokens stand in this sequence; padded with -1. `num_visual` counts them.
    - `origin [B, V]`: which of the prompt's visual tokens they are; padded with -1.
    - `num_padding`: engine padding of each row.
    - `layout`: what the visual tokens are; worked out when first asked, which reads the kept mask back from the device.
    - `from_previous [B, S]`: each place in terms of the segment before; `positions` is the policy of that cut.
    """

    start: int
    places: Int[Tensor, "B S"]
    from_previous: Int[Tensor, "B S"]
    positions: Positions
    padded: Bool[Tensor, "B S"] | None
    valid: Bool[Tensor, "B S"] | None
    shift: Int[Tensor, " B"] | None
    visual: Int[Tensor, "B V"]
    origin: Int[Tensor, "B V"]
    num_visual: tuple[int, ...]
    num_padding: tuple[int, ...]
    lay_out: Callable[[], Layout]

    @property
    def length(self) -> int:
        return self.places.shape[1]

    @cached_property
    def layout(self) -> Layout:
        return self.lay_out()


@dataclass(frozen=True)
class Cut:
    """A decision in terms of one sequence, ready to be applied to hidden states.

    `gather [B, S']`: for each new place the old place whose hidden state it takes. `write`: rows, old places and
    vectors that replace hidden states before gathering.
    """

    segment: Segment
    gather: Int[Tensor, "B S"]
    write: tuple[Int[Tensor, "U K"], Int[Tensor, "U K"], Float[Tensor, "U K C"]] | None = None

    def apply(self, hidden: Float[Tensor, "B S C"]) -> Float[Tensor, "B R C"]:
        """The shorter hidden states."""
        if self.write is not None:
            rows, places, vectors = self.write
            hidden = nn.functional.pad(hidden, (0, 0, 0, 1))  # a copy, with a place for padded entries
            hidden[rows, places] = vectors.to(hidden.dtype)
        return hidden.gather(1, self.gather[:, :, None].expand(-1, -1, hidden.shape[2]))


def whole_prompt(layout: Layout, batch: int, length: int, device: torch.device, mask: Tensor | None) -> Segment:
    """The segment in front of every cut: the prompt as it came. `mask [B, S]` is the prompt's own padding mask."""
    places = torch.arange(length, device=device).expand(batch, length)
    valid = None if mask is None else mask[:, :length].to(device=device, dtype=torch.bool)
    visual, zeros = layout.slot.to(device, non_blocking=True), (0,) * batch
    origin = torch.where(visual >= 0, torch.arange(visual.shape[1], device=device), -1)
    counts = layout.num_tokens
    return Segment(0, places, places, "original", None, valid, None, visual, origin, counts, zeros, lambda: layout)


def make_cut(
    segment: Segment,
    units: Units,
    reduction: Reduction,
    num_kept: tuple[int, ...],
    start: int,
    positions: Positions,
    vectors: Float[Tensor, "U K C"] | None,
    bystanders: Bystanders | None = None,
) -> Cut:
    """Turn the decisions of all units into one shorter sequence.

    `num_kept[u]` are the kept counts on the host; `vectors` are new embeddings aligned to `reduction.order` (ascending
    slots if None). `bystanders` are visual tokens in no unit; without, such tokens are dropped.
    """
    device = segment.places.device
    batch, length = segment.places.shape
    num_visual = segment.visual.shape[1]
    rows = on_device(units.source_row, device)
    index = units.index.to(device, non_blocking=True)
    real = index >= 0

    keep_visual = torch.zeros(batch, num_visual + 1, dtype=torch.bool, device=device)
    keep_visual[rows[:, None], torch.where(real, index, num_visual)] = reduction.keep & real
    keep_visual = keep_visual[:, :num_visual]
    kept_of_row = [0] * batch
    for u, row in enumerate(units.source_row):
        kept_of_row[row] += num_kept[u]
    if bystanders is not None:
        keep_visual, more = bystanders.beside(keep_visual)
        kept_of_row = [n + m for n, m in zip(kept_of_row, more, strict=True)]
    keep = torch.ones(batch, length + 1, dtype=torch.bool, device=device)
    keep.scatter_(1, torch.where(segment.visual >= 0, segment.visual, length), keep_visual)
    keep = keep[:, :length]
    if segment.padded is not None:
        keep = keep & ~segment.padded

    counts = zip(segment.num_visual, segment.num_padding, kept_of_row, strict=True)
    sizes = [length - visual - padding + kept for visual, padding, kept in counts]
    width = max(sizes)
    # False sorts first, so the last `width` entries are every kept token in order, behind some dropped ones as padding
    gather = torch.sort(keep.to(torch.int8), dim=1, stable=True).indices[:, length - width :]
    padded = None if min(sizes) == width else ~keep.gather(1, gather)

    content, home, write = _contents(segment, units, reduction, rows, index, positions, vectors)
    places = segment.places.gather(1, gather)
    valid = None if segment.valid is None else segment.valid.gather(1, gather)
    if padded is not None:
        valid = ~padded if valid is None else valid & ~padded
    shift = segment.shift
    if positions == "compact":
        dropped = [n - k for n, k in zip(segment.num_visual, kept_of_row, strict=True)]
        moved = on_device(dropped, device)
        shift = moved if shift is None else shift + moved
    visual, kept = _kept_visual(segment, keep_visual, home, gather, kept_of_row, padded)
    after = Segment(
        start,
        places,
        gather,
        positions,
        padded,
        valid,
        shift,
        visual,
        torch.where(kept >= 0, segment.origin.gather(1, kept.clamp(min=0)), -1),
        tuple(kept_of_row),
        tuple(width - s for s in sizes),
        lambda: segment.layout.gather(on_host(kept), range(batch)),
    )
    return Cut(after, content.gather(1, gather), write)


def positions_after(
    segment: Segment, before: Int[Tensor, "B S"], padding_before: tuple[int, ...] | None = None
) -> Int[Tensor, "B R"]:
    """Positions of a segment's tokens from those of the segment before it.

    Under `original` every token keeps its own; under `compact` it loses the number of tokens dropped before it, to
    which engine padding of the segment before (`padding_before`, of each row) does not count.
    """
    index = segment.from_previous
    taken = before.expand(len(index), -1).gather(1, index)
    if segment.positions == "original":
        return taken
    here = torch.arange(index.shape[1], device=index.device)
    if segment.padded is not None:
        here = here - segment.padded.sum(dim=1, keepdim=True)
    if padding_before is not None and any(padding_before):
        here = here + on_device(padding_before, index.device)[:, None]
    dropped_before = index - here
    moved = taken - dropped_before
    return moved if segment.padded is None else torch.where(segment.padded, 0, moved)


def _contents(
    segment: Segment,
    units: Units,
    reduction: Reduction,
    rows: Int[Tensor, " U"],
    index: Int[Tensor, "U W"],
    positions: Positions,
    vectors: Float[Tensor, "U K C"] | None,
) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"], tuple[Tensor, Tensor, Tensor] | None]:
    """For each place the place whose content it takes; the inverse, for each token; and vectors to write first.

    Places of padded entries point one past the end, where nothing reads.
    """
    batch, length = segment.places.shape
    content = torch.arange(length + 1, device=rows.device).repeat(batch, 1)
    if reduction.order is None and vectors is None:
        return content[:, :length], content[:, :length], None
    keep = reduction.keep & (index >= 0)
    width = reduction.order.shape[1] if reduction.order is not None else vectors.shape[1]  # type: ignore[union-attr]
    ascending = torch.sort((~keep).to(torch.int8), dim=1, stable=True).indices[:, :width]
    real = keep.gather(1, ascending)
    order = ascending if reduction.order is None else torch.where(real, reduction.order, ascending)
    old = segment.visual[rows[:, None], index.clamp(min=0)]  # place of each unit token in the sequence
    source = target = torch.where(real, old.gather(1, order), length)
    if positions == "compact" and reduction.order is not None:
        target = source.sort(dim=1).values  # an earlier cut may have left them in another order than their slots
    where = rows[:, None].expand_as(target)
    home = content.clone()
    home[where, source] = target
    if vectors is None:
        content[where, target] = source
    write = None if vectors is None else (where, target, vectors[:, :width])
    return content[:, :length], home[:, :length], write


def _kept_visual(
    segment: Segment,
    keep_visual: Bool[Tensor, "B V"],
    home: Int[Tensor, "B S"],
    gather: Int[Tensor, "B R"],
    kept_of_row: list[int],
    padded: Bool[Tensor, "B R"] | None,
) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Places of the kept visual tokens in the new sequence, and which of the old visual tokens they are."""
    batch, width = gather.shape
    most = max(kept_of_row, default=0)
    kept = torch.sort((~keep_visual).to(torch.int8), dim=1, stable=True).indices[:, :most]
    count = on_device(kept_of_row, gather.device)
    real = torch.arange(most, device=gather.device) < count[:, None]
    new_place = torch.full((batch, segment.length), -1, dtype=torch.long, device=gather.device)
    here = torch.arange(width, device=gather.device).expand(batch, width)
    new_place.scatter_(1, gather, here if padded is None else torch.where(padded, -1, here))
    old = home.gather(1, segment.visual.gather(1, kept).clamp(min=0))
    return torch.where(real, new_place.gather(1, old), -1), torch.where(real, kept, -1)
