"""Exceptions, interrupts and copies: a model is as it came. See docs/compatibility.md."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import KEEP, STEPS, close, generate, kept_by_asking, kept_by_norm, oracles
from plain_methods import Asked, Norm
from transformers import DynamicCache, LlavaForConditionalGeneration

import tessella
from tessella.core.errors import UnsupportedError
from tessella.testing.family_cases import Raises, traces_of
from tessella.testing.tiny import NUM_VISUAL, tiny_inputs, tiny_llava


@pytest.fixture
def model() -> LlavaForConditionalGeneration:
    return tiny_llava()


@pytest.mark.parametrize("lasting", [False, True], ids=["reduce", "apply"])
def test_method_that_raises(model: Any, lasting: bool) -> None:
    inputs, text = tiny_inputs(), tiny_inputs((0,))
    before, words = model(**inputs).logits, model(**text).logits
    clean = traces_of(model)
    for call in (lambda: model(**inputs), lambda: generate(model, inputs)):
        if lasting:
            tessella.apply(model, Raises(2), keep=KEEP)
        scope = nullcontext() if lasting else tessella.reduce(model, Raises(2), keep=KEEP)
        with pytest.raises(ArithmeticError, match="this method fails"), scope:
            call()
        if lasting:
            assert torch.equal(model(**text).logits, words)
            tessella.remove(model)
        assert traces_of(model) == clean
        assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("where", ["encoder", "decoder"])
def test_layer_that_raises(model: Any, where: str) -> None:
    """The run goes on with the next prompt; after it the model is as it came."""
    inputs = tiny_inputs()
    before = model(**inputs).logits
    [oracle] = oracles(model, inputs, kept_by_asking(model, inputs), 2, "compact")
    expected, answer = oracle.logits(), oracle.greedy(STEPS)
    clean = traces_of(model)
    layers = model.model.vision_tower.encoder.layers if where == "encoder" else model.model.language_model.layers
    with tessella.reduce(model, Asked(), keep=KEEP) as run:
        handle = layers[3 if where == "decoder" else 1].mlp.register_forward_hook(_fail)
        for call in (lambda: model(**inputs), lambda: generate(model, inputs)):
            with pytest.raises(ArithmeticError, match="this layer fails"):
                call()
        handle.remove()
        assert {t[2] for t in traces_of(model).values()} <= {"sdpa", None}
        close(model(**inputs).logits[0], expected)
        assert generate(model, inputs) == [answer]
        assert run.report.prompts == 2
    assert torch.equal(model(**inputs).logits, before)
    assert traces_of(model) == clean


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
    clean = traces_of(model)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.model.language_model.layers[3].mlp.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), tessella.reduce(model, Asked(), keep=KEEP):
        model(**inputs)
    handle.remove()
    assert traces_of(model) == clean
    assert torch.equal(model(**inputs).logits, before)

    tessella.apply(model, Asked(), keep=KEEP)
    expected = generate(model, inputs)
    handle = model.model.language_model.layers[3].mlp.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(model, inputs)
    handle.remove()
    assert {t[2] for t in traces_of(model).values()} <= {"sdpa", None}
    with ThreadPoolExecutor(1) as pool:  # nobody holds the model
        assert pool.submit(torch.no_grad(generate), model, inputs).result() == expected


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


def _fail(*_: Any) -> None:
    raise ArithmeticError("this layer fails")
