"""EVS: drop a video token that looks like the token at the same place in the frame before.

Paper    Bagrov et al., October 2025, "Efficient Video Sampling", arXiv:2510.14624
Acts     connector, once, on whole clips
Needs    the projected tokens of a clip's frames
Differs  a keep is the authors' 1 - q of a clip, as an exact fraction: floor(keep T n), where their int(T * n * (1 - q))
         loses a token to rounding for some q (0.9 of 10 tokens leaves 0). As there, the first frame stays whole however
         small the keep, and so do pictures, a clip of one frame among them. Similarity in float32. Equal ones: the
         earlier token. Positions are those of the full prompt, or counted anew where the model has one axis; the
         authors' own rule for text behind a clip is not followed. Ours: `reference_frame="last_kept"` compares with the
         last frame of which the place was kept, so that slow change is seen: first comes what changed by more than a
         threshold, as low as the count has room for, then the largest of the rest. `per_frame=True` divides what is
         left beside the first frame evenly over the others, so that a cut does not take it all
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Counts, divide, on_device
from ..core.cards import Card
from ..core.contracts import Allocation, Allocator, Scorer, keep_highest
from ..core.errors import LayoutError, MethodError
from ..core.layout import Layout
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import View
from ..ops.allocation import take_by_quota
from ..ops.similarity import cosine_similarity

REFERENCES = ("previous", "last_kept")
FIRST = 255.0  # score of what no frame precedes, as in the authors' code; what keeps it is the mask of `protect`


@register
@dataclass(frozen=True)
class EVS(Scorer, Allocator):
    reference_frame: str = "previous"  # the frame that a token is compared with; "last_kept" is ours
    per_frame: bool = False  # ours: the same number of tokens of every frame behind the first

    card = Card(
        title="EVS",
        paper="2510.14624",
        year=2025,
        stages=("connector",),
        needs=("frames",),
        count="adaptive",
        count_reason="the first frame of a clip stays whole however small the keep, and so do pictures",
        rounding="floor",
        rounding_source="the authors' int(T n (1 - q))",
        newlines="keep",
        unit="image",
        nearest="divprune",
    )

    def __post_init__(self) -> None:
        if self.reference_frame not in REFERENCES:
            raise MethodError(f"evs: reference_frame must be one of {REFERENCES}; got {self.reference_frame!r}.")

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return ("pictures and the first frame of every clip stay whole",)

    def reduce(self, view: View, counts: Counts) -> Reduction:
        first = first_frames(view.layout).sum(dim=1).tolist()
        retained = replace(counts, num_keep=tuple(map(max, counts.num_keep, first)))
        with view.clock("score"):
            is_previous = self.reference_frame == "previous"
            scores = self.score(view) if is_previous else self.score_since_kept(view, retained)
        with view.clock("select"):
            if self.per_frame:
                share = self.allocate(scores, view, retained)
                keep = take_by_quota(scores, share.group, share.quota, view.mask)
            else:
                keep = keep_highest(scores, retained, mask=view.mask, protected=self.protect(view))
        return Reduction(keep, retained.num_keep)

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """One minus the cosine with the token of the frame before; 255 where there is none."""
        places = frames_of_places(view.layout).to(view.device, non_blocking=True)
        frames, there = frames_at(view.tokens.embeddings, places), places >= 0
        change = dissimilarity(frames[:, :, 1:], frames[:, :, :-1]).masked_fill(~there[:, :, :-1], FIRST)
        return by_token(torch.nn.functional.pad(change, (1, 0), value=FIRST), places, view.mask)

    def score_since_kept(self, view: View, counts: Counts) -> Float[Tensor, "B V"]:
        """Change since the last kept frame of a token's place, by the least threshold that the count has room for."""
        places = frames_of_places(view.layout).to(view.device, non_blocking=True)
        first = first_frames(view.layout).sum(dim=1).tolist()
        room = [k - n for k, n in zip(counts.num_keep, first, strict=True)]
        frames, there = frames_at(view.tokens.embeddings, places), places >= 0
        return by_token(change_since_kept(frames, there, on_device(room, view.device)), places, view.mask)

    def protect(self, view: View) -> Bool[Tensor, "B V"]:
        """Tokens of first frames, and so all of a picture."""
        return first_frames(view.layout).to(view.device, non_blocking=True)

    def allocate(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Allocation:
        """First frames whole, as far as the count goes; the rest of it evenly over the other frames."""
        layout, quotas = view.layout, []
        group = torch.full_like(layout.frame, -1)
        for b, (count, keep) in enumerate(zip(layout.num_tokens, counts.num_keep, strict=True)):
            frame = torch.stack([layout.image[b, :count], layout.frame[b, :count]])
            frames, group[b, :count], sizes = frame.unique(dim=1, return_inverse=True, return_counts=True)
            first, others = ((sizes * leads).tolist() for leads in (frames[1] == 0, frames[1] > 0))
            whole = divide(min(keep, sum(first)), first)
            quotas.append([n + more for n, more in zip(whole, divide(keep - sum(whole), others), strict=True)])
        most = max(map(len, quotas), default=0)
        quota = on_device([n for row in quotas for n in [*row, *[0] * (most - len(row))]], view.device)
        return Allocation(group.to(view.device, non_blocking=True), quota.view(len(quotas), most))


def dissimilarity(tokens: Float[Tensor, "*N C"], others: Float[Tensor, "*N C"]) -> Float[Tensor, "*N"]:
    """One minus the cosine of two vectors each."""
    return 1 - torch.nn.functional.cosine_similarity(tokens, others, dim=-1, eps=1e-8)


def change_since_kept(
    frames: Float[Tensor, "B Q T C"], there: Bool[Tensor, "B Q T"], room: Int[Tensor, " B"]
) -> Float[Tensor, "B Q T"]:
    """For each place the change of each frame since the last kept one.

    A frame is kept where its change is above a threshold, found by halving: for each item about the least at which
    the places together need no more than `room` frames behind their first.
    """
    each = frames.flatten(0, 1)
    change = (1 - cosine_similarity(each, each)).unflatten(0, there.shape[:2])  # [B, Q, T, T]
    low, high = torch.full_like(room, -1, dtype=change.dtype), torch.full_like(room, 2, dtype=change.dtype)
    for _ in range(22):
        middle = (low + high) / 2
        fits = kept_above(change, there, middle)[1].sum(dim=(1, 2)) <= room
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return kept_above(change, there, high)[0]


def kept_above(
    change: Float[Tensor, "B Q T T"], there: Bool[Tensor, "B Q T"], threshold: Float[Tensor, " B"]
) -> tuple[Float[Tensor, "B Q T"], Bool[Tensor, "B Q T"]]:
    """The change of each frame since the last one whose change was above the threshold, and whether its own is."""
    since, above = torch.zeros_like(change[..., 0]), torch.zeros_like(there)
    reference = there.int().argmax(dim=2, keepdim=True)
    for t in range(1, there.shape[2]):
        since[:, :, t] = change[:, :, t].gather(2, reference)[:, :, 0]
        above[:, :, t] = (since[:, :, t] > threshold[:, None]) & there[:, :, t] & (reference[:, :, 0] < t)
        reference = torch.where(above[:, :, t : t + 1], t, reference)
    return since, above


def frames_at(tokens: Float[Tensor, "B V C"], places: Int[Tensor, "B Q T"]) -> Float[Tensor, "B Q T C"]:
    """The tokens of each place, frame by frame, in float32."""
    item = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    return tokens.float()[item, places.clamp(min=0)]


def by_token(
    values: Float[Tensor, "B Q T"], places: Int[Tensor, "B Q T"], mask: Bool[Tensor, "B V"]
) -> Float[Tensor, "B V"]:
    """Values of places and frames, back where their tokens are."""
    batch, num_tokens = mask.shape
    index = torch.where(places >= 0, places, num_tokens).flatten(1)
    return values.new_zeros(batch, num_tokens + 1).scatter(1, index, values.flatten(1))[:, :num_tokens]


def first_frames(layout: Layout) -> Bool[Tensor, "B V"]:
    """Mask, on the host, of the tokens of first frames and of pictures."""
    return layout.mask & (layout.frame == 0)


def frames_of_places(layout: Layout) -> Int[Tensor, "B Q T"]:
    """For each place of each image the tokens that stand there, frame by frame, on the host; -1 for none.

    Raises LayoutError unless clips are untouched, and MethodError where frames are shown one at a time.
    """
    found = []
    for b, (blocks, count) in enumerate(zip(layout.blocks, layout.num_tokens, strict=True)):
        whole = sum(block.num_tokens for block in blocks)
        if whole != count:
            raise LayoutError(f"evs needs whole clips; item {b} has {count} of {whole} tokens. Put evs first.")
        if blocks and blocks[0].frame > 0:
            raise MethodError("evs compares frames, but this scope shows them one at a time; use scope 'image'.")
        columns = (layout.image, layout.tile, layout.role, layout.row, layout.column)
        _, place = torch.stack([c[b, :count] for c in columns]).unique(dim=1, return_inverse=True)
        found.append((place, layout.frame[b, :count]))
    size = [max((int(t.max()) + 1 for t in tensors if len(t)), default=0) for tensors in zip(*found, strict=True)]
    out = torch.full((len(found), *size), -1)
    for row, (place, frame) in zip(out, found, strict=True):
        row[place, frame] = torch.arange(len(place))
    return out
