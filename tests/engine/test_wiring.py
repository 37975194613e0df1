"""What the wiring does when forwards break off."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import tessella
from tessella.testing.tiny import tiny_inputs, tiny_llava


def test_a_forward_after_an_interrupted_one_cleans_up() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1,))
    layer = model.model.language_model.layers[3]
    with torch.no_grad(), tessella.reduce(model, "fastv", keep=4) as run:
        expected = model(**inputs).logits
        handle = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model(**inputs)
        handle.remove()
        assert torch.equal(model(**inputs).logits, expected)
        assert model.model.language_model.config._attn_implementation == "sdpa"
        answers: list[Any] = []
        other = threading.Thread(target=lambda: answers.append(model(**inputs).logits))
        other.start()
        other.join()
        assert torch.equal(answers[0], expected)  # the run belongs to no thread between forwards
    assert run.report.prompts == 3
