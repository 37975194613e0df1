"""Where the tokens of a sequence stand: text, the last one, all real ones, and the question behind an image."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from .sequence import Segment

_FAR = 2**62  # behind every place


def real_places(segment: Segment) -> Int[Tensor, "R S"]:
    """Places of each row's real tokens, padded with -1 at the end."""
    here = torch.arange(segment.length, device=segment.places.device).expand(len(segment.places), -1)
    if segment.valid is None:
        return here
    place = torch.where(segment.valid, here, segment.length).sort(dim=1).values
    return torch.where(place < segment.length, place, -1)


def last_places(segment: Segment) -> Int[Tensor, "R 1"]:
    """Place of each batch row's last real token."""
    last = torch.full((len(segment.places), 1), segment.length - 1, device=segment.places.device)
    if segment.valid is None:
        return last
    here = torch.arange(segment.length, device=segment.places.device)
    return torch.where(segment.valid, here, -1).amax(dim=1, keepdim=True)


def text_places(segment: Segment) -> Int[Tensor, "R T"]:
    """Places of each row's real text tokens, padded with -1 at the end."""
    batch, length = segment.places.shape
    text = torch.ones(batch, length + 1, dtype=torch.bool, device=segment.places.device)
    text.scatter_(1, torch.where(segment.visual >= 0, segment.visual, length), False)
    text = text[:, :length] if segment.valid is None else text[:, :length] & segment.valid
    order = torch.sort((~text).to(torch.int8), dim=1, stable=True).indices[:, : length - min(segment.num_visual)]
    return torch.where(text.gather(1, order), order, -1)


def question_of(slots: Int[Tensor, " V"], last: int) -> tuple[int, int]:
    """Between which places the text behind an image stands, whose last token is at `last`.

    Images that follow each other without text share the text behind the last of them.
    """
    later = slots[slots >= last]
    gaps = (later[1:] - later[:-1] > 1).nonzero()
    if len(gaps) == 0:
        return int(later[-1]), _FAR
    return int(later[gaps[0, 0]]), int(later[gaps[0, 0] + 1])
