"""The part of the family contract about methods: what a pipeline shows on a family that can carry it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch

from ..core.cards import Card
from ..core.layout import NEWLINE, THUMBNAIL
from ..core.pipeline import as_pipeline
from ..engine.apply import can_apply, reduce
from ..engine.run import Run
from .families import TinyFamily
from .family_cases import Inputs, batches, inputs_of, prompts, tiny_model, tokens_of
from .family_counts import KEEP, PER, groups, held, marked_tokens

ROUND: dict[str, Callable[[Fraction], int]] = {"nearest": round, "floor": math.floor, "ceil": math.ceil}


def method_keeps_all(family: TinyFamily, pipeline: str) -> None:
    """At keep=1.0 a method changes no bit of logits and tokens, and has made its cut."""
    model, card = tiny_model(family), _card(pipeline)
    if not card.takes_keep and (card.min_keep == 0 or card.count == "adaptive"):
        return  # it removes everything by design, or its number follows the picture
    for name, inputs in _method_inputs(family, pipeline).items():
        logits, tokens = model(**inputs).logits, tokens_of(model, inputs, 3)
        with _reduced(model, pipeline, "1.0") as run:
            assert torch.equal(logits, model(**inputs).logits), f"{pipeline} on {family.id}, {name}: logits change"
            assert tokens == tokens_of(model, inputs, 3), f"{pipeline} on {family.id}, {name}: tokens change"
            assert run.num_cuts + run.num_rewrites >= 1, f"{pipeline} on {family.id}, {name}: it never acted"


def method_counts(family: TinyFamily, pipeline: str) -> None:
    """As many tokens stay as its card promises of each group of its scope, in cache and report alike."""
    model, card = tiny_model(family), _card(pipeline)
    for name, inputs in _method_inputs(family, pipeline).items():
        with _reduced(model, pipeline, newlines="keep") as run:
            cache = model(**inputs).past_key_values
        where = f"{pipeline} on {family.id}, {name}"
        record = run.report.last
        assert record is not None
        if run.is_rewritten:  # the model saw other pictures, of which the report tells
            rows = [r for r in zip(record.tokens_kept, record.tokens_in, strict=True) if r[1]]
            if card.scope == "prompt":  # its pictures share what they may keep
                rows = [((sum(kept),), (sum(there),)) for kept, there in rows]
            counts = [pair for row in rows for pair in zip(*row, strict=True)]
            assert all(_is_promised(card, kept, there) for kept, there in counts), f"{where}: {record.tokens_kept} stay"
            continue
        tokens, thumbnails_stay = marked_tokens(run), card.thumbnails == "keep"
        for group in groups(tokens, PER.get(card.scope, ("image",))):
            others = [t for t in group if t["role"] != NEWLINE and not (t["role"] == THUMBNAIL and thumbnails_stay)]
            found = sum(t["kept"] for t in others)
            assert _is_promised(card, found, len(others)), f"{where}: {found} of {len(others)} stay"
        assert record.tokens_in == tuple(tuple(map(len, groups([r], ("image",)))) for r in tokens), where
        assert sum(map(sum, record.tokens_kept)) == sum(t["kept"] for r in tokens for t in r), where
        last = held(cache)[-1]
        text = [int(mask.sum()) - len(r) for mask, r in zip(inputs["attention_mask"], tokens, strict=True)]
        most = max(n + sum(t["kept"] for t in r) for n, r in zip(text, tokens, strict=True))
        pads = [len(mask) - int(mask.sum()) for mask in inputs["attention_mask"]]
        assert most <= last <= most + max(pads), f"{where}: the last layer holds {last} tokens, the longest row {most}"


def method_decodes_as_without_cache(family: TinyFamily, pipeline: str) -> None:
    """Tokens decoded on the cache equal those of a whole forward at every step."""
    model = tiny_model(family)
    for name, inputs in _method_inputs(family, pipeline).items():
        with _reduced(model, pipeline):
            cached, again = (tokens_of(model, inputs, 4, use_cache=use) for use in (True, False))
        assert cached == again, f"{pipeline} on {family.id}, {name}: decoding with and without cache differ"


def _card(pipeline: str) -> Card:
    return as_pipeline(pipeline).parts[0].method.card


def _reduced(model: Any, pipeline: str, keep: str = str(KEEP), **kwargs: Any) -> Run:
    """A run with a keep, for methods that take one."""
    return reduce(model, pipeline, keep=keep if _card(pipeline).takes_keep else None, **kwargs)


def _is_promised(card: Card, found: int, there: int) -> bool:
    """Whether a card promises so many of the tokens that are there, of which KEEP were asked."""
    if not card.takes_keep:
        return card.count == "adaptive" or found == (0 if card.min_keep == 0 else there)
    asked = max(ROUND[card.rounding](KEEP * there), card.min_keep)
    promised = card.promised_count(asked=True)
    return found == asked or promised == "adaptive" or (promised == "at_most" and 0 < found <= asked)


def _method_inputs(family: TinyFamily, pipeline: str) -> dict[str, Inputs]:
    """Prompts for a method; none where the model cannot carry it and says why."""
    verdict = can_apply(tiny_model(family), pipeline)
    if not verdict:
        assert verdict.reason, f"{pipeline} is refused on {family.id} without a reason"
        return {}
    found = {"pictures": inputs_of(family, *batches(family)["pictures"])}
    if family.takes_video and "input" not in _card(pipeline).stages:  # which change pictures alone
        found["clip"] = inputs_of(family, prompts(family)["clip"])
    return found
