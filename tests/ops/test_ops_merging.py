"""Merging against slow references: what is conserved, ragged centres, and what centres absorb."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessella.ops.merging import (
    absorb,
    merge_by_mass,
    merge_by_mean,
    merge_into_centres,
    nearest_centres,
    nearest_only,
    spaced_centres,
    takers_of,
    with_centres,
)

SIZES = st.lists(st.integers(1, 24), min_size=1, max_size=3)
SEEDS = st.integers(0, 999)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ragged(there: list[int]) -> Tensor:
    return torch.arange(max(there)) < torch.tensor(there)[:, None]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(0, 5), SEEDS)
def test_mass_and_what_it_carries_are_conserved(batch: int, count: int, num_targets: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens, mass = draw(seed, batch, count, 3), torch.rand(batch, count, generator=generator)
    mass[:, ::4] = 0.0
    target = torch.randint(-1, num_targets, (batch, count), generator=generator)
    merged, total = merge_by_mass(tokens, mass, target, num_targets)
    assigned = mass * (target >= 0)
    torch.testing.assert_close(total.sum(dim=1), assigned.sum(dim=1))
    carried = (merged * total[:, :, None]).sum(dim=1)
    torch.testing.assert_close(carried, (tokens * assigned[:, :, None]).sum(dim=1), rtol=1e-4, atol=1e-5)
    for b in range(batch):
        for t in range(num_targets):
            members = [i for i in range(count) if target[b, i] == t]
            weight = sum(float(mass[b, i]) for i in members)
            mean = sum((float(mass[b, i]) * tokens[b, i].double() for i in members), torch.zeros(3).double())
            torch.testing.assert_close(merged[b, t].double(), mean / weight if weight else mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        merge_by_mass(tokens, torch.ones(batch, count), target, num_targets)[0],
        merge_by_mean(tokens, target, num_targets),
    )


@given(SEEDS)
def test_the_order_of_tokens_does_not_matter_to_mass(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens, mass, target = draw(seed, 1, 15, 4), torch.rand(1, 15, generator=generator), torch.arange(15)[None] % 3
    other = torch.randperm(15, generator=generator)
    want = merge_by_mass(tokens, mass, target, 3)
    for ours, theirs in zip(merge_by_mass(tokens[:, other], mass[:, other], target[:, other], 3), want, strict=True):
        torch.testing.assert_close(ours, theirs)


@settings(max_examples=80, deadline=None)
@given(SIZES, st.booleans(), SEEDS, st.data())
def test_contextual_merging_equals_the_reference(
    there: list[int], has_class: bool, seed: int, data: st.DataObject
) -> None:
    """Centres, members and tokens of ragged items, each with counts of its own; padding holds loud values."""
    batch, most = len(there), max(there)
    mask = ragged(there)
    tokens, keys = draw(seed, batch, most, 3), draw(seed + 1, batch, most, 4)
    tokens[~mask], keys[~mask] = 50.0, 50.0
    spare = [data.draw(st.integers(0, n)) for n in there]  # patches that are not kept
    num = [data.draw(st.integers(0, max(0, s - has_class))) for s in spare]
    kept = torch.zeros_like(mask)
    for b, (n, s) in enumerate(zip(there, spare, strict=True)):
        kept[b, torch.randperm(n, generator=torch.Generator().manual_seed(seed + b))[s:]] = True
    num_kept = [n - s + c + int(has_class and s > c) for n, s, c in zip(there, spare, num, strict=True)]
    centres = spaced_centres(mask & ~kept, num)
    closed = torch.zeros(batch, most + 1, dtype=torch.bool).scatter(1, torch.where(centres < 0, most, centres), True)
    target = nearest_centres(keys, centres, mask & ~kept & ~closed[:, :most])
    order = with_centres(kept, centres, mask, num_kept, has_class)
    out = merge_into_centres(tokens, order, centres, target, num_kept, "encoder")
    assert out.keep.sum(dim=1).tolist() == num_kept
    assert out.embeddings is not None
    assert out.source is not None
    for b, n in enumerate(there):
        stay = [i for i in range(n) if kept[b, i]]
        rest = [i for i in range(n) if not kept[b, i]]
        chosen = rest[:: max(1, len(rest) // max(1, num[b]))][: num[b]]
        assert centres[b].tolist() == chosen + [-1] * (centres.shape[1] - len(chosen))
        unit = torch.nn.functional.normalize(keys[b].double(), dim=1)
        near = {i: chosen[int((unit[chosen] @ unit[i]).argmax())] for i in rest if i not in chosen} if chosen else {}
        first = [i for i in rest if i not in chosen][:has_class]
        line = [*first, *stay, *chosen]
        assert order[b].tolist() == line + [-1] * (order.shape[1] - len(line))
        for i in range(n):
            assert out.source[b, i] == (i if i in line else near.get(i, -1))
        for place, i in enumerate(line):
            members = [tokens[b, j].double() for j, c in near.items() if c == i]
            mean = sum(members, torch.zeros(3).double()) / max(1, len(members))
            torch.testing.assert_close(
                out.embeddings[b, place].double(), tokens[b, i].double() + mean, rtol=1e-4, atol=1e-5
            )
            assert i not in stay or torch.equal(out.embeddings[b, place], tokens[b, i])


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 4), st.integers(0, 6), SEEDS)
def test_absorbing_equals_the_reference(there: list[int], num_centres: int, num_nearest: int, seed: int) -> None:
    batch, most = len(there), max(there)
    mask, tokens = ragged(there), draw(seed, batch, most, 3)
    weight = draw(seed + 1, batch, most).exp() * mask
    centres = torch.full((batch, num_centres), -1)
    for b, n in enumerate(there):
        some = torch.randperm(n, generator=torch.Generator().manual_seed(seed + b))[:num_centres]
        centres[b, : len(some)] = some
    itself = centres[:, :, None] == torch.arange(most)
    closed = itself | (centres < 0)[:, :, None] | ~mask[:, None, :]
    given = draw(seed + 2, batch, num_centres, most).masked_fill(closed, -torch.inf)
    affinity = nearest_only(given, num_nearest)
    rest = mask & ~itself.any(dim=1)
    out = absorb(tokens, weight, centres, affinity > -torch.inf, rest)
    slots = torch.cat([centres, torch.full((batch, 1), -1)], dim=1)
    takers = takers_of(~rest, slots, affinity)
    assert out.shape == (batch, num_centres + 1, 3)
    for b, n in enumerate(there):
        near = {}
        for number, c in enumerate(i for i in centres[b].tolist() if i >= 0):
            others = sorted((i for i in range(n) if i != c), key=lambda i: (-float(given[b, number, i]), i))
            near[number] = others[:num_nearest]
            want = tokens[b, c].double() + sum(float(weight[b, i]) * tokens[b, i].double() for i in near[number])
            torch.testing.assert_close(out[b, number].double(), want, rtol=1e-4, atol=1e-5)
        left = [i for i in range(n) if rest[b, i]]
        want = sum((float(weight[b, i]) * tokens[b, i].double() for i in left), torch.zeros(3).double())
        torch.testing.assert_close(out[b, -1].double(), want, rtol=1e-4, atol=1e-5)
        for i in left:
            by = [number for number, members in near.items() if i in members]
            best = max(by, key=lambda number: float(given[b, number, i])) if by else -1
            assert takers[b, i] == (centres[b, best] if by else -1)
