"""agilepruner against its specification: a slow reference, the walk, the backfill, complexity, other encoders."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import tiny_inputs, tiny_llava

INFO = default_info()
SIGLIP = dataclasses.replace(INFO, family="siglip", has_class_token=False)
QWEN = dataclasses.replace(SIGLIP, family="qwen", packs_pictures=True, global_layers=(7, 15, 21))


def slow_rank(tokens: Tensor) -> float:
    """Step 1 of the specification, by singular values."""
    values = torch.linalg.svdvals(tokens.double() - tokens.double().mean(dim=0))
    shares = [float(v / values.sum()) for v in values if v > 1e-9]
    return float(torch.tensor([s**-s for s in shares], dtype=torch.float64).prod())


def slow_walk(tokens: Tensor, attention: Tensor, keep: int, **given: float) -> tuple[list[int], int]:
    """Steps 2 to 5, token by token in float64: picks in the order taken, and how many the walk took."""
    unit = tokens.double() / (tokens.double().norm(dim=1, keepdim=True) + 1e-8)
    order = sorted(range(len(tokens)), key=lambda i: (-float(attention[i]), i))
    complexity = 0.0 if "static_tau" in given else slow_rank(tokens) / given.get("erank_avg", 90.0)
    picks: list[int] = []
    suppressed: set[int] = set()
    for rank, i in enumerate(order, start=1):
        if i in suppressed or len(picks) == keep:
            continue
        picks.append(i)
        tau = given.get("static_tau", min(rank * 0.01 * complexity, given.get("tau_max", 0.25)))
        suppressed |= {j for j in range(len(tokens)) if j != i and 1 - float(unit[i] @ unit[j]) < tau}
    rest = [i for i in order if i not in picks]
    return picks + rest[: keep - len(picks)], len(picks)


def clustered(generator: torch.Generator, there: int, width: int) -> Tensor:
    """Tokens around a few centres, so that some suppress others."""
    centres = torch.randn(4, width, generator=generator)
    which = torch.randint(4, (there,), generator=generator)
    return centres[which] + 0.6 * torch.randn(there, width, generator=generator)


def ragged(seed: int, there: list[int], width: int = 12, heads: int = 3) -> ArrayView:
    """Items of several sizes; padding holds loud values."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(there), max(there), width), 30.0)
    attention = torch.full((len(there), heads, max(there)), 30.0)
    for b, n in enumerate(there):
        tokens[b, :n] = clustered(generator, n, width)
        attention[b, :, :n] = torch.randn(heads, n, generator=generator).softmax(dim=1)
    return ArrayView(embeddings=tokens, class_attention=attention, num_tokens=there)


def picks_of(method: Any, view: ArrayView, keep: list[int]) -> list[list[int]]:
    picks = method.select(view, Counts(tuple(keep), view.layout.num_tokens))
    return [[i for i in row if i >= 0] for row in picks.tolist()]


def one(tokens: Tensor, attention: list[float]) -> ArrayView:
    return ArrayView(embeddings=tokens[None], class_attention=torch.tensor(attention)[None, None])


SETTINGS: list[dict[str, float]] = [
    {},
    {"erank_avg": 0.5},
    {"erank_avg": 2.0, "tau_max": 0.9},
    {"static_tau": 0.4},
    {"static_tau": 1.3},
    {"static_tau": 0.0},
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.sampled_from(SETTINGS), st.integers(0, 999), st.data())
def test_picks_equal_the_reference_on_ragged_items(
    there: list[int], given_settings: dict[str, float], seed: int, data: st.DataObject
) -> None:
    view, method = ragged(seed, there), make("agilepruner", **given_settings)
    keep = [data.draw(st.integers(0, n)) for n in there]
    walked = method.walk(method.score(view), view, Counts(tuple(keep), tuple(there)))  # type: ignore[attr-defined]
    got = picks_of(method, view, keep)
    for b, (n, k) in enumerate(zip(there, keep, strict=True)):
        attention = view.class_attention(0)[b, :, :n].mean(dim=0)
        picks, by_walk = slow_walk(view.tokens.embeddings[b, :n], attention, k, **given_settings)
        assert got[b] == sorted(picks, key=lambda i: (i not in picks[:by_walk], -float(attention[i]), i))
        assert got[b] == picks
        assert walked[b].nonzero()[:, 0].tolist() == sorted(picks[:by_walk])


def test_the_highest_attention_comes_first_and_no_threshold_is_top_k() -> None:
    view = ragged(3, [50, 31])
    scores = make("agilepruner").score(view)  # type: ignore[attr-defined]
    best = [scores[b, :n].argsort(descending=True).tolist() for b, n in enumerate((50, 31))]
    for picks, order in zip(picks_of(make("agilepruner"), view, [20, 9]), best, strict=True):
        assert picks[0] == order[0]
        assert len(set(picks)) == len(picks)
    for still in ({"static_tau": 0.0}, {"slope": 0.0}, {"tau_max": 0.0}):
        assert picks_of(make("agilepruner", **still), view, [20, 9]) == [best[0][:20], best[1][:9]]


def test_a_threshold_of_zero_suppresses_no_copy() -> None:
    """In float32 a vector may be nearer than 0 to its copy."""
    tokens = torch.randn(30, 24, generator=torch.Generator().manual_seed(1)).repeat_interleave(2, dim=0)
    unit = torch.nn.functional.normalize(tokens, dim=1)
    assert float((1 - unit @ unit.T).min()) < 0
    assert picks_of(make("agilepruner", static_tau=0.0), one(tokens, torch.linspace(1, 0, 60).tolist()), [31]) == [
        list(range(31))
    ]


def test_nothing_that_the_walk_takes_is_near_an_earlier_token() -> None:
    view, method = ragged(4, [60]), make("agilepruner", erank_avg=1.5, tau_max=0.6)
    scores, counts = method.score(view), Counts((30,), (60,))  # type: ignore[attr-defined]
    walked = method.walk(scores, view, counts)[0].nonzero()[:, 0].tolist()  # type: ignore[attr-defined]
    order = scores[0].argsort(descending=True).tolist()
    ranks = torch.tensor([[order.index(i) + 1 for i in range(60)]])
    tau = method.thresholds(ranks, view)[0]  # type: ignore[attr-defined]
    assert tau.max() == 0.6
    unit = torch.nn.functional.normalize(view.tokens.embeddings[0], dim=1)
    walked.sort(key=order.index)
    near = [1 - float(unit[i] @ unit[j]) - float(tau[i]) for n, i in enumerate(walked) for j in walked[n + 1 :]]
    assert len(walked) < 30
    assert min(near) >= -1e-6


def test_the_rank_counts_all_tokens_not_those_taken() -> None:
    """Token 1 is suppressed, so token 2 is taken second, with the threshold of rank 3."""
    angle = torch.tensor([0.0, 0.1, 1.5, 1.8, 2.4])
    view = one(torch.stack([angle.cos(), angle.sin()], dim=1), [0.5, 0.4, 0.3, 0.2, 0.1])
    method = make("agilepruner", erank_avg=1.0, slope=0.02, tau_max=9.0)
    complexity = float(method.complexity(view))  # type: ignore[attr-defined]
    assert 0.005 < 0.02 * complexity < 0.045 < 0.06 * complexity  # 1 - cos(0.1) and 1 - cos(0.3)
    assert picks_of(method, view, [3]) == [[0, 2, 4]]


def test_backfill_takes_suppressed_tokens_by_attention() -> None:
    tokens = torch.cat([torch.eye(3)[:1].expand(4, 3), torch.eye(3)[1:]])  # four copies and two others
    view = one(tokens, [0.3, 0.1, 0.05, 0.25, 0.2, 0.15])
    assert picks_of(make("agilepruner", static_tau=0.5), view, [5]) == [[0, 4, 5, 3, 1]]
    assert picks_of(make("agilepruner", static_tau=0.5), view, [2]) == [[0, 4]]


def test_a_complex_picture_is_thinned_more() -> None:
    """The same tokens with a finer texture have a larger effective rank and larger thresholds."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(1, 40, 2, generator=generator) @ torch.randn(2, 32, generator=generator)
    rich = flat + torch.randn(1, 40, 32, generator=generator)
    method, ranks = make("agilepruner"), torch.arange(1, 41)[None]
    ranked = [method.complexity(ArrayView(embeddings=t)).item() for t in (flat, rich)]  # type: ignore[attr-defined]
    assert ranked[0] < 2.1
    assert ranked[1] > 15
    tau = [method.thresholds(ranks, ArrayView(embeddings=t))[0] for t in (flat, rich)]  # type: ignore[attr-defined]
    torch.testing.assert_close(tau[1], (ranks[0] * 0.01 * ranked[1] / 90).clamp(max=0.25).float())
    assert bool((tau[1] > tau[0]).all())


@pytest.mark.parametrize("erank", ["gram", "svd", "participation"])
def test_tokens_that_are_all_the_same_go_by_attention(erank: str) -> None:
    attention = torch.randn(12).softmax(dim=0).tolist()
    view = one(torch.full((12, 6), 0.7), attention)
    want = sorted(range(12), key=lambda i: -attention[i])
    assert picks_of(make("agilepruner", erank=erank), view, [5]) == [want[:5]]
    alone = one(torch.ones(1, 6), [0.4])
    assert picks_of(make("agilepruner", erank=erank), alone, [1]) == [[0]]


def test_half_precision_is_scored_in_float32() -> None:
    view = ragged(5, [40, 22])
    half = ArrayView(
        embeddings=view.tokens.embeddings.bfloat16(),
        class_attention=view.class_attention(0).bfloat16(),
        num_tokens=(40, 22),
    )
    exact = ArrayView(
        embeddings=half.tokens.embeddings.float(), class_attention=half.class_attention(0).float(), num_tokens=(40, 22)
    )
    method: Any = make("agilepruner", erank_avg=2.0)
    assert picks_of(method, half, [20, 10]) == picks_of(method, exact, [20, 10])
    assert torch.equal(method.score(half), method.score(exact))


def test_layers_and_encoders_without_a_class_token() -> None:
    plain, received = make("agilepruner"), make("agilepruner", cls_fallback="received")
    assert plain.captures(INFO) == Captures(encoder=(22,))
    assert plain.needs(SIGLIP) == ("class_token",)
    assert received.needs(SIGLIP) == ("attention_received",)
    assert received.captures(SIGLIP) == Captures(encoder=(22,))
    assert plain.needs(QWEN) == ("attention_received",)
    assert plain.captures(QWEN) == Captures(encoder=(21,))  # the last layer that sees whole pictures
    assert plain.captures(dataclasses.replace(QWEN, global_layers=None)) == Captures(encoder=(22,))
    assert (plain.remarks(INFO), plain.remarks(QWEN)) == ((), ("attention received stands in for the class token",))
    shown = {22: torch.tensor([[0.1, 0.5, 0.4]])}
    view = ArrayView(embeddings=torch.eye(3)[None], attention_received=shown, info=SIGLIP)
    assert picks_of(received, view, [2]) == [[1, 2]]
    with pytest.raises(UnsupportedError, match="needs a class token; the encoder of this siglip model has none"):
        plain.reduce(view, Counts((2,), (3,)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"erank_avg": 0.0}, "erank_avg is an effective rank > 0; got 0.0"),
        ({"tau_max": -0.1}, "tau_max must be >= 0; got -0.1"),
        ({"slope": float("nan")}, "slope must be >= 0; got nan"),
        ({"static_tau": -1.0}, "static_tau must be >= 0; got -1.0"),
        ({"erank": "fast"}, "erank must be one of gram, svd, participation; got 'fast'"),
        ({"cls_fallback": "mean"}, "cls_fallback must be None or 'received'; got 'mean'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"agilepruner: {message}"):
        make("agilepruner", **settings)


# -- on a model ------------------------------------------------------------------------------------------------------


def test_counts_on_models() -> None:
    model, inputs = tiny_llava(), tiny_inputs((2, 1), padding="left")
    with torch.no_grad(), tessella.reduce(model, "agilepruner", keep=5) as run:
        model(**inputs)
    assert run.report.last.tokens_kept == ((5, 5), (5,))  # type: ignore[union-attr]
    assert run.report.notes == ()
    qwen = tiny_family("qwen2_5_vl")
    with torch.no_grad(), tessella.reduce(qwen.model(), "agilepruner", keep=0.5) as run:
        run.model(**qwen.inputs([[qwen.sizes[0]]]))
    record = run.report.last
    assert record is not None
    assert record.tokens_kept[0][0] == round(record.tokens_in[0][0] / 2)
    assert run.report.notes[-1] == "agilepruner: attention received stands in for the class token"
    with pytest.raises(UnsupportedError, match=r"agilepruner needs a class token.*Nearest: divprune"):
        tessella.reduce(tiny_llava("siglip"), "agilepruner", keep=5)
