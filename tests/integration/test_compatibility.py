"""Decoding modes and caches under a reduction, against an oracle of its own. See docs/compatibility.md."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from oracle import Oracle, suppressed
from plain_methods import Above, Asked, Features, Norm, fixed_kept, kept_by_norm, longest, oracles, rows_of
from plain_methods import Fixed as FixedScorer
from torch import Tensor, nn
from transformers import DynamicCache, LlavaForConditionalGeneration

import tessella
from tessella.core.errors import UnsupportedError
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava

KEEP, STEPS = 5, 8
PLACES = [(0, "original"), (0, "compact"), (2, "original"), (2, "compact")]


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return tiny_llava()


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def generate(model: Any, inputs: dict[str, Any], steps: int = STEPS, **kwargs: Any) -> list[list[int]]:
    """New tokens of each row."""
    out = model.generate(**inputs, max_new_tokens=steps, suppress_tokens=[IMAGE_TOKEN], **kwargs)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


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
    row = rows_of(inputs)[0]
    features = model.model.vision_tower(row.pictures, output_hidden_states=True).hidden_states[-2][:, 1:]
    kept = [i * NUM_VISUAL + k for i, f in enumerate(features) for k in longest(f, KEEP)]
    oracle = Oracle(model, row.ids, row.pictures, [(0, kept)], "compact")
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
    kept = _asked(model, inputs)
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
    kept = []
    for row in rows_of(inputs):
        oracle = Oracle(model, row.ids, row.pictures)
        norms = oracle.states()[at_layer].hidden[oracle.visual].norm(dim=-1).split(NUM_VISUAL)
        kept.append([i * NUM_VISUAL + int(k) for i, n in enumerate(norms) for k in (n > n.mean()).nonzero()])
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
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, scope="prompt"):
        expected = [o.greedy(STEPS) for o in oracles_outside(model, inputs, kept, at_layer)]
        assert generate(model, inputs) == expected


def test_method_that_reads_attention(model: Any) -> None:
    """In a padded batch every row is asked by its own last token."""
    for side in ("left", "right"):
        inputs = tiny_inputs((1, 1), padding=side)
        kept = _asked(model, inputs)
        rows = oracles(model, inputs, kept, 2, "compact")
        with tessella.reduce(model, Asked(), keep=KEEP) as run:
            full = run_logits(model, run, inputs)
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
            with tessella.reduce(model, FixedScorer(2, factor), keep=KEEP, positions=positions):
                assert generate(model, inputs) == [oracle.greedy(STEPS)]


# -- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_layer, positions", PLACES)
@pytest.mark.parametrize("whole", [True, False], ids=["full ids", "new ids"])
def test_second_turn(model: Any, at_layer: int, positions: str, whole: bool) -> None:
    """generate on a used cache, given the whole conversation or only what is new with the whole mask."""
    inputs = tiny_inputs((1, 2), padding="left")
    kept = kept_by_norm(model, inputs, KEEP, at_layer)
    rows = oracles(model, inputs, kept, at_layer, positions)
    question = torch.tensor([[33, 34, 35], [41, 42, 43]])
    calls = []
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions) as run:
        cache = DynamicCache()
        first = model.generate(**inputs, past_key_values=cache, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])
        # the last token of an answer is not in the cache yet
        told = torch.cat([first, question], dim=1)
        mask = nn.functional.pad(inputs["attention_mask"], (0, told.shape[1] - inputs["input_ids"].shape[1]), value=1)
        ids = told if whole else told[:, cache.get_seq_length() :]
        second = generate(model, {"input_ids": ids, "attention_mask": mask}, past_key_values=cache)
        calls.append(run.report.prompts)
    for oracle, answer, more, got in zip(rows, first.tolist(), question.tolist(), second, strict=True):
        said = answer[inputs["input_ids"].shape[1] :]
        assert said == oracle.greedy(STEPS)
        assert got == oracle.greedy(STEPS, [*said, *more])
    assert calls == [1]


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_several_tokens_on_a_cache(model: Any, at_layer: int, positions: str) -> None:
    """forward with several new tokens, then with one."""
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        cache = model(**inputs).past_key_values
        three = model(input_ids=torch.tensor([[33, 34, 35]]), past_key_values=cache).logits[0]
        one = model(input_ids=torch.tensor([[36]]), past_key_values=cache).logits[0]
    expected = oracle.logits([33, 34, 35, 36])
    close(three, expected[-4:-1])
    close(one, expected[-1:])


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_mask_that_hides_the_past(model: Any, at_layer: int, positions: str) -> None:
    """A second turn may hide text and pictures of the first, kept or not."""
    inputs = tiny_inputs()
    kept = kept_by_norm(model, inputs, KEEP, at_layer)
    [oracle] = oracles(model, inputs, kept, at_layer, positions)
    plain = oracle.logits([33, 34])[-2:]
    oracle.unseen = {1, 20, oracle.visual[kept[0][0]], oracle.visual[0]}
    mask = torch.ones(1, 27).long()
    mask[0, sorted(oracle.unseen)] = 0
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        cache = model(**inputs).past_key_values
        got = model(input_ids=torch.tensor([[33, 34]]), attention_mask=mask, past_key_values=cache).logits[0]
    close(got, oracle.logits([33, 34])[-2:])
    assert (got - plain).abs().max() > 0.01


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_second_turn_with_embeddings(model: Any, at_layer: int, positions: str) -> None:
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    told = torch.cat([inputs["input_ids"], torch.tensor([[33, 34, 35]])], dim=1)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        cache = model(**inputs).past_key_values
        embeds = model.get_input_embeddings()(told)
        given = {"inputs_embeds": embeds, "attention_mask": torch.ones_like(told), "past_key_values": cache}
        got = model.generate(**given, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])
    assert got[0].tolist() == oracle.greedy(STEPS, [33, 34, 35])


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_crop(model: Any, at_layer: int, positions: str) -> None:
    inputs = tiny_inputs((1, 2), padding="left")
    rows = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        cache = DynamicCache()
        model.generate(**inputs, past_key_values=cache, max_new_tokens=STEPS)
        cache.crop(-(STEPS - 1) - 2)  # the answer and two tokens of the prompt
        length = inputs["input_ids"].shape[1] - 2
        assert cache.get_seq_length() == length
        told = torch.cat([inputs["input_ids"][:, :length], torch.tensor([[33, 34], [41, 42]])], dim=1)
        again = generate(model, {**_text(inputs), "input_ids": told}, past_key_values=cache)
    for oracle, more, got in zip(rows, ([33, 34], [41, 42]), again, strict=True):
        oracle.ids = oracle.ids[:-2]
        assert got == oracle.greedy(STEPS, more)


def test_crop_into_a_picture_is_refused(model: Any) -> None:
    """Layers would lose other tokens each, because some of the last ones are gone from some layers."""
    inputs = tiny_inputs()
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**inputs).past_key_values
        with pytest.raises(UnsupportedError, match=r"cannot crop 7 tokens .* reaches visual tokens"):
            cache.crop(-7)
        lengths = [layer.keys.shape[2] for layer in cache.layers]
    assert lengths == [25, 25, 9 + KEEP, 9 + KEEP]
    assert cache.get_seq_length() == 25


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_copy_of_a_cache(model: Any, at_layer: int, positions: str) -> None:
    """A prefix is read once and continued twice; neither continuation sees the other."""
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions) as run:
        prefix = model(**inputs).past_key_values
        for question in ([33, 34], [41]):
            cache = copy.deepcopy(prefix)
            told = torch.cat([inputs["input_ids"], torch.tensor([question])], dim=1)
            got = generate(model, {"input_ids": told, "attention_mask": torch.ones_like(told)}, past_key_values=cache)
            assert got == [oracle.greedy(STEPS, question)]
        assert prefix.get_seq_length() == inputs["input_ids"].shape[1]
        assert run.report.prompts == 1


def test_rows_of_a_cache(model: Any) -> None:
    """batch_select_indices and batch_repeat_interleave take the decision along."""
    inputs = tiny_inputs((1, 2), padding="left")
    rows = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**_with_positions(inputs)).past_key_values
        cache.batch_select_indices(torch.tensor([1, 0]))
        cache.batch_repeat_interleave(2)
        mask = inputs["attention_mask"][[1, 1, 0, 0]]
        mask = torch.cat([mask, torch.ones(4, 1).long()], dim=1)
        new = torch.tensor([[33], [34], [35], [36]])
        where = mask.sum(dim=1, keepdim=True) - 1
        got = model(input_ids=new, attention_mask=mask, position_ids=where, past_key_values=cache).logits[:, -1]
    for i, row in enumerate((1, 1, 0, 0)):
        close(got[i], rows[row].logits([33 + i])[-1])


def test_reset_cache_is_ordinary_again(model: Any) -> None:
    inputs, text = tiny_inputs(), tiny_inputs((0,))
    expected = generate(model, text)
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**inputs).past_key_values
    cache.reset()
    assert type(cache) is DynamicCache
    assert generate(model, text, past_key_values=cache) == expected


# -- helpers ---------------------------------------------------------------------------------------------------------


def oracles_outside(model: Any, inputs: dict[str, Any], kept: list[list[int]], at_layer: int) -> list[Oracle]:
    """Oracles on a twin of the model, because the model itself is being reduced."""
    return oracles(tiny_llava(), inputs, kept, at_layer, "compact")


def run_logits(model: Any, run: Any, inputs: dict[str, Any]) -> Tensor:
    return run.expand(model(**inputs).logits)


def _asked(model: Any, inputs: dict[str, Any]) -> list[list[int]]:
    """What `Asked` keeps of rows with one picture."""
    out = []
    for row in rows_of(inputs):
        oracle = Oracle(model, row.ids, row.pictures)
        out.append(sorted(oracle.attention(1)[:, -1, oracle.visual].mean(dim=0).topk(KEEP).indices.tolist()))
    return out


def _count(monkeypatch: pytest.MonkeyPatch, cls: type, name: str) -> list[Any]:
    """A list that grows with every call of a method."""
    calls, original = [], getattr(cls, name)

    def counting(self: Any, *args: Any) -> Any:
        calls.append(args)
        return original(self, *args)

    monkeypatch.setattr(cls, name, counting)
    return calls


def _text(inputs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in inputs.items() if k != "pixel_values"}


def _with_positions(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs with the positions that `generate` would give."""
    mask = inputs["attention_mask"]
    return {**inputs, "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}
