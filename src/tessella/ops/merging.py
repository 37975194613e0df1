"""Merging tokens into chosen ones: by mean, by mass, into evenly spaced centres, and by absorbing the nearest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import on_device
from ..core.contracts import mask_of
from ..core.reduction import Reduction, Space
from .selection import mask_indices
from .similarity import cosine_similarity


def assignment_weights(target: Int[Tensor, "B N"], num_targets: int) -> Float[Tensor, "B {num_targets} N"]:
    """Share of each token in the target that it is assigned to; -1 is assigned to none. Rows sum to one, or to zero.

    >>> assignment_weights(torch.tensor([[0, 0, -1, 1]]), 3)
    tensor([[[0.5000, 0.5000, 0.0000, 0.0000],
             [0.0000, 0.0000, 0.0000, 1.0000],
             [0.0000, 0.0000, 0.0000, 0.0000]]])
    """
    member = _members(target, num_targets)
    return member / member.sum(dim=2, keepdim=True).clamp(min=1)


def merge_by_mean(
    tokens: Float[Tensor, "B N C"], target: Int[Tensor, "B N"], num_targets: int
) -> Float[Tensor, "B {num_targets} C"]:
    """Mean of the tokens assigned to each target, in float32; zero for a target without tokens.

    A matrix product and no scattered addition, so that a GPU gives the same bits each time.

    >>> merge_by_mean(torch.tensor([[[1.0], [3.0], [9.0], [5.0]]]), torch.tensor([[0, 0, -1, 1]]), 2)
    tensor([[[2.],
             [5.]]])
    """
    return assignment_weights(target, num_targets) @ tokens.float()


def merge_by_mass(
    tokens: Float[Tensor, "B N C"], mass: Float[Tensor, "B N"], target: Int[Tensor, "B N"], num_targets: int
) -> tuple[Float[Tensor, "B {num_targets} C"], Float[Tensor, "B {num_targets}"]]:
    """Mean of the tokens assigned to each target, weighted by their mass >= 0, and the mass of each target, in float32.

    Of what is assigned nothing is lost: masses add up, and so do tokens times their mass. No mass gives a zero.

    >>> tokens, mass = torch.tensor([[[1.0], [4.0], [9.0]]]), torch.tensor([[2.0, 1.0, 1.0]])
    >>> merge_by_mass(tokens, mass, torch.tensor([[0, 0, -1]]), 1)
    (tensor([[[2.]]]), tensor([[3.]]))
    """
    weights = _members(target, num_targets) * mass.float()[:, None, :]
    total = weights.sum(dim=2)
    return weights @ tokens.float() / torch.where(total > 0, total, 1.0)[:, :, None], total


def spaced_centres(rest: Bool[Tensor, "B N"], num_centres: Sequence[int]) -> Int[Tensor, "B M"]:
    """Of the R tokens in `rest` every `max(1, R // num_centres[b])`-th from the first on, padded with -1.

    >>> spaced_centres(torch.tensor([[True, False, True, True, True, True]]), (2,))
    tensor([[0, 3]])
    """
    wanted = on_device(num_centres, rest.device)[:, None]
    step = (rest.sum(dim=1, keepdim=True) // wanted.clamp(min=1)).clamp(min=1)
    place = rest.cumsum(dim=1) - 1
    chosen = rest & (place % step == 0) & (place // step < wanted)
    return mask_indices(chosen, max(num_centres, default=0))


def nearest_centres(
    vectors: Float[Tensor, "B N D"], centres: Int[Tensor, "B M"], members: Bool[Tensor, "B N"]
) -> Int[Tensor, "B N"]:
    """Number of the centre most similar by cosine, the first among equals, for each of `members`; -1 for all others.

    Where an item has no centre, it is -1 for all.

    >>> vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [0.1, 3.0]]])
    >>> nearest_centres(vectors, torch.tensor([[0, 1]]), torch.tensor([[False, False, True, True]]))
    tensor([[-1, -1,  0,  1]])
    """
    if centres.shape[1] == 0:
        return torch.full_like(members, -1, dtype=torch.long)
    similarity = cosine_similarity(vectors, vectors.gather(1, across(centres, vectors)))
    similarity = similarity.masked_fill((centres < 0)[:, None, :], -torch.inf)
    return torch.where(members & (centres[:, :1] >= 0), similarity.argmax(dim=2), -1)


def add_to_centres(
    tokens: Float[Tensor, "B N C"], centres: Int[Tensor, "B M"], target: Int[Tensor, "B N"]
) -> Float[Tensor, "B N C"]:
    """All tokens in float32, of which centres have the mean of their members added: a sum, no average of both.

    >>> add_to_centres(torch.tensor([[[1.0], [3.0], [5.0]]]), torch.tensor([[0]]), torch.tensor([[-1, 0, 0]]))
    tensor([[[5.],
             [3.],
             [5.]]])
    """
    mean = merge_by_mean(tokens, target, centres.shape[1])  # of a centre that is padding: zero
    return tokens.float().scatter_add(1, across(centres, tokens), mean)


def parents_of(
    keep: Bool[Tensor, "B N"], centres: Int[Tensor, "B M"], target: Int[Tensor, "B N"]
) -> Int[Tensor, "B N"]:
    """Token in which each token went on: itself if it is kept, its centre, or -1.

    >>> parents_of(torch.tensor([[True, False, False]]), torch.tensor([[0]]), torch.tensor([[-1, 0, -1]]))
    tensor([[ 0,  0, -1]])
    """
    none = torch.full((len(keep), 1), -1, dtype=torch.long, device=keep.device)
    parent = torch.cat([centres, none], dim=1).gather(1, torch.where(target < 0, centres.shape[1], target))
    return torch.where(keep, torch.arange(keep.shape[1], device=keep.device), parent)


def with_centres(
    kept: Bool[Tensor, "B N"],
    centres: Int[Tensor, "B M"],
    mask: Bool[Tensor, "B N"],
    num_kept: Sequence[int],
    has_class: bool = False,
) -> Int[Tensor, "B K"]:
    """The sequence of kept tokens followed by the centres, padded with -1; `num_kept[b]` counts both.

    With `has_class` a class token comes first, in the slot of the first token that is neither; it is counted too.

    >>> mask, kept = torch.ones(1, 5, dtype=torch.bool), torch.tensor([[False, False, True, False, False]])
    >>> with_centres(kept, torch.tensor([[0]]), mask, (3,), has_class=True)
    tensor([[1, 2, 0]])
    """
    most = max(num_kept, default=0)
    parts = [mask_indices(kept, most), centres]
    if has_class:
        dropped = mask & ~kept & ~mask_of(centres, mask.shape[1])
        any_kept = on_device(num_kept, mask.device)[:, None] > 0
        parts.insert(0, torch.where(any_kept, mask_indices(dropped, 1), -1))
    return in_sequence(*parts, most=most)


def merge_into_centres(
    tokens: Float[Tensor, "B N C"],
    order: Int[Tensor, "B K"],
    centres: Int[Tensor, "B M"],
    target: Int[Tensor, "B N"],
    num_kept: Sequence[int],
    space: Space,
) -> Reduction:
    """The tokens of a sequence `order`, whose centres have the mean of their members added.

    >>> tokens, target = torch.tensor([[[1.0], [3.0], [5.0]]]), torch.tensor([[-1, -1, 0]])
    >>> merge_into_centres(tokens, torch.tensor([[1, 0]]), torch.tensor([[0]]), target, (2,), "encoder").embeddings
    tensor([[[3.],
             [6.]]])
    """
    keep = mask_of(order, tokens.shape[1])
    new = add_to_centres(tokens, centres, target).gather(1, across(order, tokens)).to(tokens.dtype)
    return Reduction(keep, tuple(num_kept), new, space, order, parents_of(keep, centres, target))


def nearest_only(affinity: Float[Tensor, "B M N"], num_nearest: int) -> Float[Tensor, "B M N"]:
    """The `num_nearest` highest affinities of each row, earlier ones among equals; -inf in place of all others.

    >>> nearest_only(torch.tensor([[[0.1, 0.9, 0.9, 0.9]]]), 2)
    tensor([[[  -inf, 0.9000, 0.9000,   -inf]]])
    """
    beyond = torch.sort(affinity, dim=2, descending=True, stable=True).indices[:, :, num_nearest:]
    return affinity.scatter(2, beyond, -torch.inf)


def absorb(
    tokens: Float[Tensor, "B N C"],
    weight: Float[Tensor, "B N"],
    centres: Int[Tensor, "B M"],
    taken: Bool[Tensor, "B M N"],
    rest: Bool[Tensor, "B N"],
) -> Float[Tensor, "B S C"]:
    """Each centre plus the weighted sum of the tokens it has taken, and last (S = M + 1) that of `rest`, in float32.

    Weights need not sum to one. Centres take nothing of themselves; a centre that is padding stands for nothing.

    >>> tokens, weight = torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[9.0, 0.5, 0.25]])
    >>> taken = torch.tensor([[[False, True, False]]])
    >>> absorb(tokens, weight, torch.tensor([[0]]), taken, torch.tensor([[False, True, True]]))
    tensor([[[2.],
             [2.]]])
    """
    itself = centres[:, :, None] == torch.arange(tokens.shape[1], device=tokens.device)
    shares = (taken * weight[:, None, :]).masked_fill(itself, 1.0)
    return torch.cat([shares, (rest * weight)[:, None, :]], dim=1) @ tokens.float()


def takers_of(
    keep: Bool[Tensor, "B N"], slots: Int[Tensor, "B S"], affinity: Float[Tensor, "B M N"]
) -> Int[Tensor, "B N"]:
    """Token in which each token went on: itself if it is kept, else the slot of the centre of highest affinity to it.

    Affinity is -inf where a centre has not taken a token; what none has taken goes to the last of `slots` (S = M + 1).

    >>> affinity = torch.tensor([[[-torch.inf, 0.5, -torch.inf]]])
    >>> takers_of(torch.tensor([[True, False, False]]), torch.tensor([[0, 2]]), affinity)
    tensor([[0, 0, 2]])
    """
    best, centre = torch.nn.functional.pad(affinity, (0, 0, 0, 1), value=-torch.inf).max(dim=1)
    into = torch.where(best > -torch.inf, slots.gather(1, centre), slots[:, -1:])
    return torch.where(keep, torch.arange(keep.shape[1], device=keep.device), into)


def across(index: Int[Tensor, "B K"], like: Float[Tensor, "B N C"]) -> Int[Tensor, "B K C"]:
    """Token indices for every channel, to gather by or to scatter to; padding names token 0.

    >>> across(torch.tensor([[1, -1]]), torch.zeros(1, 3, 2))
    tensor([[[1, 1],
             [0, 0]]])
    """
    return index.clamp(min=0)[:, :, None].expand(-1, -1, like.shape[2])


def in_sequence(*parts: Int[Tensor, "B _"], most: int) -> Int[Tensor, "B {most}"]:
    """Lists of indices, each padded with -1, one behind the other and padded at the end only, `most` columns wide.

    >>> in_sequence(torch.tensor([[4, -1], [1, 2]]), torch.tensor([[7], [-1]]), most=3)
    tensor([[ 4,  7, -1],
            [ 1,  2, -1]])
    """
    joined = torch.cat(parts, dim=1)
    padding_last = torch.sort((joined < 0).to(torch.int8), dim=1, stable=True).indices
    return joined.gather(1, padding_last)[:, :most]


def _members(target: Int[Tensor, "B N"], num_targets: int) -> Float[Tensor, "B {num_targets} N"]:
    """One where a token is assigned to a target."""
    return (target[:, None, :] == torch.arange(num_targets, device=target.device)[:, None]).float()
