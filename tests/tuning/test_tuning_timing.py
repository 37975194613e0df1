"""Time is taken in interleaved rounds, of which the first is not counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import tessella
from tessella.app.prompting import prepare
from tessella.core.pipeline import Pipeline, parse
from tessella.samples import load_samples
from tessella.tuning import timing
from tessella.tuning.timing import Latency, time_first_token


def test_rounds_are_interleaved_and_the_first_only_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def taken(model: Any, prompt: Mapping[str, Any], pipeline: Pipeline) -> float:
        calls.append((str(pipeline), prompt["number"]))
        return 1000.0 if len(calls) <= 2 else len(calls) * (10.0 if str(pipeline) == "none" else 1.0)

    monkeypatch.setattr(timing, "_milliseconds", taken)
    prompts = [{"number": 0}, {"number": 1}]
    slow, fast = time_first_token(None, prompts, [parse("none"), parse("random:0.5")], rounds=3)
    assert [name for name, _ in calls] == ["none", "random:0.5", "random:0.5", "none"] * 2
    assert [number for _, number in calls] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert slow == Latency(median=50.0, low=45.0, high=65.0)  # 40, 50 and 80
    assert fast == Latency(median=6.0, low=4.5, high=6.5)  # 3, 6 and 7


def test_milliseconds_of_a_real_model() -> None:
    model, processor = tessella.load("mini")
    [sample] = load_samples("mini:1")
    prompt = prepare(model, processor, [sample.images], [sample.question], max_new_tokens=1)
    [latency] = time_first_token(model, [prompt], [parse("random:0.1")], rounds=2)
    assert 0.5 < latency.low <= latency.median <= latency.high < 60_000
