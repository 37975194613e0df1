"""The timing pass: what it counts, what its oracle holds, and what it writes down."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tessella
from tessella.bench import timing_pass
from tessella.bench.ledger import Ledger, read_timings
from tessella.bench.oracle import Oracle, cache_name
from tessella.bench.runner import Request, plan_work
from tessella.bench.timing_pass import TimingPass, time_work
from tessella.cli.application import run

REQUEST = Request("none,hiprune,fastv@2,downsample", "1/4", "digit", 4, only=True)


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini")


def by_method(pass_: TimingPass) -> dict[str, dict[str, Any]]:
    return {e.setting.method: pass_.result(e) for e in pass_.work.entries}


def test_what_is_measured_of_each_setting(mini: tuple[Any, Any], tmp_path: Any) -> None:
    work = plan_work(*mini, "mini", REQUEST)
    told: list[tuple[int, int]] = []
    with Ledger(tmp_path / "bench.db") as ledger:
        ledger.begin(work.settings, {})
        time_work(work, ledger, sizes=(1, 2), repeats=3, tell=lambda *n: told.append(n))
    assert told == [(1, 3), (2, 3), (3, 3)] * 2
    found = read_timings(tmp_path / "bench.db")
    assert set(found) == {(s.key, size) for s in work.settings for size in (1, 2)}
    key = {s.method: s.key for s in work.settings}
    for (_, size), measured in found.items():
        assert measured["repeats"] == 3
        assert 0 < measured["prefill_ms"]["median"] <= measured["prefill_ms"]["p95"]
        assert measured["cache_bytes"] % size == 0
    full, half = found[key["none"], 2], found[key["hiprune"], 2]
    assert full["flops"] == pytest.approx(2 * found[key["none"], 1]["flops"], rel=1e-4)  # a mask is counted, or none
    assert full["flops"] > 2 * half["flops"]
    assert full["cache_bytes"] > found[key["fastv@2"], 2]["cache_bytes"] > half["cache_bytes"]
    assert (half["oracle_ratio"] > 0, half["no_oracle"], half["from_pixels"]) == (True, None, False)
    shrunk = found[key["downsample"], 1]
    assert (shrunk["oracle_ratio"], shrunk["no_oracle"], shrunk["from_pixels"]) == (
        None,
        "it changes the pictures",
        True,
    )
    assert full["peak_bytes"] is None  # of a CPU nobody can say


def test_an_oracle_holds_in_each_layer_what_it_is_told(mini: tuple[Any, Any]) -> None:
    work = plan_work(*mini, "mini", REQUEST)
    pass_ = TimingPass(work, 2)
    oracle = Oracle(work.model, pass_.prepared.inputs, pass_.prepared.encoded)
    whole = pass_.prepared.inputs["input_ids"].shape[1]
    num_layers = len(pass_.adapter.decoder_layers)
    with torch.inference_mode():
        plain = work.model(**pass_.prepared.inputs, logits_to_keep=1).logits
        assert torch.equal(oracle.prefill().logits, plain)
        lengths = (whole - 100, whole - 100, *[whole - 150] * (num_layers - 2))
        out = oracle.prefill(lengths)
    assert tuple(layer.keys.shape[2] for layer in out[cache_name(work.model)].layers) == lengths
    again = work.model(**pass_.prepared.inputs, logits_to_keep=1).logits
    assert torch.equal(again.detach(), plain)  # its hooks are gone


def test_questions_that_are_timed_have_prompts_of_one_length(mini: tuple[Any, Any]) -> None:
    pass_ = TimingPass(plan_work(*mini, "mini", REQUEST), 3)
    assert len(pass_.prepared.asked) == 3
    assert bool(pass_.prepared.inputs["attention_mask"].all())


def test_the_command_times_what_it_measured(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(timing_pass, "REPEATS", 2)
    options = ("--methods", "none,hiprune", "--keep", "1/4", "--types", "digit", "--limit", "2", "--only", "--time")
    assert run(["bench", *options, "--out", str(tmp_path / "bench.db")]) == 0
    out = capsys.readouterr().out
    tables = out[out.index("Time and memory of a batch of 1, 2 repeats") :]
    assert "Time and memory of a batch of 8, 2 repeats" in tables
    rows = [line.split() for line in tables.splitlines() if line.startswith(("none", "hiprune"))]
    assert [row[0] for row in rows] == ["none", "hiprune"] * 2
    full, half = rows[2], rows[3]
    assert (full[1], half[1]) == ("-", "0.25")
    assert float(half[7]) < float(full[7])  # GFLOP
    assert float(half[6]) > 0  # the oracle's time by its own
    assert full[-2:] == ["-", "-"]  # no GPU
    assert run(["bench", *options, "--ray", "--out", str(tmp_path / "bench.db")]) == 2
    assert "a timing pass needs this machine to itself" in capsys.readouterr().err
