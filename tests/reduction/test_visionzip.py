"""visionzip folding what it drops into patches that another method keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tessella.core.budget import Counts
from tessella.core.contracts import keep_highest
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.testing.random_view import Item, random_view

CAPTURES = Captures(encoder=(22,), class_features=True)
ITEMS = (Item(6, 9, seed=1), Item(4, 5, seed=2))


@pytest.mark.parametrize("keep", [(30, 12), (1, 20), (0, 2), (54, 20)])
def test_reserved_tokens_and_kept_patches_make_the_count(keep: tuple[int, int]) -> None:
    view, counts, method = random_view(ITEMS, CAPTURES), Counts(keep, (54, 20)), make("visionzip")
    merger: Any = method
    reserved, kept = merger.reserved(counts), merger.kept(view, counts)
    assert reserved == tuple(max(0, min(round(10 * k / 64), k - 1)) + 1 if k else 0 for k in keep)
    assert [r + n for r, n in zip(reserved, kept.sum(dim=1).tolist(), strict=True)] == list(keep)
    whole, folded = method.reduce(view, counts), merger.fold(kept, view, counts)
    for name in ("keep", "num_kept", "order", "embeddings", "source"):
        one, other = getattr(whole, name), getattr(folded, name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other, name


def test_patches_of_another_method_stay_as_they_are() -> None:
    view, counts, merger = random_view(ITEMS, CAPTURES), Counts((20, 9), (54, 20)), make("visionzip", contextual=3)
    num = tuple(k - r for k, r in zip(counts.num_keep, merger.reserved(counts), strict=True))  # type: ignore[attr-defined]
    assert num == (16, 5)
    norms = view.tokens.embeddings.norm(dim=2)
    kept = keep_highest(norms, Counts(num, counts.num_tokens), mask=view.mask)
    out = merger.fold(kept, view, counts)  # type: ignore[attr-defined]
    for b, (k, n, there) in enumerate(zip(counts.num_keep, num, counts.num_tokens, strict=True)):
        stay = kept[b].nonzero()[:, 0].tolist()
        rest = [i for i in range(there) if i not in stay]
        centres = rest[:: len(rest) // 3][:3]
        first = next(i for i in rest if i not in centres)
        assert out.order[b, :k].tolist() == [first, *stay, *centres]
        assert torch.equal(out.embeddings[b, 0], view.class_features()[b])
        assert torch.equal(out.embeddings[b, 1 : n + 1], view.features()[b, stay])
        assert set(out.source[b, :there].tolist()) <= {first, *stay, *centres, -1}
        assert (out.source[b, :there] >= 0).all()  # every patch is merged into a centre, or stays
