"""Tokens of short clips whose first frame stands for the later ones: where they go on, and in which order.

Tokens of frames `[F, N]` are numbered through all frames; `clips` names the frames of each of S clips, in order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.budget import on_device
from .selection import pad_indices

Clips = Sequence[Sequence[int]]


def repeated_slots(
    kept: Bool[Tensor, "F N"], alone: Bool[Tensor, "F N"], mask: Bool[Tensor, "F N"], clips: Clips
) -> Int[Tensor, "S N"]:
    """The token whose slot each anchor of a clip is repeated in: merged ones first, then others that are dropped.

    `kept`: tokens that take part, `alone`: those that stay as they are, `mask`: those that are there. -1 where nothing
    is repeated: in a clip of one frame, and where no slot is left.

    Two anchors; of the second frame one token stays and two are merged, into whose slots they go:

    >>> kept = torch.tensor([[True, True, False], [True, True, True]])
    >>> alone = torch.tensor([[True, True, False], [False, True, False]])
    >>> repeated_slots(kept, alone, torch.ones(2, 3, dtype=torch.bool), [[0, 1]])
    tensor([[ 3,  5, -1]])
    """
    num_tokens, device = kept.shape[1], kept.device
    frame_at = pad_indices(clips, device)
    token = frame_at[:, :, None] * num_tokens + torch.arange(num_tokens, device=device)  # [S, L, N]
    state = torch.where(kept & ~alone, 0, torch.where(mask & ~kept, 1, 2))  # merged, dropped, taken
    state = state[frame_at.clamp(min=0)].masked_fill((frame_at < 0)[:, :, None], 2).flatten(1)
    rank = kept[frame_at[:, 0]].cumsum(dim=1) - 1
    slot = token.flatten(1).gather(1, state.sort(dim=1, stable=True).indices.gather(1, rank.clamp(min=0)))
    free = (state < 2).sum(dim=1) * on_device([int(len(c) > 1) for c in clips], device)
    return torch.where(kept[frame_at[:, 0]] & (rank < free[:, None]), slot, -1)


def emission(slot: Int[Tensor, "S N"], clips: Clips, num_frames: int) -> Int[Tensor, "F N"]:
    """A number for each token by which they follow each other: of each clip the first frame, later ones, updates.

    >>> emission(torch.tensor([[3, 5, -1]]), [[0, 1]], 2)
    tensor([[ 0,  1,  2],
            [12, 10, 13]])
    """
    num_tokens, device = slot.shape[1], slot.device
    within = torch.arange(num_tokens, device=device)
    frame = on_device([f for clip in clips for f in clip], device)
    before = on_device([3 * c + min(step, 1) for c, clip in enumerate(clips) for step in range(len(clip))], device)
    width = num_frames * num_tokens
    rank = torch.zeros(num_frames, num_tokens, dtype=torch.long, device=device)
    rank[frame] = (before * width)[:, None] + frame[:, None] * num_tokens + within
    updates = (3 * torch.arange(len(slot), device=device)[:, None] + 2) * width + within
    place = torch.where(slot >= 0, slot, width).flatten()
    rank = torch.nn.functional.pad(rank.flatten(), (0, 1)).index_copy(0, place, updates.flatten())
    return rank[:width].view(num_frames, num_tokens)


def parents(into: Int[Tensor, "F N"], slot: Int[Tensor, "S N"], clips: Clips) -> Int[Tensor, "F N"]:
    """The token that holds a merged one: the anchor that took most of it, where that is repeated, or where it was.

    `into` is that anchor's place in the first frame, -1 for none; `slot` where each is repeated.

    >>> parents(torch.tensor([[-1, -1, -1], [1, -1, 0]]), torch.tensor([[5, -1, -1]]), [[0, 1]])
    tensor([[-1, -1, -1],
            [ 1, -1,  5]])
    """
    owner = {f: (c, clip[0]) for c, clip in enumerate(clips) for f in clip}
    pairs = on_device([n for f in range(len(into)) for n in owner[f]], into.device).view(-1, 2)
    at = slot[pairs[:, 0]].gather(1, into.clamp(min=0))
    own = pairs[:, 1:] * into.shape[1] + into
    return torch.where(into >= 0, torch.where(at >= 0, at, own), -1)
