"""AOT: anchors of each frame take in the rest of it by optimal transport, and those of a first frame the later ones.

Paper    Li et al., March 2026, CVPR 2026, arXiv:2603.01400
Acts     connector, once; on whole clips, and within pictures
Needs    attention that patches receive in two encoder layers, what the connector makes before clips are pooled
Differs  a keep of k means as many anchors a frame as would leave k tokens, if pooling left their share of the tokens,
         at n (2 + keep_ratio (L - 1)) for a clip of L frames with n tokens each; how many there are depends on the
         pictures. Without a keep V is 126 of 729. Clips are max(1, T // 8) frames long: the authors' 4 of 32 and 8 of
         64. Where no pooled cell of a frame is half anchors, the nearest to it stays. Updated anchors, which stand
         beside the unchanged ones, take slots of merged tokens, then of others dropped in their clip; one for which no
         slot is left is not repeated. `order` has the authors' sequence. As there, iterations within frames stop for
         all frames of a clip together. Pictures are cut within their tiles. Ours: windows are thirds of any grid,
         and layers the nearest that attend to whole pictures; `mass="row"` moves each dropped token as a whole, where a
         mass of 1/n hardly moves an anchor; `tolerance=None` ends no iterations early. Not here: clips by FastVID's
         cuts
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import Merger, Method, mask_of
from ..core.errors import MethodError
from ..core.layout import Layout, Units
from ..core.model_info import ModelInfo, PaperLayer
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.allocation import take_by_quota
from ..ops.clips import Clips, emission, parents, repeated_slots
from ..ops.quantiles import quantile
from ..ops.regrouping import regroup, ungroup
from ..ops.selection import mask_indices, pad_indices, top_indices
from ..ops.similarity import cosine_similarity
from ..ops.transport import absorb, sinkhorn, sinkhorn_until

V, P = 126, 729  # the paper's anchors and rows of a frame
EPSILON = 0.1
DISTANCE = 0.5  # weight of the distance within a frame, beside one minus the cosine
NEAREST = 0.1  # weight of plain averaging into the nearest anchor, beside transport
SIGMA = 1.5  # frames over which cost grows
MASSES = ("uniform", "row")


@register
@dataclass(frozen=True)
class AOT(Merger):
    budget_per_frame: int | None = None  # V, of the rows that the connector makes of a frame; None: by the keep
    keep_ratio: float = 0.3  # share of a later frame's tokens that stay as they are
    global_share: float = 0.5  # of V, anchors by the deep layer
    mass: str = "uniform"  # within frames; "row" is ours
    clip_frames: int | None = None  # L; None: an eighth of the frames
    tolerance: float | None = 1e-2  # at which scalings have settled; None is ours
    shallow_layer: int = PaperLayer(5, depth=26, part="encoder")
    deep_layer: int | None = field(
        default=None, metadata={"layer_of": "encoder"}
    )  # None: that before the feature layer

    card = Card(
        title="AOT",
        paper="2603.01400",
        year=2026,
        stages=("connector",),
        needs=("attention_received", "features", "connector", "grid"),
        count="adaptive",
        count_reason="tokens of a frame are counted where pooled anchors reach one half",
        cost="heavy",
        newlines="keep",
        unit="image",
    )

    def __post_init__(self) -> None:
        for name in ("keep_ratio", "global_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise MethodError(f"aot: {name} is a share in [0, 1]; got {getattr(self, name)}.")
        for name in ("budget_per_frame", "clip_frames"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise MethodError(f"aot: {name} must be >= 1; got {getattr(self, name)}.")
        if self.mass not in MASSES:
            raise MethodError(f"aot: mass must be one of {MASSES}; got {self.mass!r}.")

    def fit(self, info: ModelInfo) -> Method:
        fitted = super().fit(info)
        if isinstance(self.shallow_layer, PaperLayer) and isinstance(fitted, AOT):
            return replace(fitted, shallow_layer=whole_picture_layer(fitted.shallow_layer, info))
        return fitted

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=tuple(dict.fromkeys((self.shallow_layer, self._deep_layer(info)))))

    def merge(self, view: View, counts: Counts) -> Reduction:
        frames = view.layout.split("tile")
        clips = self.clips(view.layout, frames)
        rows = view.unpooled()
        grids, size = rows.layout.split("tile"), (len(rows.embeddings), rows.embeddings.shape[1])
        num_anchors = self.num_anchors(counts, clips, frames, grids)

        def by_frame(values: Tensor) -> Tensor:
            return regroup(values, grids.index, grids.source_row)

        received = (by_frame(rows.received(n)) for n in (self.shallow_layer, self._deep_layer(view.info)))
        anchors = self.anchors(*received, grids.layout, num_anchors)
        merged = self.within_frames(
            by_frame(rows.embeddings).float(), anchors, grids.layout, grids.source_row, max(num_anchors)
        )
        merged, share = (
            regroup(rows.pool(ungroup(t, grids.index, grids.source_row, size)), frames.index, frames.source_row)
            for t in (merged, anchors[:, :, None].float())
        )
        kept = half_or_most(share[:, :, 0], frames.layout.mask.to(view.device, non_blocking=True))
        return self.between_frames(merged, kept, clips, frames, view)

    # -- how many ----------------------------------------------------------------------------------------------------

    def clips(self, layout: Layout, frames: Units) -> Clips:
        """Frames by short clip; each tile of a picture is one of its own. Raises MethodError for several pictures."""
        frames.layout.grids  # raises LayoutError unless each frame is whole  # noqa: B018
        out = []
        for item, blocks in enumerate(layout.blocks):
            if len({b.image for b in blocks}) > 1:
                raise MethodError("aot treats each clip by itself, but this scope joins several; use scope 'image'.")
            mine = [f for f, row in enumerate(frames.source_row) if row == item]
            num_frames = max(b.frame for b in blocks) + 1 if blocks else 1
            length = (self.clip_frames or max(1, num_frames // 8)) if num_frames == len(mine) else 1
            out += [mine[start : start + length] for start in range(0, len(mine), length)]
        return out

    def num_anchors(self, counts: Counts, clips: Clips, frames: Units, grids: Units) -> list[int]:
        """V of each frame. Raises MethodError where a keep is given beside `budget_per_frame`."""
        if not counts.asked:
            return [min(self.budget_per_frame or max(1, round(n * V / P)), n) for n in grids.num_tokens]
        if self.budget_per_frame is not None:
            raise MethodError(
                f"aot: budget_per_frame={self.budget_per_frame} fixes what is kept, so it takes no keep. Leave one out."
            )
        full = [0.0] * len(counts.num_keep)  # tokens of an item, were none dropped within its frames
        for clip in clips:
            repeated = 2 + self.keep_ratio * (len(clip) - 1) if len(clip) > 1 else 1
            full[frames.source_row[clip[0]]] += repeated * frames.num_tokens[clip[0]]
        wanted = [k / max(n, 1) for k, n in zip(counts.num_keep, full, strict=True)]
        rows = zip(grids.source_row, grids.num_tokens, windows_of(grids.layout)[1], strict=True)
        return [budget_near(wanted[item] * n, n, windows, self.global_share) for item, n, windows in rows]

    # -- within frames -----------------------------------------------------------------------------------------------

    def anchors(
        self, shallow: Float[Tensor, "F P"], deep: Float[Tensor, "F P"], layout: Layout, num_anchors: Sequence[int]
    ) -> Bool[Tensor, "F P"]:
        """Mask of the rows most attended in a shallow layer, in each window, and in a deep one, of all others."""
        mask = layout.mask.to(shallow.device, non_blocking=True)
        window, num_windows = windows_of(layout)
        local = [int(v * (1 - self.global_share)) for v in num_anchors]
        each = on_device([v // n for v, n in zip(local, num_windows, strict=True)], mask.device)
        quota = each[:, None].expand(-1, 9)
        taken = take_by_quota(shallow, window.to(mask.device, non_blocking=True), quota, mask)
        rest = [v - n for v, n in zip(num_anchors, local, strict=True)]
        return taken | mask_of(top_indices(deep, rest, mask & ~taken), mask.shape[1])

    def within_frames(
        self,
        tokens: Float[Tensor, "F P C"],
        anchors: Bool[Tensor, "F P"],
        layout: Layout,
        together: Sequence[int],
        most: int,
    ) -> Float[Tensor, "F P C"]:
        """The rows with anchors updated, nine parts by transport and one by their nearest rows; others unchanged.

        No frame has more than `most` anchors. Frames of the same number in `together` end their iterations together.
        """
        mask = layout.mask.to(tokens.device, non_blocking=True)
        index = mask_indices(anchors, most)
        chosen, others = index >= 0, mask & ~anchors
        at = index.clamp(min=0)[:, :, None]
        centres = tokens.gather(1, at.expand(-1, -1, tokens.shape[2]))
        place = places_of(layout).to(tokens.device, non_blocking=True)
        cosine = cosine_similarity(tokens, centres)
        distance = torch.cdist(place, place.gather(1, at.expand(-1, -1, 2)))
        plan = self.plan(1 - cosine + DISTANCE * distance, others, chosen, on_device(together, tokens.device))
        if self.mass == "row":
            plan = by_row(plan)
        nearest = cosine.masked_fill(~chosen[:, None], -torch.inf).argmax(dim=2, keepdim=True)
        into = torch.zeros_like(plan).scatter(2, nearest, 1.0) * others[:, :, None]
        updated = (1 - NEAREST) * absorb(centres, plan, tokens) + NEAREST * absorb(centres, into, tokens)
        num_rows = tokens.shape[1]
        where = torch.where(chosen, index, num_rows)[:, :, None].expand_as(updated)
        return torch.nn.functional.pad(tokens, (0, 0, 0, 1)).scatter(1, where, updated)[:, :num_rows]

    def plan(
        self,
        cost: Float[Tensor, "F N M"],
        others: Bool[Tensor, "F N"],
        anchors: Bool[Tensor, "F M"],
        together: Int[Tensor, " F"] | None = None,
    ) -> Float[Tensor, "F N M"]:
        """Transport of the others, of one mass in all, to anchors of one mass in all."""
        rows, columns = (m / m.sum(dim=1, keepdim=True).clamp(min=1) for m in (others.float(), anchors.float()))
        if self.tolerance is None:
            return sinkhorn(cost, rows, columns, EPSILON)
        return sinkhorn_until(cost, rows, columns, EPSILON, self.tolerance, together=together)

    # -- between frames ----------------------------------------------------------------------------------------------

    def between_frames(
        self, tokens: Float[Tensor, "F N C"], kept: Bool[Tensor, "F N"], clips: Clips, frames: Units, view: View
    ) -> Reduction:
        """Of each clip the tokens kept of the first frame, those of later frames that differ, and updated anchors."""
        anchors, alone, into = self.transported(tokens, kept, clips)
        device, size, count = kept.device, (view.mask.shape[0], view.mask.shape[1]), kept.numel()
        slot = repeated_slots(kept, alone, frames.layout.mask.to(device, non_blocking=True), clips)
        place = torch.where(slot >= 0, slot, count).flatten()
        again = torch.zeros(count + 1, dtype=torch.bool, device=device).index_fill(0, place, True)
        values = torch.nn.functional.pad(tokens.flatten(0, 1), (0, 0, 0, 1)).index_copy(0, place, anchors.flatten(0, 1))

        def by_item(values: Tensor) -> Tensor:
            return ungroup(values, frames.index, frames.source_row, size)

        keep = by_item(alone | again[:count].view_as(kept))
        num_kept = keep.sum(dim=1).tolist()  # read back, as the width of the answer depends on it
        rank = by_item(emission(slot, clips, len(kept))).masked_fill(~keep, torch.iinfo(torch.long).max)
        order = torch.sort(rank, dim=1, stable=True).indices[:, : max(num_kept)]
        new = by_item(values[:count].view_as(tokens)).gather(1, order[:, :, None].expand(-1, -1, tokens.shape[2]))
        order = torch.where(keep.gather(1, order), order, -1)
        parent, number = parents(into, slot, clips), frames.index.to(device, non_blocking=True).flatten()
        source = by_item(torch.where(parent >= 0, number[parent], -1))
        source = torch.where(keep, torch.arange(size[1], device=device), source.masked_fill(~view.mask, -1))
        return Reduction(keep, tuple(num_kept), new.to(view.tokens.embeddings.dtype), "projected", order, source)

    def transported(
        self, tokens: Float[Tensor, "F N C"], kept: Bool[Tensor, "F N"], clips: Clips
    ) -> tuple[Float[Tensor, "S N C"], Bool[Tensor, "F N"], Int[Tensor, "F N"]]:
        """Anchors of each clip's first frame, updated by the later ones; tokens that stay as they are; for the others
        the place of the anchor that took most of them, -1 for none.
        """
        frame_at = pad_indices(clips, kept.device)  # [S, L]
        anchors, alive = tokens[frame_at[:, 0]], kept[frame_at[:, 0]]
        nowhere = len(kept)  # a frame for clips that have ended
        alone = torch.nn.functional.pad(kept, (0, 0, 0, 1))
        into = torch.full(alone.shape, -1, device=kept.device)
        for step in range(1, frame_at.shape[1]):
            frame = frame_at[:, step]
            others = tokens[frame.clamp(min=0)]
            there = kept[frame.clamp(min=0)] & (frame >= 0)[:, None]
            share = by_row(self.plan(change(others, anchors, there, alive, step), there, alive))
            most, nearest = share.max(dim=2)
            real = there | ~there.any(dim=1, keepdim=True)  # of a clip that has ended, anything
            least = quantile(most.double(), self.keep_ratio, real)
            apart = there & (most.double() < least[:, None])
            anchors = absorb(anchors, share * ~apart[:, :, None], others)
            where = torch.where(frame >= 0, frame, nowhere)
            alone = alone.index_copy(0, where, apart)
            into = into.index_copy(0, where, torch.where(there & ~apart, nearest, -1))
        return anchors, alone[:nowhere], into[:nowhere]

    def _deep_layer(self, info: ModelInfo) -> int:
        if self.deep_layer is not None:
            return self.deep_layer
        return whole_picture_layer(max(info.feature_layer - 1, 0), info)


def whole_picture_layer(layer: int, info: ModelInfo) -> int:
    """The layer nearest to one that attends to whole pictures, where others attend within windows."""
    return min(info.global_layers or (layer,), key=lambda n: (abs(n - layer), n))


@lru_cache(maxsize=256)
def budget_near(num_anchors: float, num_rows: int, num_windows: int, global_share: float) -> int:
    """The V, from 1 to all rows, that makes a number of anchors come nearest to one: windows get whole numbers."""

    def distance(v: int) -> float:
        return abs(v - int(v * (1 - global_share)) % num_windows - num_anchors)

    return min(range(1, num_rows + 1), key=distance)


def windows_of(layout: Layout) -> tuple[Int[Tensor, "F P"], list[int]]:
    """Number of the window, a third of each side, in which a row lies, on the host; and how many there are in each."""
    down, across = (torch.tensor(sides)[:, None] for sides in zip(*layout.grids, strict=True))
    window = 3 * (layout.row * 3 // down) + layout.column * 3 // across
    return torch.where(layout.mask, window, -1), [min(r, 3) * min(c, 3) for r, c in layout.grids]


def places_of(layout: Layout) -> Float[Tensor, "F P 2"]:
    """Row and column of each row in the unit square, on the host."""
    last = torch.tensor(layout.grids)[:, None] - 1
    return torch.stack([layout.row, layout.column], dim=2) / last.clamp(min=1)


def half_or_most(share: Float[Tensor, "F N"], mask: Bool[Tensor, "F N"]) -> Bool[Tensor, "F N"]:
    """Mask of tokens that are half anchors; in a frame without, those that come nearest to it."""
    share = share.masked_fill(~mask, 0.0)
    return mask & (share > 0) & (share >= share.amax(dim=1, keepdim=True).clamp(max=0.5))


def by_row(plan: Float[Tensor, "F N M"]) -> Float[Tensor, "F N M"]:
    """A plan of which each row sums to one, or to zero."""
    return plan / plan.sum(dim=2, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)


def change(
    others: Float[Tensor, "S N C"],
    anchors: Float[Tensor, "S M C"],
    there: Bool[Tensor, "S N"],
    alive: Bool[Tensor, "S M"],
    step: int,
) -> Float[Tensor, "S N M"]:
    """Cost of moving tokens `step` frames back: one minus the cosine, less the least of it, times a growing factor."""
    pairs = there[:, :, None] & alive[:, None, :]
    cosine = cosine_similarity(others, anchors).clamp(min=-1 + 1e-6, max=1 - 1e-6)
    highest = cosine.masked_fill(~pairs, -1.0).amax(dim=(1, 2), keepdim=True)
    return (highest - cosine) * (1 - math.exp(-(step**2) / (2 * SIGMA**2))) * pairs
