"""The part of the family contract about conversations: a second question to pictures that were read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine.apply import reduce
from .families import TinyFamily
from .family_cases import Inputs, adapter_of, batches, inputs_of, longer, prompts, tiny_model, tokens_of

STEPS = 4
CACHES = {"cache", "past_key_values"}  # as transformers calls it, by version


def check_turn_on_the_cache(family: TinyFamily) -> None:
    """A pipeline that asks no question goes on from the cache: as an uncached run of the whole conversation answers."""
    model = tiny_model(family)
    for name, inputs in _first_turns(family).items():
        with reduce(model, "divprune:0.6") as run:
            cache, whole = _first_turn(model, inputs)
            number = _Count(adapter_of(family).encoder)
            arguments = run.next_turn(whole, cache)
            assert CACHES & arguments.keys(), f"{family.id}, {name}: the cache is not used"
            answer = tokens_of(model, arguments, STEPS)
            assert number.stop() == 0, f"{family.id}, {name}: the pictures were encoded again"
        with reduce(model, "divprune:0.6"):
            fresh = tokens_of(model, whole, STEPS, use_cache=False)
        assert answer == fresh, f"{family.id}, {name}: the second turn is not that of the whole conversation"


def check_turn_that_decides_again(family: TinyFamily) -> None:
    """A pipeline that asks the question decides again on the features kept aside, as a fresh run of it all does."""
    model = tiny_model(family)
    for name, inputs in _first_turns(family).items():
        with reduce(model, "fastv@2:0.4") as run:
            cache, whole = _first_turn(model, inputs)
            number = _Count(adapter_of(family).encoder)
            arguments = run.next_turn(whole, cache)
            assert not CACHES & arguments.keys(), f"{family.id}, {name}: the old decision stands"
            answer = tokens_of(model, arguments, STEPS)
            again = [k.tolist() for row in run.kept for k in row]
            assert number.stop() == 0, f"{family.id}, {name}: the pictures were encoded again"
        with reduce(model, "fastv@2:0.4") as run:
            fresh = tokens_of(model, whole, STEPS)
            kept = [k.tolist() for row in run.kept for k in row]
        assert again == kept, f"{family.id}, {name}: the second turn keeps others than a fresh run"
        assert answer == fresh, f"{family.id}, {name}: the second turn is not that of a fresh run"


class _Count:
    """Counts forward calls of a module until `stop`, which returns their number."""

    def __init__(self, module: Any) -> None:
        self._calls = 0
        self._hook = module.register_forward_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        self._calls += 1

    def stop(self) -> int:
        self._hook.remove()
        return self._calls


def _first_turns(family: TinyFamily) -> dict[str, Inputs]:
    """A prompt and a ragged batch."""
    rows = batches(family)["pictures"]
    return {"one row": inputs_of(family, list(prompts(family).values())[-1]), "batch": inputs_of(family, *rows)}


def _first_turn(model: Any, inputs: Inputs) -> tuple[Any, Inputs]:
    """The cache after an answer, and the inputs of the conversation with the next question behind it."""
    out = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True)
    answer = out.sequences[:, inputs["input_ids"].shape[1] :]
    question: Tensor = inputs["input_ids"][:, -3:].flip(1)
    return out.past_key_values, longer(model, inputs, torch.cat([answer, question], dim=1))
