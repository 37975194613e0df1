"""Each row's token is chosen by the row's own settings and numbers, whatever stands beside it."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from tessella.serve.contract import Sampling
from tessella.serve.local.sampling import Defaults, Draw, choose

NONE = Defaults(frozenset())
SHARES = torch.tensor([[0.5, 0.3, 0.15, 0.05]])


def draw(seed: int | None = 0, choice: int = 0, prompt: tuple[int, ...] = (), **settings: object) -> Draw:
    return Draw.of(Sampling(seed=seed, **settings), choice, prompt)  # type: ignore[arg-type]


def counted(defaults: Defaults = NONE, **settings: object) -> Counter[int]:
    """Tokens of 4,000 draws."""
    rows = [draw(seed, **settings) for seed in range(4000)]
    return Counter(c.token for c in choose(SHARES.log().expand(4000, -1), rows, defaults))


def test_without_temperature_the_likeliest_token_is_taken() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 4.0, 4.9]])
    assert [c.token for c in choose(logits, [draw(), draw()], NONE)] == [1, 0]


def test_tokens_come_as_often_as_their_shares_say() -> None:
    found = counted(temperature=1.0)
    assert [found[t] / 4000 for t in range(4)] == pytest.approx(SHARES[0].tolist(), abs=0.025)


def test_temperature_sharpens() -> None:
    found = counted(temperature=0.5)
    squares = SHARES[0] ** 2 / (SHARES[0] ** 2).sum()
    assert [found[t] / 4000 for t in range(4)] == pytest.approx(squares.tolist(), abs=0.025)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.0, {0}), (0.5, {0}), (0.51, {0, 1}), (0.8, {0, 1}), (0.96, {0, 1, 2, 3})]
)
def test_top_p_leaves_the_likeliest_that_make_it_up(top_p: float, kept: set[int]) -> None:
    assert set(counted(temperature=1.0, top_p=top_p)) == kept


def test_a_models_own_top_k_holds() -> None:
    assert set(counted(Defaults(frozenset(), top_k=2), temperature=1.0)) == {0, 1}


def test_a_seed_gives_the_same_tokens_in_any_company() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    alone, beside = draw(7, temperature=1.3), draw(7, temperature=1.3)
    others = [draw(8, temperature=0.7), draw()]
    first = [choose(logits[:1], [alone], NONE)[0].token for _ in range(20)]
    second = [choose(logits[[1, 0, 2]], [others[0], beside, others[1]], NONE)[1].token for _ in range(20)]
    assert first == second
    assert len(set(first)) > 3


def test_choices_of_one_seed_differ_and_so_do_rows_without_a_seed() -> None:
    logits = torch.zeros(1, 1000)
    a, b, c = (draw(3, choice, temperature=1.0) for choice in (0, 1, 0))
    tokens = [choose(logits, [one], NONE)[0].token for one in (a, b, c)]
    assert tokens[0] == tokens[2] != tokens[1]
    free = {choose(logits, [draw(None, temperature=1.0)], NONE)[0].token for _ in range(4)}
    assert len(free) > 1


def test_logprobs_are_the_models_own_before_all_settings() -> None:
    rows = [draw(0, temperature=2.0, top_p=0.1, logprobs=2), draw(), draw(logprobs=0)]
    chosen = choose(SHARES.log().expand(3, -1), rows, NONE)
    assert chosen[0].logprob == pytest.approx(math.log(0.5), abs=1e-6)
    assert [(t, round(math.exp(p), 4)) for t, p in chosen[0].top] == [(0, 0.5), (1, 0.3)]
    assert chosen[1].top == ()
    assert chosen[2].logprob == pytest.approx(math.log(0.5), abs=1e-6)
    assert chosen[2].top == ()


def test_a_models_repetition_penalty_is_that_of_transformers() -> None:
    logits = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    prompts = [(1, 3, 3, 5), (0, 2)]
    rows = [draw(prompt=p) for p in prompts]
    chosen = choose(logits, rows, Defaults(frozenset(), repetition_penalty=8.0))
    apply = RepetitionPenaltyLogitsProcessor(8.0)
    wanted = [int(apply(torch.tensor([p]), row[None]).argmax()) for p, row in zip(prompts, logits, strict=True)]
    assert [c.token for c in chosen] == wanted


def test_suppressed_tokens_are_never_written() -> None:
    assert choose(SHARES.log(), [draw()], Defaults(frozenset(), suppressed=(0, 1)))[0].token == 2
