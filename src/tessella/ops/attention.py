"""Attention probabilities from queries and keys, in float32, without keeping whole attention matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
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


def class_row(
    query: Float[Tensor, "B C"], own: Float[Tensor, "B C"], keys: Float[Tensor, "B V C"], mask: Bool[Tensor, "B V"]
) -> Float[Tensor, "B V"]:
    """Attention of a class token to each patch, of one head over all C channels; its `own` key takes the rest.

    >>> class_row(torch.zeros(1, 8), torch.zeros(1, 8), torch.zeros(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
    tensor([[0.2500, 0.2500, 0.2500]])
    """
    query = query.float()
    patches = (keys.float() @ query[:, :, None])[:, :, 0].masked_fill(~mask, -torch.inf)
    logits = torch.cat([(own.float() * query).sum(dim=1, keepdim=True), patches], dim=1)
    return (logits * query.shape[1] ** -0.5).softmax(dim=1)[:, 1:]


def attention_received(
    query: Float[Tensor, "B H Q D"],
    key: Float[Tensor, "B G N D"],
    scale: float,
    mask: Bool[Tensor, "B N"] | None = None,
    block: int | None = None,
) -> Float[Tensor, "B N"]:
    """Attention that each key receives: the mean over heads and over all (real) queries.

    With a `mask` queries are keys, and padded ones (False) neither ask nor receive; without one queries may be fewer.
    Heads are taken a few at a time, and where one head's weights are too many, its queries too (`block` at a time), so
    that at most 64 MiB of weights exist together, on a CPU 2 MiB.

    >>> attention_received(torch.zeros(2, 4, 5, 8), torch.zeros(2, 4, 5, 8), 1.0)[0]
    tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """
    total = torch.zeros(key.shape[0], key.shape[2], device=key.device)
    for _, weights in weights_in_blocks(query, key, scale, mask, block):
        total += weights.sum(dim=(1, 2))
    real: Tensor | int = query.shape[2] if mask is None else mask.sum(dim=1, keepdim=True).clamp(min=1)
    return total / (query.shape[1] * real)


def attention_from(
    query: Float[Tensor, "B H Q D"],
    key: Float[Tensor, "B G N D"],
    scale: float,
    asking: Int[Tensor, "B Q"],
    seen: Int[Tensor, "B N"],
    causal: bool = True,
    block: int | None = None,
) -> Float[Tensor, "B N"]:
    """Attention that each key receives of chosen queries: the mean over heads and over the (real) queries.

    `asking` and `seen` are the places of queries and keys in one sequence, -1 for padding; with `causal` a query sees
    keys up to its own place. All heads are taken of `block` queries at a time, by default as many as make 64 MiB of
    weights, on a CPU 2 MiB.

    >>> query, key, first_two = torch.zeros(1, 2, 2, 8), torch.zeros(1, 1, 3, 8), torch.tensor([[0, 1]])
    >>> attention_from(query, key, 1.0, first_two, torch.arange(3)[None])
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    batch, heads, num_queries, _ = query.shape
    elements = CPU_BLOCK_ELEMENTS if query.device.type == "cpu" else BLOCK_ELEMENTS
    block = block or max(1, elements // max(1, batch * heads * key.shape[2]))
    key, total = key.float(), torch.zeros(batch, key.shape[2], device=query.device)
    for start in range(0, num_queries, block):
        now = asking[:, start : start + block, None]
        pairs = (seen >= 0)[:, None, :] & (now >= 0)
        if causal:
            pairs = pairs & (seen[:, None, :] <= now)
        total += attention_rows(query[:, :, start : start + block], key, scale, pairs[:, None]).sum(dim=(1, 2))
    return total / (heads * (asking >= 0).sum(dim=1, keepdim=True).clamp(min=1))


def patch_attention(
    query: Float[Tensor, "B H N D"], key: Float[Tensor, "B G N D"], scale: float, first: int, block: int | None = None
) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P"]]:
    """Attention among the tokens from `first` on: what each receives from them and what each gives to them.

    Means over heads and over these P tokens, from one softmax over all N keys, in blocks as `attention_received`.

    >>> received, given = patch_attention(torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8), 1.0, first=1)
    >>> received[0], given[0]
    (tensor([0.2000, 0.2000, 0.2000, 0.2000]), tensor([0.2000, 0.2000, 0.2000, 0.2000]))
    """
    batch, heads, num_tokens, _ = query.shape
    patches = num_tokens - first
    received = torch.zeros(batch, patches, device=query.device)
    given = torch.zeros(batch, patches, device=query.device)
    for start, weights in weights_in_blocks(query[:, :, first:], key, scale, None, block):
        among = weights[..., first:]
        received += among.sum(dim=(1, 2))
        given[:, start : start + among.shape[2]] += among.sum(dim=(1, 3))
    return received / (heads * patches), given / (heads * patches)


def attention_from_chosen(
    query: Float[Tensor, "B H N D"],
    key: Float[Tensor, "B G N D"],
    scale: float,
    first: int,
    choose: Callable[[Float[Tensor, "B P"]], Int[Tensor, "B Q"]],
    total: bool = False,
) -> Float[Tensor, "B P"]:
    """Attention that each of the P tokens from `first` on receives of chosen ones of them; the softmax is over all N.

    `choose` is given what each receives of all of them, and answers with their numbers, padded with -1. The mean over
    heads and those chosen, or with `total` the sum over these; over all where none is chosen.

    >>> zeros = torch.zeros(1, 2, 4, 8)
    >>> attention_from_chosen(zeros, zeros, 1.0, 0, lambda received: torch.tensor([[0, 3, -1]]), total=True)
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    query, key = query[:, :, first:], key.float()
    received = attention_received(query, key, scale)[:, first:]
    chosen = choose(received)
    index = chosen.clamp(min=0)[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
    everywhere = torch.arange(key.shape[2], device=key.device).expand(len(key), -1)
    of_chosen = attention_from(query.gather(2, index), key, scale, chosen, everywhere, causal=False)
    number = (chosen >= 0).sum(dim=1, keepdim=True)
    mean = torch.where(number > 0, of_chosen[:, first:], received)
    return mean * torch.where(number > 0, number, received.shape[1]) if total else mean


def weights_in_blocks(
    query: Float[Tensor, "B H Q D"],
    key: Float[Tensor, "B G N D"],
    scale: float,
    mask: Bool[Tensor, "B N"] | None = None,
    block: int | None = None,
) -> Iterator[tuple[int, Float[Tensor, "B h q N"]]]:
    """Attention weights of all queries, some heads and `block` queries at a time, each with its first query.

    With a `mask` queries are keys, and padded ones neither ask nor receive.

    >>> [(start, tuple(w.shape)) for start, w in weights_in_blocks(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 1.0)]
    [(0, (1, 2, 3, 3))]
    """
    batch, heads, num_queries, _ = query.shape
    groups, num_keys = key.shape[1], key.shape[2]
    share = heads // groups  # query heads that read one head of the keys
    elements = max(1, (CPU_BLOCK_ELEMENTS if query.device.type == "cpu" else BLOCK_ELEMENTS) // (batch * share or 1))
    step = max(1, elements // max(1, num_queries * num_keys))
    block = block or max(1, elements // (step * max(1, num_keys)))
    query, key = query.float(), key.float()  # once, not in every block
    for group in range(0, groups, step):
        asking, asked = query[:, group * share : (group + step) * share], key[:, group : group + step]
        for start in range(0, num_queries, block):
            stop = start + block
            pairs = None if mask is None else mask[:, None, start:stop, None] & mask[:, None, None, :]
            yield start, attention_rows(asking[:, :, start:stop], asked, scale, pairs)
