"""Bipartite matching: every second token is matched with the most similar of the others, and the best pairs merge."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .similarity import cosine_similarity


def match_halves(
    tokens: Float[Tensor, "B N C"], num_pairs: int
) -> tuple[Int[Tensor, "B {num_pairs}"], Int[Tensor, "B {num_pairs}"], Int[Tensor, "B L"]]:
    """Places of the tokens that go, of those that they go into, and of the tokens at even places that are left alone.

    A token at an even place is paired with the token at an odd place that is most similar by cosine; of all these pairs
    the `num_pairs` (0 to N // 2) most similar merge, earlier ones first among equals. Several may go into one token.
    The even ones that are left stand in order of falling similarity.

    >>> line = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.7, 0.7]]])
    >>> match_halves(line, 1)
    (tensor([[0]]), tensor([[1]]), tensor([[2]]))
    """
    best, partner = cosine_similarity(tokens[:, ::2], tokens[:, 1::2]).max(dim=2)
    order = torch.sort(best, dim=1, descending=True, stable=True).indices
    going, left = order.split([num_pairs, order.shape[1] - num_pairs], dim=1)
    return 2 * going, 2 * partner.gather(1, going) + 1, 2 * left


def merge_pairs(tokens: Float[Tensor, "B N C"], num_pairs: int) -> tuple[Float[Tensor, "B M C"], Int[Tensor, "B M"]]:
    """The N - num_pairs tokens after one round of `match_halves`, in float32, and the place of each.

    A token is the mean of those that went into it and itself. Even ones that are left stand in front of the odd ones.

    >>> merged, places = merge_pairs(torch.tensor([[[1.0], [3.0], [-1.0], [-2.0]]]), 2)
    >>> merged.flatten(), places
    (tensor([ 2.0000, -1.5000]), tensor([[1, 3]]))
    """
    batch, count, width = tokens.shape
    if num_pairs == 0:
        return tokens.float(), torch.arange(count, device=tokens.device).expand(batch, -1)
    going, into, left = match_halves(tokens, num_pairs)
    odd = torch.arange(1, count, 2, device=tokens.device).expand(batch, -1)
    share = (into[:, None, :] == odd[:, :, None]).float()  # [B, odd, going]; no scattered sum, which differs by run
    values = tokens.float()
    gone = values.gather(1, going[:, :, None].expand(-1, -1, width))
    means = (values[:, 1::2] + share @ gone) / (1 + share.sum(dim=2, keepdim=True))
    rest = values.gather(1, left[:, :, None].expand(-1, -1, width))
    return torch.cat([rest, means], dim=1), torch.cat([left, odd], dim=1)


def merge_to(tokens: Float[Tensor, "B N C"], num_left: int) -> tuple[Float[Tensor, "B M C"], Int[Tensor, "B M"]]:
    """Rounds of `merge_pairs`, each on what the last one left, until `num_left` (1 to N) tokens are there.

    A round forgets what its tokens were made of: they all weigh the same. The places given back are the first ones.

    >>> merge_to(torch.randn(2, 9, 4), 3)[0].shape
    torch.Size([2, 3, 4])
    """
    places = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
    out = tokens.float()
    while out.shape[1] > num_left:
        out, here = merge_pairs(out, min(out.shape[1] // 2, out.shape[1] - num_left))
        places = places.gather(1, here)
    return out, places
