"""divprune and visionzip against their specifications, with slow float64 references."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.core.budget import Counts
from tessella.core.errors import MethodError
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.reduction import divprune
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info

INFO = default_info()

_spec = importlib.util.spec_from_file_location("slow", Path(__file__).resolve().parents[1] / "ops" / "slow.py")
assert _spec is not None
assert _spec.loader is not None
slow = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slow)


# -- divprune --------------------------------------------------------------------------------------------------------


def picks_of(tokens: Tensor, keep: list[int], there: list[int] | None = None, **settings: int) -> list[list[int]]:
    there = there or [tokens.shape[1]] * len(tokens)
    mask = torch.arange(tokens.shape[1]) < torch.tensor(there)[:, None]
    picks = divprune.farthest_first(tokens, Counts(tuple(keep), tuple(there)), mask, **settings)
    return [[i for i in row if i >= 0] for row in picks.tolist()]


@given(there=st.lists(st.integers(1, 14), min_size=1, max_size=3), seed=st.integers(0, 999), data=st.data())
def test_divprune_equals_the_reference(there: list[int], seed: int, data: st.DataObject) -> None:
    tokens = torch.randn(len(there), max(there), 6, generator=torch.Generator().manual_seed(seed))
    keep = [data.draw(st.integers(0, n)) for n in there]
    want = [slow.farthest_first(tokens[b, :n].double(), k) for b, (n, k) in enumerate(zip(there, keep, strict=True))]
    assert picks_of(tokens, keep, there) == want
    assert picks_of(tokens, keep, there, stream_above=0) == want


def test_divprune_streams_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randn(2, 50, 16)
    want = picks_of(tokens, [20, 50], [40, 50])
    monkeypatch.setattr(divprune, "STREAM_ABOVE", 19)  # 7 rows of 50 at once
    assert picks_of(tokens, [20, 50], [40, 50], stream_above=19) == want


def test_divprune_never_picks_twice() -> None:
    """Copies of one token, and half precision, where a token may be farther from itself than from its copy."""
    tokens = torch.randn(1, 8, 32).repeat(1, 4, 1).bfloat16()
    assert sorted(picks_of(tokens, [32])[0]) == list(range(32))
    assert sorted(i % 8 for i in picks_of(tokens, [8])[0]) == list(range(8))  # one of each before any copy


def test_divprune_ignores_length() -> None:
    tokens = torch.randn(1, 40, 12)
    assert picks_of(tokens * (torch.rand(1, 40, 1) + 0.1), [15]) == picks_of(tokens, [15])


def test_divprune_radius_shrinks() -> None:
    tokens = torch.randn(1, 60, 8)
    picks = picks_of(tokens, [30])[0]
    unit = torch.nn.functional.normalize(tokens[0], dim=1)
    distance = 1 - unit @ unit.T
    radius = [distance[picks[i], picks[:i]].min().item() for i in range(1, 30)]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(radius))


def test_divprune_reads_the_tokens_of_the_language_model() -> None:
    tokens = torch.randn(1, 20, 8)
    view = ArrayView(embeddings=tokens)
    method = make("divprune")
    assert method.select(view, Counts((6,), (20,)))[0].tolist() == picks_of(tokens, [6])[0]  # type: ignore[attr-defined]
    assert method.captures(INFO) == Captures()
    assert (method.card.scope, method.card.unit, method.card.cost) == ("image", "image", "heavy")


# -- visionzip -------------------------------------------------------------------------------------------------------


def reference_visionzip(
    features: Tensor, cls: Tensor, attention: Tensor, keys: Tensor, num_dominant: int, num_contextual: int
) -> tuple[list[int], list[int], list[int], Tensor]:
    """One picture, step by step: dominant patches, centres, the centre number of each patch, tokens."""
    there = range(len(features))
    score = attention.double().sum(dim=0).tolist()
    dominant = sorted(sorted(there, key=lambda i: (-score[i], i))[: num_dominant - 1])
    rest = [i for i in there if i not in dominant]
    step = max(1, len(rest) // num_contextual) if num_contextual else 1
    centres = rest[::step][:num_contextual]
    metric = torch.nn.functional.normalize(keys.double().mean(dim=0), dim=1)
    target = [-1] * len(features)
    for i in rest:
        if i not in centres and centres:
            target[i] = int((metric[centres] @ metric[i]).argmax())
    tokens = [cls.double(), *(features[i].double() for i in dominant)]
    for number, centre in enumerate(centres):
        members = [features[i].double() for i in there if target[i] == number]
        mean = sum(members) / len(members) if members else torch.zeros_like(cls, dtype=torch.float64)
        tokens.append(features[centre].double() + mean)
    return dominant, centres, target, torch.stack(tokens)


def zip_view(batch: int, most: int, there: list[int]) -> ArrayView:
    return ArrayView(
        features=torch.randn(batch, most, 5),
        class_features=torch.randn(batch, 5),
        class_attention={22: torch.rand(batch, 3, most)},
        encoder_keys={22: torch.randn(batch, 3, most, 4)},
        num_tokens=there,
    )


@given(there=st.lists(st.integers(1, 30), min_size=1, max_size=3), contextual=st.integers(-1, 4), data=st.data())
def test_visionzip_equals_the_reference(there: list[int], contextual: int, data: st.DataObject) -> None:
    least = max(contextual + 1, 1)
    there = [max(n, least) for n in there]
    compare_visionzip(there, [data.draw(st.integers(least, n)) for n in there], contextual)


@pytest.mark.parametrize(
    "there, keep",
    [([100, 100], [64, 6]), ([90, 30, 7], [3, 30, 1]), ([40, 20], [1, 20]), ([64], [64]), ([9, 40], [2, 33])],
)
def test_visionzip_of_ragged_counts(there: list[int], keep: list[int]) -> None:
    compare_visionzip(there, keep, -1)


def compare_visionzip(there: list[int], keep: list[int], contextual: int) -> None:
    """Every named function and the answer against the reference; `contextual` -1 is the paper's share."""
    view, counts = zip_view(len(there), max(there), there), Counts(tuple(keep), tuple(there))
    method = make("visionzip", contextual=None if contextual < 0 else contextual)
    reduction = method.reduce(view, counts)
    dominant = method.dominant(view, counts)  # type: ignore[attr-defined]
    centres = method.centres(view, counts, dominant)  # type: ignore[attr-defined]
    target = method.targets(view, dominant, centres)  # type: ignore[attr-defined]
    assert reduction.keep.sum(dim=1).tolist() == keep
    for b, (n, k) in enumerate(zip(there, keep, strict=True)):
        num_contextual = min(round(10 * k / 64), k - 1) if contextual < 0 else contextual
        arrays = (view.class_attention(22)[b, :, :n], view.encoder_keys(22)[b, :, :n])
        want = reference_visionzip(
            view.features()[b, :n], view.class_features()[b], *arrays, k - num_contextual, num_contextual
        )
        assert dominant[b].nonzero()[:, 0].tolist() == want[0]
        assert [i for i in centres[b].tolist() if i >= 0] == want[1]
        assert target[b, :n].tolist() == want[2]
        assert reduction.embeddings is not None
        torch.testing.assert_close(reduction.embeddings[b, :k].double(), want[3], rtol=1e-4, atol=1e-5)
        slot = min(i for i in range(n) if i not in want[0] and i not in want[1])
        assert reduction.order is not None
        assert reduction.order[b, :k].tolist() == [slot, *want[0], *want[1]]
        assert reduction.source is not None
        parents = [
            i if i in (slot, *want[0], *want[1]) else want[1][t] if t >= 0 else -1 for i, t in enumerate(want[2])
        ]
        assert reduction.source[b, :n].tolist() == parents


@pytest.mark.parametrize("keep, num_contextual", [(64, 10), (128, 20), (192, 30), (32, 5), (1, 0), (2, 0), (4, 1)])
def test_visionzip_shares_of_the_paper(keep: int, num_contextual: int) -> None:
    method = make("visionzip")
    assert method.num_contextual(Counts((keep,), (576,))) == [num_contextual]  # type: ignore[attr-defined]


def test_visionzip_without_contextual_is_class_token_and_top() -> None:
    view, method = zip_view(1, 40, [40]), make("visionzip", contextual=0)
    reduction = method.reduce(view, Counts((9,), (40,)))
    top = sorted(view.class_attention(22)[0].sum(dim=0).topk(8).indices.tolist())
    assert reduction.embeddings is not None
    assert torch.equal(reduction.embeddings[0, 0], view.class_features()[0])
    assert torch.equal(reduction.embeddings[0, 1:], view.features()[0, top])
    assert reduction.space == "encoder"


def test_visionzip_refuses_what_leaves_no_class_token() -> None:
    with pytest.raises(MethodError, match=r"contextual=10 of 10 kept tokens leaves none for the class token; .* to 9"):
        make("visionzip", contextual=10).reduce(zip_view(1, 40, [40]), Counts((10,), (40,)))
    with pytest.raises(MethodError, match="contextual must be >= 0; got -1"):
        make("visionzip", contextual=-1)
    assert make("visionzip").captures(INFO) == Captures(encoder=(22,), class_features=True)


def test_visionzip_without_merging_keeps_the_same_tokens() -> None:
    """Class token, dominant patches and centres stay; every other patch is dropped, and centres are as they were."""
    view, counts = zip_view(2, 50, [50, 33]), Counts((20, 9), (50, 33))
    merged = make("visionzip").reduce(view, counts)
    method = make("visionzip", merging=False)
    plain = method.reduce(view, counts)
    assert plain.order is not None
    assert merged.order is not None
    assert torch.equal(plain.keep, merged.keep)
    assert torch.equal(plain.order, merged.order)
    assert plain.embeddings is not None
    assert merged.embeddings is not None
    for b, k in enumerate(counts.num_keep):
        assert torch.equal(plain.embeddings[b, 0], view.class_features()[b])
        assert torch.equal(plain.embeddings[b, 1:k], view.features()[b, plain.order[b, 1:k]])
        assert not torch.equal(merged.embeddings[b, :k], plain.embeddings[b, :k])
    itself = torch.arange(50)
    assert plain.source is not None
    assert torch.equal(plain.source, torch.where(plain.keep, itself, -1))
    assert (merged.source != plain.source).any()
    assert repr(method) == "VisionZip(merging=False)"
