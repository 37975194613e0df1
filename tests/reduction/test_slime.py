"""slime against its specification: a slow reference, text that is masked or missing, and pictures with tiles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tessella
from spying import seen_by
from tessella.core.budget import Counts
from tessella.core.errors import MethodError
from tessella.core.layout import NEWLINE, THUMBNAIL
from tessella.core.registry import make
from tessella.testing import ArrayView
from tessella.testing.families import tiny_family
from tessella.testing.tiny import tiny_inputs, tiny_llava


def view_of(there: list[int], words: list[int], seed: int = 0) -> ArrayView:
    """Random pictures and prompts of those lengths; padding of both holds loud values."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(there), max(there), 5, generator=generator)
    text = torch.randn(len(words), max(words), 5, generator=generator)
    for b, (n, t) in enumerate(zip(there, words, strict=True)):
        tokens[b, n:], text[b, t:] = 50.0, 50.0
    mask = torch.arange(max(words)) < torch.tensor(words)[:, None]
    return ArrayView(embeddings=tokens, text=(text, mask), num_tokens=there)


def kept(view: ArrayView, **settings: Any) -> list[list[int]]:
    """Tokens that stay of each item where no keep is given."""
    there = view.layout.num_tokens
    reduction = make("slime", **settings).reduce(view, Counts(there, there, asked=False))
    assert reduction.num_kept is None  # the number hangs on values that the device holds
    return [row.nonzero()[:, 0].tolist() for row in reduction.keep]


def slow(view: ArrayView, b: int, n: int, words: int, top_p: float, temperature: float) -> list[int]:
    """The specification in float64, one token after the other."""
    text = view.text_embeddings()[0][b, :words].double()
    score = []
    for token in view.tokens.embeddings[b, :n].double():
        score.append(sum(float(token @ t / (token.norm() * t.norm())) for t in text) / temperature)
    mass = [math.exp(s - max(score)) for s in score]
    order = sorted(range(n), key=lambda i: (-score[i], i))
    held, count = 0.0, 0
    for i in order:
        held += mass[i] / sum(mass)
        count += held <= top_p
    return sorted(order[: count + 1])


@given(
    data=st.data(),
    there=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    top_p=st.sampled_from([0.02, 0.3, 0.5, 0.95]),
    temperature=st.sampled_from([0.3, 1.0, 4.0]),
    seed=st.integers(0, 99),
)
def test_the_router_equals_the_slow_reference(
    data: st.DataObject, there: list[int], top_p: float, temperature: float, seed: int
) -> None:
    words = [data.draw(st.integers(1, 9)) for _ in there]
    view = view_of(there, words, seed)
    expected = [slow(view, b, n, t, top_p, temperature) for b, (n, t) in enumerate(zip(there, words, strict=True))]
    assert kept(view, top_p=top_p, temperature=temperature) == expected


def test_one_token_stays_however_small_the_share() -> None:
    view = view_of([20, 1], [4, 4])
    best = int(make("slime").score(view)[0, :20].argmax())  # type: ignore[attr-defined]
    assert kept(view, top_p=1e-6) == [[best], [0]]


@pytest.mark.parametrize("top_p", [1.0, 7.0])
def test_a_share_of_one_keeps_everything(top_p: float) -> None:
    assert kept(view_of([700, 9], [3, 5]), top_p=top_p) == [list(range(700)), list(range(9))]
    for temperature in (0.1, 0.2, 0.3, 0.5):  # in float32 the whole mass is above one for some
        assert kept(view_of([200], [5]), top_p=top_p, temperature=temperature) == [list(range(200))]


def test_masked_text_has_no_influence() -> None:
    view, other = view_of([20], [4]), view_of([20], [4])
    text, mask = view.text_embeddings()
    longer = torch.cat([text, torch.full((1, 3, 5), 99.0)], dim=1)
    other._given["text"] = (longer, torch.nn.functional.pad(mask, (0, 3), value=False))
    assert torch.equal(make("slime").score(view), make("slime").score(other))  # type: ignore[attr-defined]
    other._given["text"] = (longer, torch.ones(1, 7, dtype=torch.bool))
    assert not torch.allclose(make("slime").score(view), make("slime").score(other))  # type: ignore[attr-defined]


def test_longer_prompts_keep_fewer() -> None:
    """Scores are sums over the text, so that the same words twice sharpen the softmax."""
    once, twice = view_of([200], [6]), view_of([200], [6])
    text, mask = once.text_embeddings()
    twice._given["text"] = (text.repeat(1, 2, 1), mask.repeat(1, 2))
    one, two = kept(once)[0], kept(twice)[0]
    assert set(two) < set(one)
    assert kept(twice, temperature=2.0)[0] == one


def test_without_text_the_first_tokens_hold_the_share() -> None:
    view = view_of([40], [3])
    text, mask = view.text_embeddings()
    view._given["text"] = (text, torch.zeros_like(mask))
    assert kept(view, top_p=0.51) == [list(range(21))]


def test_a_keep_takes_the_highest_scores() -> None:
    view, method = view_of([20, 7], [4, 6]), make("slime")
    reduction = method.reduce(view, Counts((5, 7), (20, 7)))
    best = method.score(view)[0, :20].topk(5).indices  # type: ignore[attr-defined]
    assert reduction.num_kept == (5, 7)
    assert reduction.keep[0].nonzero()[:, 0].tolist() == sorted(best.tolist())
    assert reduction.keep[1, :7].all()


def test_settings_that_make_no_sense() -> None:
    for change in ({"top_p": 0.0}, {"top_p": -0.5}, {"temperature": 0.0}, {"temperature": float("nan")}):
        (name, value), *_ = change.items()
        with pytest.raises(MethodError, match=f"slime: {name} must be > 0; got {value}"):
            make("slime", **change)


# -- on models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [None, 6])
def test_tiles_compete_and_the_thumbnail_stays(keep: int | None) -> None:
    """Four tiles of 16 tokens and a thumbnail: the scores are those of all tiles together."""
    family = tiny_family("llava_next")
    model, inputs = family.model(), family.inputs([[(56, 56)]])
    scores, layout = seen_by(lambda v: (make("slime").score(v)[0], v.layout), model, inputs)  # type: ignore[attr-defined]
    with torch.no_grad(), tessella.reduce(model, "slime(top_p=0.5)", keep=keep, newlines="drop") as run:
        model(**inputs)
    local = (layout.role[0] != NEWLINE) & (layout.role[0] != THUMBNAIL)
    mass, order = scores.masked_fill(~local, -torch.inf).softmax(dim=0).sort(descending=True)
    count = int((mass.cumsum(dim=0) <= 0.5).sum()) + 1 if keep is None else keep
    chosen = torch.cat([order[:count], (layout.role[0] == THUMBNAIL).nonzero()[:, 0]])
    grid_by_grid = torch.argsort(layout.tile[0], stable=True)
    assert run.kept[0][0].tolist() == torch.isin(grid_by_grid, chosen).nonzero()[:, 0].tolist()
    assert run.report.roles["thumbnail"].kept == 16
    assert run.report.tokens_kept == 16 + count


def test_a_single_grid_is_routed_whole_and_a_batch_equals_its_rows() -> None:
    model, batch = tiny_llava(), tiny_inputs((1, 1), padding="left", seed=3)
    with torch.no_grad(), tessella.reduce(model, "slime(top_p=0.4)") as run:
        model(**batch)
        together = [k[0].tolist() for k in run.kept]
        for row, count in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
            single = {n: batch[n][row : row + 1, -count:] for n in ("input_ids", "attention_mask")}
            model(**single, pixel_values=batch["pixel_values"][row : row + 1])
            assert run.kept[0][0].tolist() == together[row]
    assert all(0 < len(k) < 16 for k in together)
