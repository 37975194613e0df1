"""The next token of each row, by the row's own settings and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Sampling


@dataclass(frozen=True)
class Defaults:
    """What a model's own generation settings say beside a request: tokens that end an answer, and penalties."""

    ends: frozenset[int]
    top_k: int = 0
    repetition_penalty: float = 1.0
    suppressed: tuple[int, ...] = ()


@dataclass(eq=False)
class Draw:
    """How one row's tokens are chosen. `written` are all tokens of the row so far, the prompt's too."""

    sampling: Sampling
    generator: torch.Generator
    written: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, sampling: Sampling, choice: int, prompt: Sequence[int]) -> Draw:
        """Choices of one seed differ, and are the same each time; without a seed nothing is."""
        generator = torch.Generator()
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed((sampling.seed * 1_000_003 + choice) % 2**63)
        return cls(sampling, generator, list(prompt))


@dataclass(frozen=True)
class Chosen:
    """A token, its log-probability, and the likeliest tokens at its place with theirs."""

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: Float[Tensor, "B C"], draws: Sequence[Draw], defaults: Defaults) -> list[Chosen]:
    """One token for each row. Log-probabilities are of the model's own distribution, before any setting."""
    adjusted = _adjust(logits, draws, defaults)
    tokens = adjusted.argmax(dim=-1)
    sampled = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if sampled:
        chosen = _sample(adjusted[sampled], [draws[row] for row in sampled], defaults.top_k)
        tokens = tokens.index_copy(0, torch.tensor(sampled, device=tokens.device), chosen)
    ids = tokens.tolist()
    asked = [row for row, draw in enumerate(draws) if draw.sampling.logprobs is not None]
    if not asked:
        return [Chosen(token) for token in ids]
    return _with_logprobs(logits, ids, draws, asked)


def _adjust(logits: Tensor, draws: Sequence[Draw], defaults: Defaults) -> Tensor:
    """Logits under the model's own penalties, as transformers applies them."""
    if defaults.suppressed:
        logits = logits.index_fill(1, torch.tensor(defaults.suppressed, device=logits.device), -torch.inf)
    if defaults.repetition_penalty == 1.0:
        return logits
    out = logits.clone()
    for row, draw in enumerate(draws):
        seen = torch.tensor(sorted(set(draw.written)), device=logits.device)
        scores = out[row, seen]
        penalty = defaults.repetition_penalty
        out[row, seen] = torch.where(scores < 0, scores * penalty, scores / penalty)
    return out


def _sample(logits: Tensor, draws: Sequence[Draw], top_k: int) -> Tensor:
    """A token for each row: temperature, then the likeliest `top_k`, then those that make up `top_p`."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=logits.device)[:, None]

    ordered, tokens = (logits / column([d.sampling.temperature for d in draws])).sort(dim=-1, descending=True)
    if top_k:
        ordered[:, top_k:] = -torch.inf
    shares = ordered.softmax(dim=-1)
    before = shares.cumsum(dim=-1) - shares
    shares = shares.masked_fill(before >= column([d.sampling.top_p for d in draws]), 0.0)
    shares[:, 0] = shares[:, 0].clamp(min=torch.finfo(shares.dtype).tiny)  # top_p 0 leaves the likeliest
    totals = shares.cumsum(dim=-1)
    numbers = torch.cat([torch.rand(1, generator=d.generator) for d in draws]).to(totals)
    places = torch.searchsorted(totals, numbers[:, None] * totals[:, -1:], right=True)
    return tokens.gather(1, places.clamp(max=totals.shape[1] - 1))[:, 0]


def _with_logprobs(logits: Tensor, ids: Sequence[int], draws: Sequence[Draw], asked: Sequence[int]) -> list[Chosen]:
    logprobs = logits[list(asked)].log_softmax(dim=-1)
    most = max(draws[row].sampling.logprobs or 0 for row in asked)
    values, tokens = logprobs.topk(min(most, logprobs.shape[1]), dim=-1)
    own = logprobs.gather(1, torch.tensor([[ids[row]] for row in asked], device=logits.device))[:, 0].tolist()
    out = [Chosen(token) for token in ids]
    for number, row in enumerate(asked):
        count = draws[row].sampling.logprobs or 0
        pairs = zip(tokens[number, :count].tolist(), values[number, :count].tolist(), strict=True)
        out[row] = Chosen(ids[row], own[number], tuple(pairs))
    return out
