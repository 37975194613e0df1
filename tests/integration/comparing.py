"""How answers are compared with the oracle, and what the plain methods keep, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from oracle import Kept, Oracle
from torch import Tensor, nn

from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL

KEEP, STEPS = 5, 8
PLACES = [(0, "original"), (0, "compact"), (2, "original"), (2, "compact")]  # at_layer, positions


def generate(model: Any, inputs: dict[str, Any], steps: int = STEPS, **kwargs: Any) -> list[list[int]]:
    """New tokens of each row."""
    out = model.generate(**inputs, max_new_tokens=steps, suppress_tokens=[IMAGE_TOKEN], **kwargs)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """Asserts that two tensors are equal up to `tolerance`, absolute and relative.

    Logits are of size 4; float32 sums taken in another order (other kernels, other thread counts) were seen to differ
    by 2e-5; wrong positions moved them by 0.42 and a lost mask by 0.19 at least, over six seeds.
    """
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def compare(model: Any, inputs: dict[str, Any], full: Tensor, rows: list[Oracle]) -> None:
    """Expanded logits equal the oracle's, and are NaN where tokens were dropped."""
    for row, oracle, mine in zip(rows_of(inputs), rows, full, strict=True):
        slots = [row.padding + s for s in oracle.states()[-1].slots]
        close(mine[slots], oracle.logits())
        gone = sorted({row.padding + s for s in oracle.visual} - set(slots))
        assert len(gone) == len(oracle.visual) - len(oracle.cuts[0][1])
        assert mine[gone].isnan().all()


@dataclass(frozen=True)
class Row:
    """One row of a batch without its padding."""

    ids: list[int]
    pictures: Tensor | None
    padding: int  # tokens in front of it


def rows_of(inputs: dict[str, Any]) -> list[Row]:
    """The rows of `tiny_inputs`."""
    rows, taken = [], 0
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        real = mask.nonzero().reshape(-1)
        mine = ids[real].tolist()
        count = mine.count(5) // NUM_VISUAL
        pictures = inputs["pixel_values"][taken : taken + count] if count else None
        rows.append(Row(mine, pictures, int(real[0])))
        taken += count
    return rows


def oracles(
    model: nn.Module,
    inputs: dict[str, Any],
    kept: Sequence[Kept],
    at_layer: int = 0,
    positions: str = "original",
) -> list[Oracle]:
    """An oracle for each row, which keeps the visual tokens `kept[row]` from `at_layer` on."""
    return [
        Oracle(model, row.ids, row.pictures, [(at_layer, k)], positions)
        for row, k in zip(rows_of(inputs), kept, strict=True)
    ]


def kept_by_norm(model: nn.Module, inputs: dict[str, Any], keep: int, at_layer: int = 0) -> list[list[int]]:
    """What `Norm` keeps of each row, by hand."""
    out = []
    for row in rows_of(inputs):
        oracle = Oracle(model, row.ids, row.pictures)
        pictures = len(oracle.visual) // NUM_VISUAL
        vectors = oracle.states()[at_layer].hidden[oracle.visual].unflatten(0, (pictures, NUM_VISUAL))
        out.append([i * NUM_VISUAL + k for i, picture in enumerate(vectors) for k in longest(picture, keep)])
    return out


def kept_above(model: Any, inputs: dict[str, Any], at_layer: int) -> list[list[int]]:
    """What `Above` keeps of each row, by hand."""
    kept = []
    with torch.no_grad():
        for row in rows_of(inputs):
            oracle = Oracle(model, row.ids, row.pictures)
            norms = oracle.states()[at_layer].hidden[oracle.visual].norm(dim=-1).split(NUM_VISUAL)
            kept.append([i * NUM_VISUAL + int(k) for i, n in enumerate(norms) for k in (n > n.mean()).nonzero()])
    return kept


def kept_by_features(model: Any, inputs: dict[str, Any]) -> list[list[int]]:
    """What `Features` keeps of each row, by hand."""
    out = []
    for row in rows_of(inputs):
        features = model.model.vision_tower(row.pictures, output_hidden_states=True).hidden_states[-2][:, 1:]
        out.append([i * NUM_VISUAL + k for i, f in enumerate(features) for k in longest(f, KEEP)])
    return out


def kept_by_asking(model: nn.Module, inputs: dict[str, Any]) -> list[list[int]]:
    """What `Asked` keeps of rows with one picture, by hand."""
    out = []
    for row in rows_of(inputs):
        oracle = Oracle(model, row.ids, row.pictures)
        out.append(sorted(oracle.attention(1)[:, -1, oracle.visual].mean(dim=0).topk(KEEP).indices.tolist()))
    return out


def fixed_kept(keep: int, factor: int = 7) -> list[int]:
    """What `Fixed` keeps of one picture of 16 tokens."""
    return sorted(sorted(range(NUM_VISUAL), key=lambda i: factor * i % NUM_VISUAL)[:keep])


def longest(vectors: Tensor, keep: int) -> list[int]:
    """The `keep` longest of `[V, C]`."""
    return sorted(vectors.float().norm(dim=-1).topk(keep).indices.tolist())
