"""Wrapped models and scopes under a reduction, against an oracle of its own. See docs/compatibility.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import KEEP, STEPS, close, fixed_kept, generate, kept_by_norm, longest, oracles, rows_of
from oracle import Oracle
from plain_methods import Asked, Features, Fixed, Norm
from torch import nn
from transformers import LlavaForConditionalGeneration

import tessella
from tessella.core.errors import UnsupportedError
from tessella.core.pipeline import Part
from tessella.testing.family_cases import traces_of
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava


@pytest.fixture
def model() -> LlavaForConditionalGeneration:
    return tiny_llava()


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


@pytest.mark.filterwarnings("ignore:You are calling .generate:UserWarning")  # 5.18, of offloaded weights
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
    before = traces_of(dispatched)
    with tessella.reduce(dispatched, method, keep=KEEP):
        assert generate(dispatched, inputs) == expected
        assert generate(dispatched, inputs, num_beams=2) == _beams(model, method, inputs)
    assert traces_of(dispatched) == before


def test_inner_model(model: Any) -> None:
    """The module under the head may be passed; the whole model then runs reduced."""
    inputs = tiny_inputs((1, 2), padding="left")
    expected = [o.greedy(STEPS) for o in oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")]
    clean = traces_of(model)
    with tessella.reduce(model.model, Norm(2), keep=KEEP):
        assert generate(model, inputs) == expected
    assert traces_of(model) == clean


class EightBits(nn.Module):
    """A linear layer that keeps 8-bit integers and a scale, and no weight of its own: a stand-in for quantisation."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("integers", (linear.weight.detach() / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.integers.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def test_quantised_weights(model: Any) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            model.set_submodule(name, EightBits(module))
    inputs = tiny_inputs((1, 2), padding="left")
    plain = model(**inputs).logits
    kept = kept_by_norm(model, inputs, KEEP, 2)
    expected = [o.greedy(STEPS) for o in oracles(model, inputs, kept, 2, "compact")]
    with tessella.reduce(model, Norm(2), keep=KEEP):
        assert generate(model, inputs) == expected
    for method in ("hiprune", "visionzip", "fastv", "feather"):  # encoder, connector, attention rows, projections
        with tessella.reduce(model, method, keep=1.0) as run:
            assert torch.equal(model(**inputs).logits, plain)
        with tessella.reduce(model, method, keep=8) as run:
            model(**inputs)
        assert run.report.tokens_kept == 8 * 3


def test_tensor_parallel(model: Any) -> None:
    model._tp_size = 2  # as `from_pretrained` leaves it, which needs two processes
    with pytest.raises(
        UnsupportedError, match="tensor-parallel over 2 processes: each sees some of the attention heads"
    ):
        tessella.reduce(model, Norm(2), keep=KEEP)


def test_apply_twice(model: Any) -> None:
    tessella.apply(model, "fastv", keep=KEEP)
    with pytest.raises(UnsupportedError, match=rf"^'fastv:{KEEP}' is applied to this model already; end it: "):
        tessella.apply(model, "hiprune", keep=KEEP)
    assert str(tessella.current_run(model).pipeline) == f"fastv:{KEEP}"
    tessella.remove(model)
    assert tessella.current_run(model) is None


def test_apply_and_remove(model: Any) -> None:
    inputs = tiny_inputs()
    before = model(**inputs).logits
    kept = kept_by_norm(model, inputs, KEEP, 2)
    [oracle] = oracles(model, inputs, kept, 2, "compact")
    expected = oracle.logits()
    clean = traces_of(model)
    assert tessella.apply(model, Norm(2), keep=KEEP) is model
    close(model(**inputs).logits[0], expected)
    assert tessella.current_run(model).report.tokens_kept == KEEP
    assert tessella.remove(model) is model
    assert torch.equal(model(**inputs).logits, before)
    assert traces_of(model) == clean
    with pytest.raises(UnsupportedError, match="nothing is applied"):
        tessella.remove(model)


def test_nested_runs(model: Any) -> None:
    """The inner run replaces the outer one until it ends, also if the outer one ends first."""
    inputs = tiny_inputs()
    before = model(**inputs).logits
    clean = traces_of(model)
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
    assert traces_of(model) == clean


def test_repeated_runs_leave_no_trace(model: Any) -> None:
    inputs = tiny_inputs()
    before = model(**inputs).logits
    clean = traces_of(model)
    for i in range(100):
        with tessella.reduce(model, (Asked(), Features(), Norm(1))[i % 3], keep=KEEP):
            assert traces_of(model) != clean
            if i % 10 < 3:
                model(**inputs)
                assert {t[2] for t in traces_of(model).values()} <= {"sdpa", None}
        assert traces_of(model) == clean
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


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_pipelines_of_two_methods(model: Any, positions: str) -> None:
    """Two cuts: at the connector, then inside."""
    inputs = tiny_inputs((2,))
    row = rows_of(inputs)[0]
    [first] = kept_by_norm(model, inputs, 9)
    once = Oracle(model, row.ids, row.pictures, [(0, first)], positions)
    state = once.states()[2]
    second: list[list[int]] = []
    for picture in range(2):
        mine = [k for k in first if k // NUM_VISUAL == picture]
        vectors = state.hidden[[state.slots.index(once.visual[k]) for k in mine]]
        second.append([mine[i] for i in longest(vectors, 4)])
    twice = Oracle(
        model, row.ids, row.pictures, [(0, first), (2, [k for picture in second for k in picture])], positions
    )
    expected = twice.greedy(STEPS)
    pipeline = tessella.Pipeline((Part(Norm(), tessella.Budget(9)), Part(Norm(2), tessella.Budget(4))))
    with tessella.reduce(model, pipeline, positions=positions) as run:
        assert generate(model, inputs) == [expected]
        assert model(**inputs).logits.shape[1] == len(twice.states()[-1].slots)
    assert [k.tolist() for k in run.kept[0]] == [[k % NUM_VISUAL for k in picture] for picture in second]
    assert run.report.layers == (36, 36, 16, 16)


def test_two_models_at_once(model: Any) -> None:
    """Each has its own pipeline; their steps interleave."""
    other, inputs = tiny_llava(seed=1), tiny_inputs()
    [a] = oracles(model, inputs, [fixed_kept(5)], 2, "compact")
    [b] = oracles(other, inputs, kept_by_norm(other, inputs, 7), 0, "original")
    expected = [o.greedy(STEPS) for o in (a, b)]
    streams = [(model, Fixed(2), 5, "compact"), (other, Norm(), 7, "original")]
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


def _beams(model: Any, method: Any, inputs: dict[str, Any]) -> list[list[int]]:
    with tessella.reduce(model, method, keep=KEEP):
        return generate(model, inputs, num_beams=2)
