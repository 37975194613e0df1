"""How long the first token takes under several pipelines, in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.pipeline import Pipeline
from ..engine.apply import reduce

ROUNDS = 15


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the prepared picture and question to the first token of the answer, one question at a time."""

    median: float
    low: float  # quartiles
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high}


def time_first_token(
    model: Any, prompts: Sequence[Mapping[str, Any]], pipelines: Sequence[Pipeline], rounds: int
) -> list[Latency]:
    """The latency of each pipeline: in every round each reads the same prompt, in an order that moves on by one.

    A round in front of the others warms up and is not counted.
    """
    taken = np.empty((rounds + 1, len(pipelines)))
    for number in range(rounds + 1):
        prompt = prompts[number % len(prompts)]
        for place in range(len(pipelines)):
            which = (place + number) % len(pipelines)
            taken[number, which] = _milliseconds(model, prompt, pipelines[which])
    low, median, high = np.percentile(taken[1:], [25, 50, 75], axis=0)
    return [Latency(*map(float, row)) for row in zip(median, low, high, strict=True)]


def _milliseconds(model: Any, prompt: Mapping[str, Any], pipeline: Pipeline) -> float:
    with reduce(model, pipeline), torch.inference_mode():
        _wait(model)
        start = time.perf_counter()
        model.generate(**prompt, max_new_tokens=1, do_sample=False, num_beams=1)
        _wait(model)
        return (time.perf_counter() - start) * 1000


def _wait(model: Any) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
