"""Wrapped models, scopes, copies and accidents: what a model is during a reduction and after it. See
docs/compatibility.md."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import Oracle
from plain_methods import Asked, Features, Norm, Raises, fixed_kept, kept_by_norm, longest, oracles, rows_of
from plain_methods import Fixed as FixedScorer
from torch import Tensor, nn
from transformers import DynamicCache, LlavaForConditionalGeneration

import tessella
from tessella.core.errors import UnsupportedError
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava

KEEP, STEPS = 5, 8


@pytest.fixture
def model() -> LlavaForConditionalGeneration:
    return tiny_llava()


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def generate(model: Any, inputs: dict[str, Any], **kwargs: Any) -> list[list[int]]:
    out = model.generate(**inputs, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN], **kwargs)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def traces(model: nn.Module) -> dict[str, Any]:
    """All that a run could leave on a model: hooks, instance attributes, attention implementations."""
    out: dict[str, Any] = {}
    for name, module in model.named_modules():
        hooks = [len(getattr(module, h)) for h in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        config = getattr(module, "config", None)
        out[name] = (hooks, sorted(vars(module)), getattr(config, "_attn_implementation", None))
    return out


# -- wrapped models --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
def test_peft(model: Any) -> None:
    """LoRA with weights that matter; the wrapped model is what is passed."""
    from peft import LoraConfig, get_peft_model

    inputs = tiny_inputs((1, 2), padding="left")
    plain = generate(model, inputs)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])).eval()
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    inner = wrapped.get_base_model()
    kept = kept_by_norm(inner, inputs, KEEP, 2)
    rows = oracles(inner, inputs, kept, 2, "compact")
    expected = [o.greedy(STEPS) for o in rows]
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] <= IMAGE_TOKEN, -100)
    weight = wrapped.base_model.model.model.language_model.layers[3].self_attn.q_proj.lora_B["default"].weight
    with torch.enable_grad():
        targets = [x[r.padding :].tolist() for x, r in zip(labels, rows_of(inputs), strict=True)]
        parts = [o.loss(t) for o, t in zip(rows, targets, strict=True)]
        expected_loss = sum(p[0] for p in parts) / sum(p[1] for p in parts)
        [theirs] = torch.autograd.grad(expected_loss, [weight])
        with tessella.reduce(wrapped, Norm(2), keep=KEEP) as run:
            loss = wrapped(**inputs, labels=labels).loss
            [ours] = torch.autograd.grad(loss, [weight])
            full = run.expand(wrapped(**inputs).logits)
            assert generate(wrapped, inputs) == expected
    assert expected != plain
    close(loss, expected_loss)
    close(ours, theirs)
    assert theirs.abs().max() > 1e-4
    for row, oracle, mine in zip(rows_of(inputs), rows, full, strict=True):
        close(mine[[row.padding + s for s in oracle.states()[-1].slots]], oracle.logits())


@pytest.mark.parametrize("method", [Norm(2), Features(), Asked()], ids=lambda m: m.id)
@pytest.mark.parametrize("place", ["cpu", "cpu offload", "disk offload"])
def test_accelerate(model: Any, method: Any, place: str, tmp_path: Path) -> None:
    """A dispatched model answers like the one it was made from, with some layers offloaded too."""
    from accelerate import cpu_offload, disk_offload, dispatch_model

    inputs = tiny_inputs((2, 1), padding="left")
    if method.id == "norm":
        kept = kept_by_norm(model, inputs, KEEP, 2)
        expected = [o.greedy(STEPS) for o in oracles(model, inputs, kept, 2, "compact")]
    else:  # compared by value elsewhere
        with tessella.reduce(model, method, keep=KEEP):
            expected = generate(model, inputs)
    dispatched = tiny_llava()
    if place == "cpu":
        dispatched = dispatch_model(dispatched, {"": "cpu"}, force_hooks=True)
    elif place == "cpu offload":
        cpu_offload(dispatched.model.language_model.layers[1], execution_device=torch.device("cpu"))
        cpu_offload(dispatched.model.vision_tower, execution_device=torch.device("cpu"))
    else:
        disk_offload(dispatched.model.language_model.layers[2], str(tmp_path), execution_device=torch.device("cpu"))
    dispatched(**inputs)  # transformers leaves hooks of its own in the first forward
    before = traces(dispatched)
    with tessella.reduce(dispatched, method, keep=KEEP):
        assert generate(dispatched, inputs) == expected
        assert generate(dispatched, inputs, num_beams=2) == _beams(model, method, inputs)
    assert traces(dispatched) == before


def _beams(model: Any, method: Any, inputs: dict[str, Any]) -> list[list[int]]:
    with tessella.reduce(model, method, keep=KEEP):
        return generate(model, inputs, num_beams=2)


# -- scopes ----------------------------------------------------------------------------------------------------------


def test_apply_and_remove(model: Any) -> None:
    inputs = tiny_inputs()
    before = model(**inputs).logits
    kept = kept_by_norm(model, inputs, KEEP, 2)
    [oracle] = oracles(model, inputs, kept, 2, "compact")
    expected = oracle.logits()
    clean = traces(model)
    assert tessella.apply(model, Norm(2), keep=KEEP) is model
    close(model(**inputs).logits[0], expected)
    assert tessella.current_run(model).report.tokens_kept == KEEP
    assert tessella.remove(model) is model
    assert torch.equal(model(**inputs).logits, before)
    assert traces(model) == clean
    with pytest.raises(UnsupportedError, match="nothing is applied"):
        tessella.remove(model)


def test_nested_runs(model: Any) -> None:
    """The inner run replaces the outer one until it ends, also if the outer one ends first."""
    inputs = tiny_inputs()
    before = model(**inputs).logits
    clean = traces(model)
    kept = {k: kept_by_norm(model, inputs, k, 2) for k in (5, 9)}
    five, nine = (next(iter(oracles(model, inputs, kept[k], 2))).logits() for k in (5, 9))
    with tessella.reduce(model, Norm(2), keep=5, positions="original") as outer:
        close(model(**inputs).logits[0], five)
        with tessella.reduce(model, Norm(2), keep=9, positions="original") as inner:
            close(model(**inputs).logits[0], nine)
        close(model(**inputs).logits[0], five)
        with pytest.raises(UnsupportedError, match="already active"):
            outer.__enter__()
    assert (outer.report.prompts, inner.report.prompts) == (2, 1)
    assert torch.equal(model(**inputs).logits, before)
    first, second = (tessella.reduce(model, Norm(2), keep=k, positions="original") for k in (5, 9))
    first.__enter__()
    second.__enter__()
    first.__exit__()
    close(model(**inputs).logits[0], nine)
    second.__exit__()
    assert torch.equal(model(**inputs).logits, before)
    assert traces(model) == clean


def test_repeated_runs_leave_no_trace(model: Any) -> None:
    inputs = tiny_inputs()
    before = model(**inputs).logits
    clean = traces(model)
    for i in range(100):
        with tessella.reduce(model, (Asked(), Features(), Norm(1))[i % 3], keep=KEEP):
            assert traces(model) != clean
            if i % 10 < 3:
                model(**inputs)
                assert {t[2] for t in traces(model).values()} <= {"sdpa", None}
        assert traces(model) == clean
    assert torch.equal(model(**inputs).logits, before)


def test_entering_a_run_again(model: Any) -> None:
    """Its caches serve it as before."""
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2)
    expected = oracle.logits([33])[-1]
    run = tessella.reduce(model, Norm(2), keep=KEEP, positions="original")
    with run:
        cache = model(**inputs).past_key_values
    model(**inputs)
    with run:
        close(model(input_ids=torch.tensor([[33]]), past_key_values=cache).logits[0, -1], expected)
    assert run.report.prompts == 1


def test_pipelines_of_two_methods(model: Any) -> None:
    """Two cuts: at the connector, then inside."""
    inputs = tiny_inputs((2,))
    row = rows_of(inputs)[0]
    first = kept_by_norm(model, inputs, 9)[0]
    state = Oracle(model, row.ids, row.pictures, [(0, first)]).states()[2]
    oracle = Oracle(model, row.ids, row.pictures)
    second = []
    for picture in range(2):
        mine = [k for k in first if k // NUM_VISUAL == picture]
        vectors = state.hidden[[state.slots.index(oracle.visual[k]) for k in mine]]
        second += [mine[i] for i in longest(vectors, 4)]
    for positions in ("original", "compact"):
        twice = Oracle(model, row.ids, row.pictures, [(0, first), (2, second)], positions)
        if positions == "original":
            expected = twice.greedy(STEPS)
            pipeline = tessella.Pipeline(_parts(9, 4))
            with tessella.reduce(model, pipeline, positions="original") as run:
                assert generate(model, inputs) == [expected]
            assert [k.tolist() for k in run.kept[0]] == [
                [k % NUM_VISUAL for k in second if k // NUM_VISUAL == p] for p in range(2)
            ]


def _parts(*keeps: int) -> Any:
    from tessella.core.pipeline import Part

    return tuple(Part(Norm(2 * i), tessella.Budget(k)) for i, k in enumerate(keeps))


def test_two_models_at_once(model: Any) -> None:
    """Each has its own pipeline; their steps interleave."""
    other, inputs = tiny_llava(seed=1), tiny_inputs()
    [a] = oracles(model, inputs, [fixed_kept(5)], 2, "compact")
    [b] = oracles(other, inputs, kept_by_norm(other, inputs, 7), 0, "original")
    expected = [o.greedy(STEPS) for o in (a, b)]
    streams = [(model, FixedScorer(2), 5, "compact"), (other, Norm(), 7, "original")]
    runs = [tessella.reduce(m, method, keep=k, positions=p) for m, method, k, p in streams]
    with runs[0], runs[1]:
        outs = [m(**inputs) for m, *_ in streams]
        tokens: list[list[int]] = [[], []]
        for _ in range(STEPS):
            for i, (m, *_rest) in enumerate(streams):
                logits = outs[i].logits[0, -1].clone()
                logits[IMAGE_TOKEN] = -torch.inf
                tokens[i].append(int(logits.argmax()))
                new = torch.tensor([tokens[i][-1:]])
                outs[i] = m(input_ids=new, past_key_values=outs[i].past_key_values)
    assert tokens == expected
    assert [r.report.tokens_kept for r in runs] == [5, 7]


# -- accidents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lasting", [False, True], ids=["reduce", "apply"])
def test_method_that_raises(model: Any, lasting: bool) -> None:
    inputs, text = tiny_inputs(), tiny_inputs((0,))
    before, words = model(**inputs).logits, model(**text).logits
    clean = traces(model)
    for call in (lambda: model(**inputs), lambda: generate(model, inputs)):
        if lasting:
            tessella.apply(model, Raises(2), keep=KEEP)
        scope = nullcontext() if lasting else tessella.reduce(model, Raises(2), keep=KEEP)
        with pytest.raises(ArithmeticError, match="this method fails"), scope:
            call()
        if lasting:
            assert torch.equal(model(**text).logits, words)
            tessella.remove(model)
        assert traces(model) == clean
        assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("where", ["encoder", "decoder"])
def test_layer_that_raises(model: Any, where: str) -> None:
    """The run goes on with the next prompt; after it the model is as it came."""
    inputs = tiny_inputs()
    before = model(**inputs).logits
    [oracle] = oracles(model, inputs, _asked(model, inputs), 2, "compact")
    expected, answer = oracle.logits(), oracle.greedy(STEPS)
    clean = traces(model)
    layers = model.model.vision_tower.encoder.layers if where == "encoder" else model.model.language_model.layers
    with tessella.reduce(model, Asked(), keep=KEEP) as run:
        handle = layers[3 if where == "decoder" else 1].mlp.register_forward_hook(_fail)
        for call in (lambda: model(**inputs), lambda: generate(model, inputs)):
            with pytest.raises(ArithmeticError, match="this layer fails"):
                call()
        handle.remove()
        assert {t[2] for t in traces(model).values()} <= {"sdpa", None}
        close(model(**inputs).logits[0], expected)
        assert generate(model, inputs) == [answer]
        assert run.report.prompts == 2
    assert torch.equal(model(**inputs).logits, before)
    assert traces(model) == clean


def test_half_written_cache_is_refused(model: Any) -> None:
    """After a forward that broke off, in a decode step or in the prompt, the next prompt is read anew."""
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")
    answer = oracle.greedy(STEPS)
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**inputs).past_key_values
        handle = model.model.language_model.layers[3].mlp.register_forward_hook(_fail)
        with pytest.raises(ArithmeticError):
            model(input_ids=torch.tensor([[33]]), past_key_values=cache)
        handle.remove()
        with pytest.raises(UnsupportedError, match="a forward on this cache broke off"):
            model(input_ids=torch.tensor([[33]]), past_key_values=cache)
        cache = DynamicCache()
        handle = model.model.language_model.layers[3].mlp.register_forward_hook(_fail)
        with pytest.raises(ArithmeticError):
            model(**inputs, past_key_values=cache)
        handle.remove()
        with pytest.raises(UnsupportedError, match="a forward on this cache broke off"):
            model(input_ids=torch.tensor([[33]]), past_key_values=cache)
        assert generate(model, inputs) == [answer]


def test_interrupt(model: Any) -> None:
    """KeyboardInterrupt in the middle of a forward, which PyTorch's hooks do not see."""
    inputs = tiny_inputs()
    before = model(**inputs).logits
    clean = traces(model)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.model.language_model.layers[3].mlp.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), tessella.reduce(model, Asked(), keep=KEEP):
        model(**inputs)
    handle.remove()
    assert traces(model) == clean
    assert torch.equal(model(**inputs).logits, before)

    tessella.apply(model, Asked(), keep=KEEP)
    expected = generate(model, inputs)
    handle = model.model.language_model.layers[3].mlp.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(model, inputs)
    handle.remove()
    assert {t[2] for t in traces(model).values()} <= {"sdpa", None}
    with ThreadPoolExecutor(1) as pool:  # nobody holds the model
        assert pool.submit(torch.no_grad(generate), model, inputs).result() == expected


# -- copies ----------------------------------------------------------------------------------------------------------


def test_save_while_applied(model: Any, tmp_path: Path) -> None:
    """What is saved is the untouched model."""
    inputs = tiny_inputs()
    before = model(**inputs).logits
    model.save_pretrained(tmp_path / "plain")
    tessella.apply(model, Asked(), keep=KEEP)
    short = model(**inputs).logits
    model.save_pretrained(tmp_path / "applied")
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "plain" / name).read_text() == (tmp_path / "applied" / name).read_text()
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "applied").eval()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(loaded(**inputs).logits, before)
    assert torch.equal(model(**inputs).logits, short)
    assert short.shape[1] == before.shape[1] - NUM_VISUAL + KEEP


def test_deepcopy_while_applied(model: Any) -> None:
    """A copy is the untouched model: it fires nothing, generates by itself and can be reduced in turn."""
    inputs = tiny_inputs()
    before, tokens = model(**inputs).logits, generate(model, inputs)
    kept = kept_by_norm(model, inputs, 7, 2)
    other = oracles(model, inputs, kept, 2, "compact")[0].logits()
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    tessella.apply(model, Asked(), keep=KEEP)
    short = model(**inputs).logits
    prompts = tessella.current_run(model).report.prompts
    twin = copy.deepcopy(copy.deepcopy(model))
    with torch.no_grad():
        model.lm_head.weight.mul_(2)  # a copy that leans on the original would show it
    assert torch.equal(twin(**inputs).logits, before)
    assert generate(twin, inputs) == tokens
    assert torch.equal(twin(**inputs, labels=inputs["input_ids"]).loss, loss)
    assert twin.state_dict().keys() == model.state_dict().keys()
    assert tessella.current_run(twin) is None
    assert tessella.current_run(model).report.prompts == prompts
    with tessella.reduce(twin, Norm(2), keep=7):
        close(twin(**inputs).logits[0], other)
    assert torch.equal(twin(**inputs).logits, before)
    close(model(**inputs).logits, 2 * short)


# -- helpers ---------------------------------------------------------------------------------------------------------


def _fail(*_: Any) -> None:
    raise ArithmeticError("this layer fails")


def _asked(model: Any, inputs: dict[str, Any]) -> list[list[int]]:
    row = rows_of(inputs)[0]
    oracle = Oracle(model, row.ids, row.pictures)
    return [sorted(oracle.attention(1)[:, -1, oracle.visual].mean(dim=0).topk(KEEP).indices.tolist())]
