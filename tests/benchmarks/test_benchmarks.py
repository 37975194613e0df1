"""The benchmark scripts on a tiny configuration: structure and arithmetic of their records, never times."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tessella
from tessella.bench.ledger import PARTS, Ledger
from tessella.bench.records import Record, Setting
from tessella.core.contracts import Rewriter
from tessella.core.registry import load_class, method_modules

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
KEEP = 4


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """The scripts import each other by name, as they do when they are run."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def latency(scripts: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run("latency", tmp_path_factory.mktemp("latency") / "record.json", "--new-tokens", "2")


@pytest.fixture(scope="module")
def selection(scripts: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run("selection", tmp_path_factory.mktemp("selection") / "record.json", "--rounds", "2")


def run(script: str, path: Path, *arguments: str) -> dict[str, Any]:
    assert importlib.import_module(script).main(["--tiny", "--device", "cpu", "--out", str(path), *arguments]) == 0
    return json.loads(path.read_text(encoding="utf-8"))


def methods_with_a_keep() -> set[str]:
    """Every registered method whose pipeline has a keep to give or to fill in."""
    found = set()
    for name in method_modules():
        parts = tessella.parse(load_class(name).card.example or name).parts
        if any(p.budget or p.method.card.takes_keep for p in parts):
            found.add(name)
    return found


# -- latency ---------------------------------------------------------------------------------------------------------


def test_latency_measures_every_method(latency: dict[str, Any]) -> None:
    assert latency["finished"]
    assert [b["batch"] for b in latency["batches"]] == [1, 2]
    for batch in latency["batches"]:
        measured = {s["case"]["method"] for s in batch["settings"] if s["case"]}
        refused = {label.partition(":")[0] for label in batch["refused"]}
        assert measured | refused == methods_with_a_keep() | {"none"}
        assert {"full", "none"} <= {s["label"] for s in batch["settings"]}


def test_latency_keeps_every_time_and_sums_them_up(latency: dict[str, Any]) -> None:
    for batch in latency["batches"]:
        for setting in [*batch["settings"], *batch["encode"]]:
            for part, times in setting["ms"].items():
                assert len(times) == (1 if part in ("decode", "encode") else batch["rounds"])
                assert setting["median_ms"][part] == statistics.median(times)
                spread = 0 if len(times) == 1 else abs(times[0] - times[1]) / 2  # quartiles of two values
                assert setting["iqr_ms"][part] == pytest.approx(spread)
            ms = setting["ms"]
            if "score" in ms:
                parts = zip(ms["score"], ms["select"], ms["prefill"], strict=True)
                assert [sum(p) for p in parts] == pytest.approx(ms["language_model"])


def test_latency_ratios_are_quotients_of_medians(latency: dict[str, Any]) -> None:
    for batch in latency["batches"]:
        medians = {s["label"]: s["median_ms"] for s in batch["settings"]}
        encodes = {s["label"]: s["median_ms"]["encode"] for s in batch["encode"]}
        settings = {s["label"]: s for s in batch["settings"]}
        full = medians["full"]["language_model"]
        for c in batch["comparisons"]:
            if c["kind"] == "rewriter":
                whole = medians["full, with the encoder"]["whole"] / medians[c["label"]]["whole"]
                assert c["full_over_ours"] == pytest.approx(whole)
                continue
            ours = medians[c["label"]]["language_model"]
            assert c["full_over_ours"] == pytest.approx(full / ours)
            ms = settings[c["label"]]["ms"]
            chosen = statistics.median(a + b for a, b in zip(ms["score"], ms["select"], strict=True))
            assert c["selection_share"] == pytest.approx(chosen / full)
            method = settings[c["label"]]["case"]["method"]
            assert c["encode_ratio"] == pytest.approx(encodes["plain"] / encodes[method])
            if method == "none":
                assert c["oracle"] is c["oracle_ratio"] is c["oracle_goal_met"] is c["selection_goal_met"] is None
                continue
            assert c["oracle_ratio"] == pytest.approx(medians[c["oracle"]]["language_model"] / ours)
            assert c["fully_short_ratio"] == pytest.approx(medians[c["fully_short"]]["language_model"] / ours)
            assert c["oracle_goal_met"] == (c["oracle_ratio"] >= {"connector": 0.95, "prefill": 0.93}[c["kind"]])
            assert c["selection_goal_met"] == (c["selection_share"] < 0.02 if c["cost"] == "light" else None)


def test_latency_oracles_hold_as_many_tokens_as_the_methods(latency: dict[str, Any]) -> None:
    text, whole = latency["text_tokens"], 16 + latency["text_tokens"]
    for batch in latency["batches"]:
        lengths = {s["label"]: s["layer_lengths"] for s in batch["settings"]}
        compared = {c["label"]: c for c in batch["comparisons"]}
        assert lengths["none"] == [whole] * 2
        assert lengths[f"divprune:{KEEP}"] == [text + KEEP] * 2
        assert lengths[f"fastv:{KEEP}"] == [whole, text + KEEP]
        for c in batch["comparisons"]:
            if c.get("oracle"):
                assert lengths[c["oracle"]] == lengths[c["label"]]
                assert lengths[c["fully_short"]] == [lengths[c["label"]][-1]] * 2
        assert [compared[f"{m}:{KEEP}"]["kind"] for m in ("divprune", "fastv")] == ["connector", "prefill"]


def test_the_oracle_is_the_plain_model_on_a_sliced_sequence(scripts: None) -> None:
    passes_, shapes = importlib.import_module("passes"), importlib.import_module("shapes")
    device = torch.device("cpu")
    model = shapes.build_model(shapes.TINY, device, torch.float32)
    inputs = shapes.build_inputs(shapes.TINY, 2, 10, device, torch.float32)
    with torch.inference_mode():
        passes = passes_.Passes(model, inputs, num_new=2)
        before = [dict(m._forward_pre_hooks) for m in model.modules()]
        seen: list[list[int]] = []
        handles = [
            layer.register_forward_hook(lambda m, a, out, seen=seen: seen.append(list(out.shape)))
            for layer in model.model.language_model.layers
        ]
        passes.plain([26, 14], decode=True)
        assert seen == [[2, 26, 32], [2, 14, 32]] + [[2, 1, 32]] * 4
        seen.clear()
        passes.plain([14, 14])
        assert seen == [[2, 14, 32]] * 2
        seen.clear()
        passes.plain()
        assert seen == [[2, 26, 32]] * 2
        for handle in handles:
            handle.remove()
    assert [dict(m._forward_pre_hooks) for m in model.modules()] == before


def test_a_latency_run_broken_off_writes_what_it_has(
    scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes_, script = importlib.import_module("passes"), importlib.import_module("latency")
    original, calls = passes_.Passes.reduced, []

    def interrupted(self: Any, case: Any, decode: bool = False) -> Any:
        calls.append(case.label)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return original(self, case, decode)

    monkeypatch.setattr(passes_.Passes, "reduced", interrupted)
    path = tmp_path / "record.json"
    options = ["--tiny", "--device", "cpu", "--method", "fastv", "--new-tokens", "1", "--out", str(path)]
    assert script.main(options) == 130
    record = json.loads(path.read_text(encoding="utf-8"))
    assert not record["finished"]
    # two calls to prepare, then both cases of the first round; the second round broke off
    measured = {s["label"]: s["ms"].get("language_model", []) for s in record["batches"][0]["settings"]}
    assert [len(measured[label]) for label in ("none", f"fastv:{KEEP}")] == [1, 1]
    assert len(record["batches"]) == 1


# -- selection -------------------------------------------------------------------------------------------------------


def test_selection_compares_divprune_with_the_loop(selection: dict[str, Any]) -> None:
    d = selection["divprune"]
    assert d["same_picks"]
    assert (d["tokens"], d["keep"], d["width"], d["batch"]) == (24, 8, 16, 2)
    assert d["factor"] == pytest.approx(d["median_ms"]["loop"] / d["median_ms"]["one"])
    assert d["batched_ratio"] == pytest.approx(d["median_ms"]["batched"] / (2 * d["median_ms"]["one"]))
    assert d["factor_goal_met"] == (d["factor"] >= 20)
    assert d["batched_goal_met"] == (d["batched_ratio"] <= 1.3)


def test_selection_grows_every_method(selection: dict[str, Any]) -> None:
    cut = {n for n in methods_with_a_keep() if not issubclass(load_class(n), Rewriter)}
    there = {(row["label"].partition(":")[0], row["tokens"]) for row in selection["methods"]}
    refused = {(label.partition(":")[0], int(label.rpartition(" ")[2])) for label in selection["refused"]}
    assert there | refused == {(name, n) for name in cut for n in (16, 64)}
    for row in [*selection["methods"], *selection["attention_received"], *selection["divprune_growth"]]:
        ((part, times),) = row["ms"].items()
        assert row["median_ms"][part] == statistics.median(times)
        assert 0 < row["largest_bytes"] <= row["peak_bytes"]
    full = {row["tokens"]: row["median_ms"]["prefill"] for row in selection["prefill"]}
    assert set(full) == {16, 64}
    for row in selection["methods"]:
        assert row["share_of_prefill"] == pytest.approx(row["median_ms"]["reduce"] / full[row["tokens"]])
        assert row["share_goal_met"] is None  # judged at 576 tokens
        assert row["makes_all_attention"] == (row["largest_elements"] >= 4 * row["tokens"] ** 2)


def test_the_slow_loop_picks_what_divprune_picks(scripts: None) -> None:
    script = importlib.import_module("selection")
    tokens = torch.randn(3, 40, 12)
    loop = script.slow_reference()
    assert script.fast(tokens, 17).tolist() == [loop(row, 17) for row in tokens]
    assert len(set(loop(tokens[0], 40))) == 40


def test_memory_is_counted_by_storage(scripts: None) -> None:
    watched = importlib.import_module("memory").watched
    given = torch.zeros(1000)

    def work() -> None:
        seen = given.view(10, 100)  # a view of what is there adds nothing
        one = seen + 1  # 4,000 bytes
        two = one.t().reshape(-1)  # a copy: 8,000 alive
        del one
        three = torch.zeros(500)  # 2,000: 6,000 alive
        del two, three

    assert watched(work) == {"peak_bytes": 8000, "largest_bytes": 4000, "largest_elements": 1000}


# -- shared ----------------------------------------------------------------------------------------------------------


def test_records_say_what_they_ran_on(latency: dict[str, Any], selection: dict[str, Any]) -> None:
    for record, name in ((latency, "latency"), (selection, "selection")):
        machine = record["machine"]
        assert record["command"].startswith(f"python benchmarks/{name}.py --tiny --device cpu")
        assert machine["versions"]["torch"] == torch.__version__
        assert machine["versions"]["tessella"] == tessella.__version__
        assert machine["cores"] >= 1
        assert machine["memory_bytes"] > 2**20
        assert machine["threads"] == torch.get_num_threads()
        assert machine["commit"] is None or len(machine["commit"]) == 40
        assert machine["accelerator"] is None


def test_quartile_distance_and_quotient(scripts: None) -> None:
    machine = importlib.import_module("machine")
    assert machine.iqr([4.0, 1.0, 3.0, 2.0, 5.0]) == 2.0
    assert (machine.iqr([]), machine.iqr([7.0]), machine.median([])) == (None, 0.0, None)
    assert (machine.quotient(3.0, 2.0), machine.quotient(None, 2.0), machine.quotient(3.0, 0.0)) == (1.5, None, None)
    assert machine.machine_name({"accelerator": None, "cpu": "AMD EPYC (Zen 4)", "cores": 2}) == "amd-epyc-zen-4-2-core"


# -- accuracy ----------------------------------------------------------------------------------------------------------


def test_the_record_of_a_ledger_holds_its_summary_and_its_runs(
    scripts: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, out = tmp_path / "bench.db", tmp_path / "record.json"
    settings = [Setting(p, p.partition(":")[0], p.partition(":")[2] or None) for p in ("none", "blind", "uniform:0.25")]
    with Ledger(ledger) as opened:
        opened.begin(settings, {"commit": "abcdef0123", "clean": True, "cores": 2, "threads": 1, "accelerators": []})
        for setting, right in zip(settings, (4, 1, 3), strict=True):
            ms = dict.fromkeys(PARTS, 1.0)
            opened.add([Record(setting.key, "digit", n, "1", "1", n < right, 196, 49, 0.25, 100, ms) for n in range(4)])
    assert importlib.import_module("accuracy").main([str(ledger), "--out", str(out)]) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    (section,) = record["keeps"]
    assert section["keep"] == "0.25"
    values = {entry["method"]: entry["accuracy"]["value"] for entry in section["settings"]}
    assert values == {"none": 1.0, "blind": 0.25, "uniform": 0.75}
    assert record["runs"][0]["commit"] == "abcdef0123"
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "commit abcdef0; 2 cores, 1 thread(s), no accelerator" in page
    assert "| uniform |" in page
    assert importlib.import_module("accuracy").main([str(tmp_path / "no.db"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_overhead_takes_turns(scripts: None, tmp_path: Path) -> None:
    record = run("overhead", tmp_path / "record.json", "--rounds", "3")
    assert record["finished"]
    assert [row["tokens"] for row in record["layouts"]] == [10_000, 10_000, 10_240, 9_888]
    assert all(len(times) == 3 for row in record["layouts"] for times in row["ms"].values())
    none = record["none"]["ms"]
    shares = sorted((n - u) / u for n, u in zip(none["none"], none["untouched"], strict=True))
    assert record["none"]["share"] == pytest.approx(shares[1])


# -- throughput ------------------------------------------------------------------------------------------------------


def test_throughput_compares_rates_of_the_same_work(scripts: None, tmp_path: Path) -> None:
    throughput = importlib.import_module("throughput")
    options = ("--methods", "random", "--keep", "1/9", "--limit", "2", "--plain", "1", "--batch", "2")
    assert throughput.main([*options, "--out", str(tmp_path / "record.json")]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    ways = list(record["by_kind"].values())
    assert [(shared["answers"], plain["answers"]) for shared, plain in ways] == [(2, 1)] * 8
    seconds = [sum(way[n]["seconds"] for way in ways) for n in (0, 1)]
    assert record["times"] == pytest.approx((16 / seconds[0]) / (8 / seconds[1]))
    assert 0 < record["ledger_share"] < 1


def test_throughput_goals_are_met_or_not_by_the_numbers(scripts: None) -> None:
    compare = importlib.import_module("throughput").compare
    shared, plain = ({"answers": 1000, "seconds": s, "ledger_seconds": 1.0} for s in (10.0, 30.0))
    result = compare(shared, plain)
    assert (result["answers_per_s"], result["times"], result["ledger_share"]) == (100, pytest.approx(3), 0.1)
    assert result["minutes_for_64000"] == pytest.approx(640 / 60)
    assert result["goals_met"] == {"minutes": True, "times": True, "ledger": False}
