"""Attention rows and attention received against loops over every head and query, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.ops import attention
from tessella.ops.attention import attention_received, attention_rows

sizes = st.tuples(*[st.integers(1, n) for n in (2, 3, 2, 6, 9, 5)])  # B, G, H / G, Q, N, D


def reference_rows(query: Tensor, key: Tensor, scale: float, mask: Tensor) -> Tensor:
    """One head and query at a time; keys that are not allowed are left out of the sum."""
    batch, heads, queries, _ = query.shape
    out = torch.zeros(batch, heads, queries, key.shape[2], dtype=torch.float64)
    share = heads // key.shape[1]
    for b in range(batch):
        for h in range(heads):
            for q in range(queries):
                seen = mask[b, h, q].nonzero()[:, 0]
                logits = key[b, h // share, seen].double() @ query[b, h, q].double() * scale
                out[b, h, q, seen] = logits.softmax(dim=0)
    return out


@given(sizes=sizes, seed=st.integers(0, 99))
def test_rows_equal_the_reference(sizes: tuple[int, ...], seed: int) -> None:
    b, g, share, q, n, d = sizes
    gen = torch.Generator().manual_seed(seed)
    query, key = torch.randn(b, g * share, q, d, generator=gen), torch.randn(b, g, n, d, generator=gen)
    mask = torch.rand(b, g * share, q, n, generator=gen) < 0.6  # some rows see nothing
    rows = attention_rows(query, key, 0.7, mask)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.double(), reference_rows(query, key, 0.7, mask), rtol=1e-5, atol=1e-6)
    every = torch.ones_like(mask)
    torch.testing.assert_close(
        attention_rows(query, key, 0.7).double(), reference_rows(query, key, 0.7, every), rtol=1e-5, atol=1e-6
    )


@given(sizes=sizes, seed=st.integers(0, 99), block=st.integers(1, 11))
def test_received_equals_the_reference(sizes: tuple[int, ...], seed: int, block: int) -> None:
    b, g, share, _, n, d = sizes
    gen = torch.Generator().manual_seed(seed)
    query, key = torch.randn(b, g * share, n, d, generator=gen), torch.randn(b, g, n, d, generator=gen)
    counts = torch.randint(1, n + 1, (b,), generator=gen)
    mask = torch.arange(n) < counts[:, None]
    pairs = (mask[:, None, :, None] & mask[:, None, None, :]).expand(-1, g * share, -1, -1)
    whole = reference_rows(query, key, 0.5, pairs)
    expected = whole.sum(dim=(1, 2)) / (g * share * counts[:, None])
    received = attention_received(query, key, 0.5, mask, block=block)
    torch.testing.assert_close(received.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(received.sum(dim=1), torch.ones(b))


def test_permuting_tokens_permutes_what_they_receive() -> None:
    query, key, order = torch.randn(2, 4, 13, 6), torch.randn(2, 2, 13, 6), torch.randperm(13)
    permuted = attention_received(query[:, :, order], key[:, :, order], 0.4)
    torch.testing.assert_close(permuted, attention_received(query, key, 0.4)[:, order])


def test_a_row_without_keys_is_zero() -> None:
    rows = attention_rows(torch.randn(1, 2, 1, 4), torch.randn(1, 2, 3, 4), 1.0, torch.zeros(1, 1, 1, 3).bool())
    assert torch.equal(rows, torch.zeros(1, 2, 1, 3))


def test_bfloat16_is_computed_in_float32() -> None:
    query, key = torch.randn(1, 2, 3, 8).bfloat16(), torch.randn(1, 2, 7, 8).bfloat16()
    assert torch.equal(attention_rows(query, key, 0.3), attention_rows(query.float(), key.float(), 0.3))


def test_received_never_holds_all_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original = attention.attention_rows

    def watched(*args: object) -> Tensor:
        nonlocal largest
        rows = original(*args)  # type: ignore[arg-type]
        largest = max(largest, rows.numel())
        return rows

    monkeypatch.setattr(attention, "attention_rows", watched)
    monkeypatch.setattr(attention, "CPU_BLOCK_ELEMENTS", 2 * 3 * 50 * 4)
    attention_received(torch.randn(2, 3, 50, 4), torch.randn(2, 3, 50, 4), 1.0)
    assert largest == 2 * 3 * 50 * 4  # twelve queries of one head at once


@pytest.mark.parametrize("elements", [1, 60, 300, 700, 10_000])
def test_received_is_the_same_whatever_is_held_at_once(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """One query of one key head, several queries, a whole head, two heads, everything."""
    query, key = torch.randn(2, 6, 9, 4), torch.randn(2, 3, 9, 4)
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    shapes: list[tuple[int, ...]] = []
    original = attention.attention_rows

    def watched(*args: Tensor) -> Tensor:
        shapes.append(tuple(args[0].shape))
        return original(*args)

    monkeypatch.setattr(attention, "attention_rows", watched)
    monkeypatch.setattr(attention, "CPU_BLOCK_ELEMENTS", elements)
    got = attention_received(query, key, 0.7, mask)
    pairs = (mask[:, None, :, None] & mask[:, None, None, :]).expand(-1, 6, -1, -1)
    expected = reference_rows(query, key, 0.7, pairs).sum(dim=(1, 2)) / (6 * torch.tensor([[9], [6]]))
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    assert shapes[0][1:3] == {1: (2, 1), 60: (2, 1), 300: (2, 8), 700: (4, 9), 10_000: (6, 9)}[elements]
