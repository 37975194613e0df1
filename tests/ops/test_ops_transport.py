"""Sinkhorn's iterations against the POT library, slow loops and each other, on ragged batches."""

from __future__ import annotations

import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.ops.transport import absorb, sinkhorn, sinkhorn_until

sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=3)
LOUD = 30.0


def masses(counts: list[int], even: bool = False) -> Tensor:
    """Masses that sum to one for each item, zero in the padding."""
    out = torch.zeros(len(counts), max(counts))
    for row, count in zip(out, counts, strict=True):
        row[:count] = 1 / count if even else torch.rand(count).add(0.1)
        row /= row.sum()
    return out


def problem(shapes: list[tuple[int, int]], even: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = masses([n for n, _ in shapes], even), masses([m for _, m in shapes], even)
    cost = torch.full((len(shapes), rows.shape[1], columns.shape[1]), LOUD)
    for item, (n, m) in zip(cost, shapes, strict=True):
        item[:n, :m] = torch.rand(n, m)
    return cost, rows, columns


def stopped_by_hand(
    cost: Tensor, rows: Tensor, columns: Tensor, epsilon: float, tolerance: float, iterations: int
) -> tuple[Tensor, int]:
    """The plan of matrices [B, N, M] that stop together, in float64, and the iterations that it took."""
    kernel = (-cost.double() / epsilon).exp()
    u, v = rows.double(), columns.double()
    r, c = torch.ones_like(u), torch.ones_like(v)
    number, change = 0, torch.tensor(torch.inf)
    while number < iterations and change >= tolerance:
        number += 1
        before, r = r, u / torch.einsum("bnm,bm->bn", kernel, c)
        c = v / torch.einsum("bnm,bn->bm", kernel, r)
        change = (r - before).abs().mean()
    return torch.einsum("bn,bnm,bm->bnm", r, kernel, c), number


# -- the log domain --------------------------------------------------------------------------------------------------


@given(shapes=sizes, epsilon=st.sampled_from([0.05, 0.1, 1.0]))
def test_sinkhorn_equals_pot(shapes: list[tuple[int, int]], epsilon: float) -> None:
    cost, rows, columns = problem(shapes)
    plan = sinkhorn(cost.double(), rows.double(), columns.double(), epsilon, iterations=400)
    for b, (n, m) in enumerate(shapes):
        a, w = rows[b, :n].double(), columns[b, :m].double()
        want = ot.sinkhorn(
            (a / a.sum()).numpy(), (w / w.sum()).numpy(), cost[b, :n, :m].double().numpy(), epsilon,
            method="sinkhorn_log", numItermax=400, stopThr=0, warn=False,
        )  # fmt: skip
        torch.testing.assert_close(plan[b, :n, :m], torch.from_numpy(want), rtol=1e-4, atol=1e-7)


@given(shapes=sizes)
def test_plan_holds_the_masses_and_nothing_in_the_padding(shapes: list[tuple[int, int]]) -> None:
    cost, rows, columns = problem(shapes)
    plan = sinkhorn(cost, rows, columns, epsilon=0.2, iterations=200)
    torch.testing.assert_close(plan.sum(dim=1), columns)
    torch.testing.assert_close(plan.sum(dim=2), rows, rtol=1e-3, atol=1e-4)
    assert (plan[rows == 0] == 0).all()
    assert (plan.transpose(1, 2)[columns == 0] == 0).all()


def test_costs_beyond_the_range_of_an_exponential_are_moved_at_least_cost() -> None:
    cost = torch.tensor([[[300.0, 500.0], [500.0, 300.0]]])
    half = torch.full((1, 2), 0.5)
    assert sinkhorn(cost, half, half, epsilon=0.1).tolist() == [[[0.5, 0.0], [0.0, 0.5]]]


@pytest.mark.parametrize("solve", [sinkhorn, lambda *a: sinkhorn_until(*a, tolerance=1e-9)])
def test_an_item_without_mass_has_a_plan_of_zeros_beside_another(solve: object) -> None:
    cost, rows, columns = problem([(3, 2), (2, 2)])
    columns[1] = 0
    plan = solve(cost, rows, columns, 0.3)  # type: ignore[operator]
    assert (plan[1] == 0).all()
    torch.testing.assert_close(plan[0].sum(dim=0), columns[0])


# -- with a stopping rule --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 0.3])
def test_each_item_stops_where_it_would_alone(tolerance: float) -> None:
    shapes = [(1, 1), (6, 2), (2, 6), (5, 5)]
    cost, rows, columns = problem(shapes, even=True)
    plan = sinkhorn_until(cost, rows, columns, 0.1, tolerance)
    taken = set()
    for b, (n, m) in enumerate(shapes):
        alone = (cost[b : b + 1, :n, :m], rows[b : b + 1, :n], columns[b : b + 1, :m])
        want, number = stopped_by_hand(*alone, 0.1, tolerance, 100)
        taken.add(number)
        torch.testing.assert_close(plan[b, :n, :m].double(), want[0], rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(sinkhorn_until(*alone, 0.1, tolerance)[0], plan[b, :n, :m])
    assert len(taken) > 1, "all items stop at once: the test shows nothing"


def test_items_stop_together_where_they_are_told_to() -> None:
    cost, rows, columns = problem([(4, 3), (4, 3), (4, 3)], even=True)
    cost[1] *= 0.01  # settles at once
    together = torch.tensor([7, 7, 2])
    plan = sinkhorn_until(cost, rows, columns, 0.05, 1e-3, together=together)
    joint, number = stopped_by_hand(cost[:2], rows[:2], columns[:2], 0.05, 1e-3, 100)
    _, soon = stopped_by_hand(cost[1:2], rows[1:2], columns[1:2], 0.05, 1e-3, 100)
    assert soon < number, "the second item does not wait for the first"
    torch.testing.assert_close(plan[:2].double(), joint, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(plan[2:], sinkhorn_until(cost[2:], rows[2:], columns[2:], 0.05, 1e-3))


def test_both_solvers_agree_where_neither_stops_early() -> None:
    cost, rows, columns = problem([(5, 3), (2, 4)])
    one = sinkhorn_until(cost, rows, columns, 0.1, tolerance=0.0, iterations=60)
    torch.testing.assert_close(one, sinkhorn(cost, rows, columns, 0.1, iterations=60))


def test_permuted_tokens_give_a_permuted_plan() -> None:
    cost, rows, columns = problem([(6, 4)])
    order = torch.randperm(6)
    plan = sinkhorn_until(cost, rows, columns, 0.1, 1e-2)
    moved = sinkhorn_until(cost[:, order], rows[:, order], columns, 0.1, 1e-2)
    torch.testing.assert_close(moved, plan[:, order])


# -- what arrives ----------------------------------------------------------------------------------------------------


@given(shapes=sizes)
def test_absorbing_keeps_the_weighted_mean(shapes: list[tuple[int, int]]) -> None:
    _, rows, columns = problem(shapes)
    weights = torch.rand(len(shapes), rows.shape[1], columns.shape[1]) * (rows > 0)[:, :, None]
    tokens, others = torch.randn(*columns.shape, 3), torch.randn(*rows.shape, 3)
    got = absorb(tokens, weights, others)
    for b in range(len(shapes)):
        for j in range(columns.shape[1]):
            total = tokens[b, j] + sum(weights[b, i, j] * others[b, i] for i in range(rows.shape[1]))
            torch.testing.assert_close(got[b, j], total / (1 + weights[b, :, j].sum()))
