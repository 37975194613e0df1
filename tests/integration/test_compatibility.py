"""Ways to decode under a reduction, against an oracle of its own. See docs/compatibility.md."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comparing import (
    KEEP,
    PLACES,
    STEPS,
    close,
    fixed_kept,
    generate,
    kept_above,
    kept_by_asking,
    kept_by_features,
    kept_by_norm,
    longest,
    oracles,
    rows_of,
)
from oracle import Oracle, suppressed
from plain_methods import Asked, Features, Fixed, Norm
from transformers import DynamicCache

import tessella
from tessella.testing.family_cases import Above
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_greedy(model: Any, at_layer: int, positions: str) -> None:
    inputs = tiny_inputs()
    kept = kept_by_norm(model, inputs, KEEP, at_layer)
    [oracle] = oracles(model, inputs, kept, at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions) as run:
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            suppress_tokens=[IMAGE_TOKEN],
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    assert tokens == oracle.greedy(STEPS)
    for step, logits in enumerate(out.logits):
        close(logits[0], oracle.logits(tokens[:step])[-1])
    assert [k.tolist() for k in run.kept[0]] == kept
    assert run.report.decoded_tokens == STEPS - 1


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_sampling(model: Any, at_layer: int, positions: str) -> None:
    inputs = tiny_inputs((1, 1), padding="left")
    two = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    torch.manual_seed(3)
    expected: list[list[int]] = [[], []]
    for _ in range(STEPS):
        scores = torch.stack([suppressed(o.logits(e)[-1]) for o, e in zip(two, expected, strict=True)])
        for e, token in zip(expected, torch.multinomial(scores.softmax(dim=-1), 1)[:, 0].tolist(), strict=True):
            e.append(token)
    torch.manual_seed(3)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        assert generate(model, inputs, do_sample=True, top_k=0) == expected


def test_sampling_several_answers(model: Any) -> None:
    """num_return_sequences repeats the pictures of a row as a group."""
    inputs = tiny_inputs((2,))
    [kept] = kept_by_features(model, inputs)
    [oracle] = oracles(model, inputs, [kept], 0, "compact")
    torch.manual_seed(4)
    expected: list[list[int]] = [[], [], []]
    for _ in range(STEPS):
        scores = torch.stack([suppressed(oracle.logits(e)[-1]) for e in expected])
        for e, token in zip(expected, torch.multinomial(scores.softmax(dim=-1), 1)[:, 0].tolist(), strict=True):
            e.append(token)
    torch.manual_seed(4)
    with tessella.reduce(model, Features(), keep=KEEP) as run:
        assert generate(model, inputs, do_sample=True, top_k=0, num_return_sequences=3) == expected
    assert [[i * NUM_VISUAL + k for i, p in enumerate(r) for k in p.tolist()] for r in run.kept] == [kept] * 3


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_beam_search(model: Any, at_layer: int, positions: str, use_cache: bool) -> None:
    inputs = tiny_inputs((2, 1), padding="left")
    kept = kept_by_norm(model, inputs, KEEP, at_layer)
    expected = [b for o in oracles(model, inputs, kept, at_layer, positions) for b in o.beams(5, 3)[:2]]
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        assert generate(model, inputs, 5, num_beams=3, num_return_sequences=2, use_cache=use_cache) == expected


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_generate_without_cache(model: Any, monkeypatch: pytest.MonkeyPatch, at_layer: int, positions: str) -> None:
    inputs = tiny_inputs((1, 2), padding="left")
    kept = kept_by_norm(model, inputs, KEEP, at_layer)
    expected = [o.greedy(STEPS) for o in oracles(model, inputs, kept, at_layer, positions)]
    calls = _count(monkeypatch, Norm, "score")
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions) as run:
        assert generate(model, inputs, use_cache=False) == expected
    assert len(calls) == 1, "the decision is taken once"
    assert (run.report.prompts, run.report.tokens_in, run.report.tokens_kept) == (1, 3 * NUM_VISUAL, 3 * KEEP)


def test_beams_without_cache_keep_the_first_decision(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that reads the last prompt token would decide otherwise once the answer has begun."""
    inputs = tiny_inputs()
    kept = kept_by_asking(model, inputs)
    [oracle] = oracles(model, inputs, kept, 2)
    calls = _count(monkeypatch, Asked, "score")
    with tessella.reduce(model, Asked(), keep=KEEP, positions="original"):
        assert generate(model, inputs, 5, num_beams=3, use_cache=False) == [oracle.beams(5, 3)[0]]
    assert len(calls) == 1


def test_generate_twice_with_other_batches(model: Any) -> None:
    batches = [tiny_inputs((1, 1), seed=1), tiny_inputs((2,), seed=2), tiny_inputs()]
    with tessella.reduce(model, Norm(2), keep=KEEP) as run:
        answers = [generate(model, inputs) for inputs in batches]
    for got, inputs in zip(answers, batches, strict=True):
        kept = kept_by_norm(model, inputs, KEEP, 2)
        assert got == [o.greedy(STEPS) for o in oracles(model, inputs, kept, 2, "compact")]
    assert run.report.prompts == 3


@pytest.mark.parametrize("at_layer, positions", PLACES)
@pytest.mark.parametrize("images", [(1, 2), (2, 0, 1)])
def test_left_padding(model: Any, images: tuple[int, ...], at_layer: int, positions: str) -> None:
    """Rows with other numbers of pictures: other paddings, other counts."""
    inputs = tiny_inputs(images, padding="left")
    kept = kept_by_norm(model, inputs, KEEP, at_layer)
    rows = oracles(model, inputs, kept, at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions) as run:
        assert generate(model, inputs) == [o.greedy(STEPS) for o in rows]
        logits = model(**inputs).logits
        full = run.expand(logits)
    for row, oracle, mine in zip(rows_of(inputs), rows, full, strict=True):
        slots = oracle.states()[-1].slots
        close(mine[[row.padding + s for s in slots]], oracle.logits())


@pytest.mark.parametrize("at_layer, positions", PLACES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_keep_different_counts(model: Any, side: Any, at_layer: int, positions: str) -> None:
    """The engine pads what an adaptive method leaves ragged; the prompt's own padding stays on its side."""
    inputs = tiny_inputs((1, 1, 2), padding=side)
    kept = kept_above(model, inputs, at_layer)
    assert len({len(k) for k in kept}) == 3
    rows = oracles(model, inputs, kept, at_layer, positions)
    with tessella.reduce(model, Above(at_layer), positions=positions) as run:
        out = model(**inputs)
        full = run.expand(out.logits)
        if side == "left":
            assert generate(model, inputs) == [o.greedy(STEPS) for o in rows]
    for row, oracle, mine in zip(rows_of(inputs), rows, full, strict=True):
        close(mine[[row.padding + s for s in oracle.states()[-1].slots]], oracle.logits())
    longest_row = max(len(o.ids) - len(o.visual) + len(k) for o, k in zip(rows, kept, strict=True))
    assert out.logits.shape[1] <= longest_row + max(int((1 - m).sum()) for m in inputs["attention_mask"])


@pytest.mark.parametrize("at_layer", [0, 2])
def test_scope_prompt(model: Any, at_layer: int) -> None:
    """Pictures of a prompt share the budget: keep x number of pictures, of all their tokens."""
    inputs = tiny_inputs((2, 1), padding="left")
    kept = []
    for row in rows_of(inputs):
        oracle = Oracle(model, row.ids, row.pictures)
        kept.append(longest(oracle.states()[at_layer].hidden[oracle.visual], KEEP * len(row.pictures)))
    expected = [o.greedy(STEPS) for o in oracles(model, inputs, kept, at_layer, "compact")]
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, scope="prompt"):
        assert generate(model, inputs) == expected


def test_method_that_reads_attention(model: Any) -> None:
    """In a padded batch every row is asked by its own last token."""
    for side in ("left", "right"):
        inputs = tiny_inputs((1, 1), padding=side)
        kept = kept_by_asking(model, inputs)
        rows = oracles(model, inputs, kept, 2, "compact")
        with tessella.reduce(model, Asked(), keep=KEEP) as run:
            full = run.expand(model(**inputs).logits)
        assert [k[0].tolist() for k in run.kept] == kept
        for row, oracle, mine in zip(rows_of(inputs), rows, full, strict=True):
            close(mine[[row.padding + s for s in oracle.states()[-1].slots]], oracle.logits())


def test_no_picture(model: Any) -> None:
    """A prompt without pictures passes through, bit by bit, and its cache is an ordinary one."""
    inputs = tiny_inputs((0,))
    before, tokens = model(**inputs).logits, generate(model, inputs)
    with tessella.reduce(model, Norm(), keep=KEEP) as run:
        out = model(**inputs)
        assert torch.equal(out.logits, before)
        assert generate(model, inputs) == tokens
        assert type(out.past_key_values) is DynamicCache
    assert run.report.prompts == 0


def test_prompt_that_ends_with_a_picture(model: Any) -> None:
    """The last kept token speaks; the next one stands behind the whole picture."""
    inputs = {k: v[:, :-6] if v.ndim == 2 else v for k, v in tiny_inputs().items()}
    for keep_last in (True, False):
        factor = 1 if not keep_last else -1
        kept = fixed_kept(KEEP, factor)
        assert (NUM_VISUAL - 1 in kept) is keep_last
        for positions in ("original", "compact"):
            [oracle] = oracles(model, inputs, [kept], 2, positions)
            with tessella.reduce(model, Fixed(2, factor), keep=KEEP, positions=positions):
                assert generate(model, inputs) == [oracle.greedy(STEPS)]


def _count(monkeypatch: pytest.MonkeyPatch, cls: type, name: str) -> list[Any]:
    """A list that grows with every call of a method."""
    calls, original = [], getattr(cls, name)

    def counting(self: Any, *args: Any) -> Any:
        calls.append(args)
        return original(self, *args)

    monkeypatch.setattr(cls, name, counting)
    return calls
