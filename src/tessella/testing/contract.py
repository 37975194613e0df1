"""The contract suite: what every method must keep, ours or a third party's, checked by the method's own card.

`check_method(method)` runs all checks; `CHECKS` names them for parametrised tests. Each raises AssertionError saying
what was broken. The checks call the method on random arrays; `model_contract` runs it in a model.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.budget import Budget, Counts
from ..core.cards import NEEDS
from ..core.contracts import Corrector, Method, Rewriter, Scorer, Step
from ..core.pipeline import Part, Pipeline, parse
from ..core.reduction import Reduction
from .array_view import ArrayView, default_info
from .random_view import LOUD, NUM_TEXT, Item, Widths, random_view

ITEMS = (Item(4, 6, seed=1), Item(3, 5, seed=2), Item(1, 7, seed=3))
CLIPS = (Item(2, 3, seed=1, frames=4), Item(1, 3, seed=2, frames=5), Item(1, 7, seed=3))  # as many tokens; a picture
KEEPS = ((9, 6, 3), (1, 1, 1), (2, 14, 7), (23, 8, 1))  # ragged; the third keeps the whole last item


def check_method(method: Method) -> None:
    """Run every check; raises AssertionError naming the method, the check and what was broken."""
    for name, check in CHECKS.items():
        try:
            check(method)
        except AssertionError as error:
            raise AssertionError(f"{method.id}, check '{name}': {error}") from error


def check_card(method: Method) -> None:
    """The card agrees with the class, its file and what it captures."""
    cls, card, info = type(method), method.card, default_info()
    assert card.title.strip(), "the card has no title"
    spelled = cls.__name__.lower() == method.id.replace("_", "")
    assert spelled, f"class {cls.__name__} is not spelled like its id {method.id!r}"
    text = sys.modules[cls.__module__].__doc__ or ""
    for word in ("Paper", "Acts", "Needs", "Differs"):
        assert any(line.startswith(f"{word} ") for line in text.splitlines()), f"the docstring has no line '{word}'"
    known = card.baseline or card.example or (card.paper and card.year)
    assert known, "neither a paper with its year nor a baseline nor a wrapper with an example"
    assert card.min_keep >= 0, f"min_keep is {card.min_keep}"
    needs = method.needs(info)
    assert set(needs) <= set(NEEDS), f"needs() names {set(needs) - set(NEEDS)}, which is no need of cards.NEEDS"
    if isinstance(method, Rewriter):
        return
    steps = _steps(method)
    assert steps, "it has no step"
    assert [s.at_layer for s in steps] == sorted(s.at_layer for s in steps), "its steps are not in order of layer"
    for step in steps:
        assert step.stage in card.stages, f"a step acts at {step.stage!r}, which the card does not list"
        for layers, need in (
            (step.captures.encoder, {"class_token", "attention_received", "encoder_keys"}),
            (step.captures.decoder, {"decoder_rows"}),
            (step.captures.decoder_inputs, {"projection"}),
            ((0,) if step.captures.class_features else (), {"class_token"}),
        ):
            assert not layers or need & set(needs), f"captures() reads what needs() does not say: one of {sorted(need)}"


def check_frozen(method: Method) -> None:
    """Nothing of a method can be set, and equal settings are one method."""
    for name in [f.name for f in dataclasses.fields(method)] or ["anything"]:  # type: ignore[arg-type]
        try:
            setattr(method, name, getattr(method, name, None))
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"{name} can be set: the class is no frozen dataclass")
    assert copy.deepcopy(method) == method, "a copy is not equal"
    assert pickle.loads(pickle.dumps(method)) == method, "a pickled copy is not equal"
    assert hash(copy.deepcopy(method)) == hash(method), "a copy has another hash"


def check_repr(method: Method) -> None:
    """`repr` rebuilds the method."""
    again = eval(repr(method), {type(m).__name__: type(m) for m in _nested(method)})
    assert again == method, f"eval({method!r}) gives another method"
    assert repr(again) == repr(method), f"eval({method!r}) has the repr {again!r}"


def check_text(method: Method) -> None:
    """The pipeline text reads back to the same method, with and without a budget."""
    budgets = (None, Budget(5), Budget("1/3", "tile")) if method.card.takes_keep else (None,)
    for budget in budgets:
        pipeline = Pipeline((Part(method, budget),))
        assert parse(str(pipeline)) == pipeline, f"'{pipeline}' reads back as '{parse(str(pipeline))}'"


def check_count(method: Method) -> None:
    """As many tokens stay as the card promises, and `num_kept` says how many."""
    for step, counts in _runs(method):
        reduction = step.reduce(_view(method, step), counts)
        kept = reduction.keep.sum(dim=1).tolist()
        told = reduction.num_kept
        assert told is None or list(told) == kept, f"num_kept says {told}, the mask keeps {kept}"
        if not method.card.takes_keep:
            continue
        if step.promised_count == "exact":
            assert kept == list(counts.num_keep), f"asked for exactly {counts.num_keep}, kept {kept}"
            assert told is not None, "an exact count is known without asking the device; num_kept must give it"
        for count, asked, there in zip(kept, counts.num_keep, counts.num_tokens, strict=True):
            most = asked if step.promised_count == "at_most" else there
            assert min(step.method.card.min_keep, there) <= count <= most, f"kept {count}, allowed up to {most}"


def check_real_tokens(method: Method) -> None:
    """Padding is never kept, and `keep` is a mask of the tokens' shape."""
    for step, counts in _runs(method):
        view = _view(method, step)
        keep = step.reduce(view, counts).keep
        assert keep.dtype == torch.bool, f"keep is {keep.dtype}, not bool"
        assert keep.shape == view.mask.shape, f"keep is {tuple(keep.shape)}, tokens are {tuple(view.mask.shape)}"
        assert not (keep & ~view.mask).any(), "padding was kept"


def check_aligned(method: Method) -> None:
    """`order`, `embeddings`, `source` and `weights` fit the kept slots."""
    for step, counts in _runs(method):
        view = _view(method, step)
        reduction = step.reduce(view, counts)
        kept = [row.nonzero()[:, 0].tolist() for row in reduction.keep]
        most = max(map(len, kept))
        if reduction.order is not None:
            order = [[i for i in row if i >= 0] for row in reduction.order.tolist()]
            assert [sorted(o) for o in order] == kept, "order does not hold each kept slot once"
            padded = [row[len(o) :] for row, o in zip(reduction.order.tolist(), order, strict=True)]
            assert all(p == -1 for row in padded for p in row), "order is not padded with -1 at the end"
        if reduction.embeddings is not None:
            assert reduction.embeddings.shape[:2] == (len(kept), most), (
                f"embeddings are {tuple(reduction.embeddings.shape)} for up to {most} kept tokens"
            )
            like = view.features() if reduction.space == "encoder" else view.tokens.embeddings
            assert reduction.embeddings.shape[2] == like.shape[2], f"embeddings are not in {reduction.space} space"
            assert all(reduction.embeddings[b, : len(k)].isfinite().all() for b, k in enumerate(kept)), "not finite"
        if reduction.source is not None:
            for b, slots in enumerate(kept):
                source = reduction.source[b, : view.layout.num_tokens[b]].tolist()
                assert set(source) <= {-1, *slots}, "source names a slot that is not kept"
                assert all(source[i] == i for i in slots), "a kept slot is not its own source"
        if reduction.weights is not None:
            assert reduction.weights.shape == (len(kept), most, view.mask.shape[1]), "weights are not [B, K, V]"


def check_alone(method: Method) -> None:
    """An item gives the same alone as in a ragged batch with others."""
    for step, counts in _runs(method):
        together = step.reduce(_view(method, step), counts)
        for b, item in enumerate(_items(method)):
            one = Counts(counts.num_keep[b : b + 1], counts.num_tokens[b : b + 1], counts.asked)
            alone = step.reduce(_view(method, step, [item]), one)
            _same(_item(alone, 0, item), _item(together, b, item), f"item {b} alone and in a batch")


def check_deterministic(method: Method) -> None:
    """The same call gives the same answer, reads no global random state and leaves it as it was."""
    for step, counts in _runs(method):
        torch.manual_seed(1)
        first = step.reduce(_view(method, step), counts)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        second = step.reduce(_view(method, step), counts)
        assert torch.equal(torch.get_rng_state(), state), "it draws from torch's global generator"
        for b, item in enumerate(_items(method)):
            _same(_item(first, b, item), _item(second, b, item), "two calls")


def check_dtypes(method: Method) -> None:
    """float32 and bfloat16 both work, and new embeddings come in the dtype of the model."""
    for dtype in (torch.float32, torch.bfloat16):
        for step, counts in _runs(method):
            view = _view(method, step, dtype=dtype)
            reduction = step.reduce(view, counts)
            if method.card.takes_keep and step.promised_count == "exact":
                kept = tuple(reduction.keep.sum(dim=1).tolist())
                assert kept == counts.num_keep, f"{dtype}: asked for {counts.num_keep}, kept {kept}"
            if reduction.embeddings is not None:
                assert reduction.embeddings.dtype == dtype, f"embeddings are {reduction.embeddings.dtype}, not {dtype}"


def check_inputs(method: Method) -> None:
    """No array of the view is written to."""
    for step, counts in _runs(method):
        view = _view(method, step)
        before = {name: copy.deepcopy(value) for name, value in view._given.items() if not callable(value)}
        step.reduce(view, counts)
        for name, value in before.items():
            for was, now in zip(_tensors(value), _tensors(view._given[name]), strict=True):
                assert torch.equal(was, now), f"{name} was written to"


def check_one_token(method: Method) -> None:
    """A picture of one token works."""
    items = (Item(1, 1, seed=4),)
    for step in _steps(method):
        view = _view(method, step, items)
        keep = step.reduce(view, Counts((1,), (1,), method.card.takes_keep)).keep
        assert keep.shape == (1, 1), f"keep is {tuple(keep.shape)} for one token"
        assert bool(keep[0, 0]) or step.method.card.min_keep == 0, "the only token was dropped"


def check_ties(method: Method) -> None:
    """When all scores tie, protected tokens stay, then the earliest ones."""
    if not isinstance(method, Scorer) or not _keeps_highest(method):
        return
    tied: Scorer = object.__new__(
        type("Tied", (type(method),), {"score": lambda self, view: torch.zeros(view.mask.shape)})
    )
    tied.__dict__.update(method.__dict__)
    for step, counts in _runs(tied):
        view = _view(method, step)
        protected = method.protect(view)
        keep = tied.reduce(view, counts).keep
        num_kept = counts.num_keep if step.promised_count == "exact" else keep.sum(dim=1).tolist()
        for b, (count, there) in enumerate(zip(num_kept, counts.num_tokens, strict=True)):
            first = [] if protected is None else protected[b, :there].nonzero()[:, 0].tolist()
            others = [i for i in range(there) if i not in first]
            want = sorted((first + others)[:count])
            assert keep[b].nonzero()[:, 0].tolist() == want, f"at ties {want} should stay of item {b}"


CHECKS: dict[str, Callable[[Method], None]] = {
    "card": check_card,
    "frozen": check_frozen,
    "repr": check_repr,
    "text": check_text,
    "count": check_count,
    "real_tokens": check_real_tokens,
    "aligned": check_aligned,
    "alone": check_alone,
    "deterministic": check_deterministic,
    "dtypes": check_dtypes,
    "inputs": check_inputs,
    "one_token": check_one_token,
    "ties": check_ties,
}


def _items(method: Method) -> tuple[Item, ...]:
    """What the suite shows a method."""
    return CLIPS if "frames" in method.card.needs else ITEMS


def _view(
    method: Method, step: Step, items: Sequence[Item] | None = None, dtype: torch.dtype = torch.float32
) -> ArrayView:
    """A view in front of a cut, with what the method has observed by then and left in its state at earlier cuts."""
    items = _items(method) if items is None else items
    view = random_view(items, step.captures, dtype, at_layer=step.at_layer)
    state: dict[str, Any] = {}
    there = tuple(item.num_tokens for item in items)
    for earlier in _steps(method):
        before = random_view(items, earlier.captures, dtype, at_layer=earlier.at_layer)
        before.state = state
        for point in (p for p in earlier.observes if p.layer < step.at_layer):
            inputs, outputs = (_sequences(items, f"{point} {what}", dtype) for what in ("in", "out"))
            earlier.method.observe(before, point, inputs, outputs)
        if earlier.at_layer >= step.at_layer:
            break
        earlier.reduce(before, Counts(there, there, asked=method.card.takes_keep))
    view.state = state
    return view


def _sequences(items: Sequence[Item], name: str, dtype: torch.dtype) -> Tensor:
    """Hidden states of the whole sequences of some items, padded to the longest."""
    each = [i.draw(name, i.num_tokens + NUM_TEXT, Widths().channels) for i in items]
    return torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=LOUD).to(dtype)


def _keeps_highest(method: Scorer) -> bool:
    """Whether a scorer, or the one that it corrects, keeps the highest scores and does no more."""
    inner = method.scorer if isinstance(method, Corrector) else method
    return type(inner).decide is Scorer.decide


def _steps(method: Method) -> tuple[Step, ...]:
    """The cuts of a method fitted to the suite's model; none where it rewrites inputs."""
    if isinstance(method, Rewriter):
        return ()
    info = default_info()
    return method.fit(info).steps(info, Budget("1/2") if method.card.takes_keep else None)


def _runs(method: Method) -> Iterator[tuple[Step, Counts]]:
    """Every cut with every budget of the suite."""
    there = tuple(i.num_tokens for i in ITEMS)
    for step in _steps(method):
        if not method.card.takes_keep:
            yield step, Counts(there, there, asked=False)
            continue
        for keep in KEEPS:
            least = [min(method.card.min_keep, n) for n in there]
            yield step, Counts(tuple(max(k, m) for k, m in zip(keep, least, strict=True)), there)


def _nested(method: Method) -> Iterator[Method]:
    yield method
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        value = getattr(method, field.name)
        if isinstance(value, Method):
            yield from _nested(value)


def _item(reduction: Reduction, b: int, item: Item) -> dict[str, Tensor]:
    """What a reduction says of one item, without padding."""
    kept = int(reduction.keep[b].sum())
    out = {"keep": reduction.keep[b, : item.num_tokens]}
    if reduction.order is not None:
        out["order"] = reduction.order[b, :kept]
    if reduction.embeddings is not None:
        out["embeddings"] = reduction.embeddings[b, :kept]
    if reduction.source is not None:
        out["source"] = reduction.source[b, : item.num_tokens]
    return out


def _same(one: dict[str, Tensor], other: dict[str, Tensor], what: str) -> None:
    assert one.keys() == other.keys(), f"{what}: answers {sorted(one)} and {sorted(other)}"
    for name, value in one.items():
        if value.is_floating_point():
            equal = torch.allclose(value, other[name], rtol=1e-4, atol=1e-5)
        else:
            equal = torch.equal(value, other[name])
        assert equal, f"{what} differ in {name}"


def _tensors(value: object) -> Sequence[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _tensors(v)]
    if isinstance(value, tuple):
        return [t for v in value for t in _tensors(v)]
    return []
