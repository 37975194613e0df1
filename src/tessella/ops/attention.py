"""Attention probabilities from queries and keys, in float32, without keeping whole attention matrices."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# attention weights alive at once in `attention_received`: 64 MiB of float32, on a CPU 2 MiB, which stay in its cache
BLOCK_ELEMENTS, CPU_BLOCK_ELEMENTS = 2**24, 2**19


def attention_rows(
    query: Float[Tensor, "B H Q D"],
    key: Float[Tensor, "B G N D"],
    scale: float,
    mask: Bool[Tensor, "#B #H #Q #N"] | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "B H Q N"]:
    """Softmax of `scale * query . key` over the keys that `mask` allows (True = attend); H is a multiple of G.

    Head h of the queries reads head h // (H / G) of the keys. A row that may attend to nothing is all zeros. With
    `softcap` c a logit x becomes c tanh(x / c).

    >>> attention_rows(torch.zeros(1, 4, 1, 8), torch.zeros(1, 2, 5, 8), 8**-0.5)[0, 0]
    tensor([[0.2000, 0.2000, 0.2000, 0.2000, 0.2000]])
    """
    batch, heads, queries, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    folded = (query.float() * scale).reshape(batch, groups, heads // groups * queries, width)
    logits = (folded @ key.float().transpose(2, 3)).reshape(batch, heads, queries, keys)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is None:
        return logits.softmax(dim=3)
    weights = logits.masked_fill(~mask, torch.finfo(torch.float32).min).softmax(dim=3)
    return weights * mask  # a row without any key would be uniform


def attention_received(
    query: Float[Tensor, "B H N D"],
    key: Float[Tensor, "B G N D"],
    scale: float,
    mask: Bool[Tensor, "B N"] | None = None,
    block: int | None = None,
) -> Float[Tensor, "B N"]:
    """Attention that each key receives: the mean over heads and over all (real) queries.

    Heads are taken a few at a time, and where one head's weights are too many, its queries too (`block` at a time), so
    that at most 64 MiB of weights exist together, on a CPU 2 MiB. Padded tokens (`mask` False) neither ask nor receive.

    >>> attention_received(torch.zeros(2, 4, 5, 8), torch.zeros(2, 4, 5, 8), 1.0)[0]
    tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """
    batch, heads, num_tokens, _ = query.shape
    groups = key.shape[1]
    share = heads // groups  # query heads that read one head of the keys
    elements = max(1, (CPU_BLOCK_ELEMENTS if query.device.type == "cpu" else BLOCK_ELEMENTS) // (batch * share or 1))
    step = max(1, elements // max(1, num_tokens**2))
    block = block or max(1, elements // (step * max(1, num_tokens)))
    query, key = query.float(), key.float()  # once, not in every block
    total = torch.zeros(batch, num_tokens, device=query.device)
    for group in range(0, groups, step):
        asking, asked = query[:, group * share : (group + step) * share], key[:, group : group + step]
        for start in range(0, num_tokens, block):
            stop = start + block
            pairs = None if mask is None else mask[:, None, start:stop, None] & mask[:, None, None, :]
            total += attention_rows(asking[:, :, start:stop], asked, scale, pairs).sum(dim=(1, 2))
    real: Tensor | int = num_tokens if mask is None else mask.sum(dim=1, keepdim=True).clamp(min=1)
    return total / (heads * real)
