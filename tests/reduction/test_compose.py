"""One paper's score with another's selection, allocation or merging equals doing the two by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tessella
from tessella.core.budget import Counts
from tessella.core.contracts import mask_of
from tessella.core.errors import MethodError
from tessella.core.pipeline import parse
from tessella.core.registry import make
from tessella.core.view import Captures, View
from tessella.ops.allocation import take_by_quota
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.random_view import Item, random_view

ITEMS = (Item(4, 6, seed=1), Item(3, 5, seed=2))
COUNTS = Counts((9, 6), (24, 15))


def seen(*methods: Any) -> View:
    captures = Captures()
    for method in methods:
        captures = captures | method.captures(default_info())
    return random_view(ITEMS, captures)


def test_a_score_alone_keeps_the_highest() -> None:
    scorer = make("fastervlm")
    composed = make("compose", score=scorer).reduce(seen(scorer), COUNTS)
    assert torch.equal(composed.keep, scorer.reduce(seen(scorer), COUNTS).keep)
    assert composed.num_kept == COUNTS.num_keep


def test_a_score_with_its_own_selection_is_the_method() -> None:
    for text in ("zoo_prune", "agilepruner", "fopru", "flashvlm", "holov(num_crops=3)"):
        method = parse(text).parts[0].method
        composed = make("compose", score=method, select=method).reduce(seen(method), COUNTS)
        assert torch.equal(composed.keep, method.reduce(seen(method), COUNTS).keep), text


def test_another_score_is_what_the_selection_goes_by() -> None:
    scorer, selector = make("fastervlm"), make("zoo_prune")
    view = seen(scorer, selector)
    picks = selector.choose(scorer.score(view), view, COUNTS)  # type: ignore[attr-defined]
    composed = make("compose", score=scorer, select=selector).reduce(view, COUNTS)
    assert torch.equal(composed.keep, mask_of(picks, 24))
    assert not torch.equal(composed.keep, selector.reduce(view, COUNTS).keep)
    assert not torch.equal(composed.keep, scorer.reduce(view, COUNTS).keep)


def test_counts_are_divided_as_the_allocator_does() -> None:
    scorer, allocator = make("vtc_cls"), make("holov")
    view = seen(scorer, allocator)
    scores = scorer.score(view)  # type: ignore[attr-defined]
    shares = allocator.allocate(scores, view, COUNTS)  # type: ignore[attr-defined]
    composed = make("compose", score=scorer, allocate=allocator).reduce(view, COUNTS)
    assert torch.equal(composed.keep, take_by_quota(scores, shares.group, shares.quota, view.mask))
    for b, group in enumerate(shares.group):
        for g, quota in enumerate(shares.quota[b].tolist()):
            assert int(composed.keep[b][group == g].sum()) == quota


def test_what_is_not_selected_is_merged() -> None:
    scorer, merger = make("fastervlm"), make("visionzip")
    view = seen(scorer, merger)
    composed = make("compose", score=scorer, merge=merger).reduce(view, COUNTS)
    own = merger.reduce(view, COUNTS)  # by the same attention, summed over heads where the scorer takes the mean
    assert composed.num_kept == COUNTS.num_keep
    assert torch.equal(composed.keep, own.keep)
    torch.testing.assert_close(composed.embeddings, own.embeddings)


def test_the_card_is_that_of_the_parts() -> None:
    composed = parse("compose(score=fastervlm, merge=visionzip)").parts[0].method
    assert set(composed.card.needs) == {"class_token", "class_features", "encoder_keys", "features"}
    assert (composed.card.newlines, composed.card.cost, composed.card.unit) == ("drop", "light", "tile")
    asking = make("compose", score=make("flashvlm"))
    assert asking.card.prompt_dependent
    wide = make("compose", score=make("fastervlm"), allocate=make("holov"))
    assert wide.card.unit == "image"
    by_row = make("fopru", strategy="row")
    assert make("compose", score=make("fastervlm"), select=by_row).card.count == by_row.card.count != "exact"


def test_text_form_reads_back() -> None:
    text = "compose(score=vtc_cls(ensemble='max'), select=agilepruner, merge=prumerge):64"
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": make("divprune")}, "score takes a method that scores tokens; divprune does not"),
        ({"score": make("fastervlm"), "select": make("hiprune")}, "select takes a method that selects by a score"),
        ({"score": make("fastervlm"), "allocate": make("vtc_cls")}, "allocate takes a method that divides a count"),
        ({"score": make("fastervlm"), "merge": make("pool")}, "merge takes a method that folds dropped tokens"),
        ({"score": make("fastv")}, "fastv acts at prefill, not at the connector"),
        (
            {"score": make("fastervlm"), "select": make("zoo_prune"), "allocate": make("holov")},
            "select=zoo_prune and allocate=holov both choose; give one of them",
        ),
        ({}, "compose: .*'score'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        make("compose", **settings)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next"])
def test_it_runs_in_a_model(family: str) -> None:
    tiny = tiny_family(family)
    model, inputs = tiny.model(), tiny.inputs()
    with torch.no_grad(), tessella.reduce(model, "compose(score=fopru, select=zoo_prune)", keep=0.5) as run:
        model(**inputs)
        record = run.report.last
    assert record is not None
    assert 0 < sum(map(sum, record.tokens_kept)) < sum(map(sum, record.tokens_in))
