"""Methods that cut several times inside the model: every cut, and decoding behind them, against the oracle.

What is kept is the method's business; that the model answers as it would of exactly these tokens is the engine's.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comparing import STEPS, close, generate, rows_of
from oracle import Oracle
from torch import Tensor

import tessella
from tessella.core.registry import methods
from tessella.engine.decision import Prompt
from tessella.testing.tiny import tiny_inputs, tiny_llava

NUM_LAYERS = 8
SEVERAL = sorted(i for i, cls in methods(stage="prefill").items() if not cls.card.example and not cls.card.baseline)


def cuts_of(prompt: Prompt, row: int) -> list[tuple[int, list[int]]]:
    """For each cut its layer and the kept visual tokens of a row, in the order of the sequence."""
    out = []
    for segment in prompt.segments[1:]:
        count = segment.num_visual[row]
        order = segment.visual[row, :count].argsort()
        out.append((segment.start, segment.origin[row, :count][order].tolist()))
    return out


def new_vectors(prompt: Prompt, row: int) -> dict[int, dict[int, Tensor]]:
    """For each cut that made new vectors those of a row, by token."""
    out: dict[int, dict[int, Tensor]] = {}
    for segment, decision in zip(prompt.segments, prompt.decisions, strict=False):
        if decision.vectors is None:
            continue
        reduction, units = decision.reduction, decision.units
        for u in (u for u, r in enumerate(units.source_row) if r == row):
            order = reduction.keep[u].nonzero()[:, 0] if reduction.order is None else reduction.order[u]
            for vector, i in zip(decision.vectors[u], order[order >= 0], strict=False):
                token = int(segment.origin[row, int(units.index[u, i])])
                out.setdefault(decision.at_layer, {})[token] = vector
    return out


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("method", SEVERAL)
def test_every_cut_and_eight_steps_of_decoding(method: str, positions: Any) -> None:
    model, inputs = tiny_llava(num_layers=NUM_LAYERS), tiny_inputs((1, 2, 1), padding="left")
    keep = "1/4" if tessella.make(method).card.takes_keep else None
    with torch.no_grad():
        with tessella.reduce(model, method, keep=keep, positions=positions) as run:
            logits = run.expand(model(**inputs).logits)
            prompt = run._wiring.prompt
            cached = generate(model, inputs, do_sample=False)
            assert generate(model, inputs, do_sample=False, use_cache=False) == cached
        for number, row in enumerate(rows_of(inputs)):
            cuts, new = cuts_of(prompt, number), new_vectors(prompt, number)
            oracle = Oracle(model, row.ids, row.pictures, cuts, positions, new=new)
            states = oracle.states()[-1]
            mine = logits[number]
            slots = [row.padding + s for s in states.slots]
            text = [i for i, s in enumerate(states.slots) if s not in oracle.visual]
            close(mine[[slots[i] for i in text]], oracle.logits()[text])
            assert cached[number] == oracle.greedy(STEPS)
