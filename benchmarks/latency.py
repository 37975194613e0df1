"""Time of prefill and decoding under every method, against the untouched model and against an oracle.

    python benchmarks/latency.py            # batch 1 and batch 8; on a GPU the 7B shape
    python benchmarks/latency.py --quick    # one keep, batch 1

The oracle holds the same number of tokens in every layer without scoring or selecting any. Settings take turns, in an
order drawn anew for each round, so that whatever else the machine does falls on all of them. Ctrl-C writes what was
measured so far.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import machine
import torch
from cases import Case, cases
from machine import iqr, median, quotient
from passes import Passes, Times
from shapes import LLAVA_7B, SMALL, TINY, Shape, build_inputs, build_model

from tessella.core.errors import TessellaError

GOALS = {"connector": 0.95, "prefill": 0.93}  # oracle time / our time on a CPU: language model, score and select
SELECTION_GOAL = 0.02  # score and select of light methods, as a share of the full prefill on a CPU
FEW = ("hiprune", "fastv")  # measured at batch 8 on a CPU


@dataclass
class Setting:
    """One thing that takes turns: how it is measured, and its times by part, in milliseconds."""

    label: str
    measure: Callable[[bool], Times]
    case: Case | None = None
    lengths: tuple[int, ...] = ()
    oracle: str | None = None
    short: str | None = None
    ms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, times: Times) -> None:
        for part, value in times.items():
            self.ms.setdefault(part, []).append(value)

    def median(self, part: str) -> float | None:
        return median(self.ms.get(part, ()))

    def record(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "case": None if self.case is None else asdict(self.case),
            "layer_lengths": list(self.lengths),
            "ms": self.ms,
            "median_ms": {part: median(values) for part, values in self.ms.items()},
            "iqr_ms": {part: iqr(values) for part, values in self.ms.items()},
        }


@dataclass
class Batch:
    """All that is measured at one batch size."""

    passes: Passes
    batch: int
    rounds: int
    encode_rounds: int
    decode_rounds: int
    prompt: dict[str, Setting] = field(default_factory=dict)
    encode: dict[str, Setting] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def prepare(self, wanted: list[Case]) -> None:
        """Lay out the settings. Each runs once untimed, which tells how many tokens its layers hold."""
        passes, prompt = self.passes, self.prompt
        self._place(Setting("full", lambda decode: passes.plain(decode=decode)))
        none = Case("none", "none", None, "light", False)
        for case in [none, *wanted]:
            try:
                if case.rewrites:
                    passes.whole(case)
                    self._place(Setting(case.label, lambda decode, c=case: passes.whole(c, decode), case))
                    whole = Setting("full, with the encoder", lambda decode: passes.whole(None, decode))
                    prompt.setdefault(whole.label, whole)
                    continue
                lengths = passes.reduced(case)[1]
            except TessellaError as error:
                self.refused[case.label] = str(error)
                continue
            measure = lambda decode, c=case: passes.reduced(c, decode)[0]  # noqa: E731
            mine = self._place(Setting(case.label, measure, case, lengths))
            self.encode.setdefault(case.method, Setting(case.method, self._encode_of(case), case))
            if case is not none:
                mine.oracle = self._oracle(lengths)
                mine.short = self._oracle((lengths[-1],) * len(lengths))
        self.encode["plain"] = Setting("plain", self._encode_of(None))
        for setting in prompt.values():
            if setting.case is None:
                setting.measure(False)

    def measure(self, order: random.Random) -> None:
        """Rounds over all settings, each in an order of its own."""
        for number in range(self.rounds):
            turn = list(self.prompt.values())
            order.shuffle(turn)
            for setting in turn:
                setting.add(setting.measure(number < self.decode_rounds))
            if number < self.encode_rounds:
                turn = list(self.encode.values())
                order.shuffle(turn)
                for setting in turn:
                    setting.add(setting.measure(False))
            print(f"batch {self.batch}: round {number + 1} of {self.rounds}", file=sys.stderr, flush=True)

    def compare(self, on_cpu: bool) -> list[dict[str, Any]]:
        """Quotients of medians for every case, and whether they reach the goals (None: no goal, or not measured)."""
        full = self.prompt["full"].median("language_model") if self.prompt else None
        return [
            self._compare_whole(s) if s.case.rewrites else self._compare_one(s, full, on_cpu)
            for s in self.prompt.values()
            if s.case is not None
        ]

    def record(self, on_cpu: bool) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "rounds": self.rounds,
            "settings": [s.record() for s in self.prompt.values()],
            "encode": [s.record() for s in self.encode.values()],
            "comparisons": self.compare(on_cpu),
            "refused": self.refused,
        }

    def _place(self, setting: Setting) -> Setting:
        return self.prompt.setdefault(setting.label, setting)

    def _oracle(self, lengths: tuple[int, ...]) -> str:
        runs = [(n, lengths.count(n)) for n in dict.fromkeys(lengths)]
        label = "oracle " + "+".join(f"{n}x{layers}" for n, layers in runs)
        self._place(Setting(label, lambda decode: self.passes.plain(lengths, decode), lengths=lengths))
        return label

    def _encode_of(self, case: Case | None) -> Callable[[bool], Times]:
        return lambda _: {"encode": self.passes.encode(case)[0]}

    def _compare_whole(self, setting: Setting) -> dict[str, Any]:
        full = self.prompt["full, with the encoder"].median("whole")
        ratio = quotient(full, setting.median("whole"))
        return {"label": setting.label, "kind": "rewriter", "full_over_ours": ratio}

    def _compare_one(self, setting: Setting, full: float | None, on_cpu: bool) -> dict[str, Any]:
        ours, case = setting.median("language_model"), setting.case
        assert case is not None
        kind = "connector" if len(set(setting.lengths)) == 1 else "prefill"
        chosen = [a + b for a, b in zip(setting.ms.get("score", ()), setting.ms.get("select", ()), strict=True)]
        out: dict[str, Any] = {"label": setting.label, "kind": kind, "cost": case.cost}
        out["full_over_ours"] = quotient(full, ours)
        out["oracle"], out["fully_short"] = setting.oracle, setting.short
        for name, other in (("oracle_ratio", setting.oracle), ("fully_short_ratio", setting.short)):
            out[name] = None if other is None else quotient(self.prompt[other].median("language_model"), ours)
        out["selection_share"] = quotient(median(chosen), full)
        encodes = [self.encode[n].median("encode") if n in self.encode else None for n in ("plain", case.method)]
        out["encode_ratio"] = quotient(*encodes)
        reached = None if out["oracle_ratio"] is None else out["oracle_ratio"] >= GOALS[kind]
        out["oracle_goal_met"] = reached if on_cpu else None
        light = case.cost == "light" and case.method != "none" and on_cpu and out["selection_share"] is not None
        out["selection_goal_met"] = out["selection_share"] < SELECTION_GOAL if light else None
        return out


def table(batch: dict[str, Any]) -> str:
    """The comparisons of one batch size, a line each."""
    medians = {s["label"]: s["median_ms"] for s in batch["settings"]}
    spread = {s["label"]: s["iqr_ms"] for s in batch["settings"]}
    encodes = {s["label"]: s["median_ms"].get("encode") for s in batch["encode"]}
    heads = ("prefill ms", "IQR", "score", "select", "share", "decode ms", "oracle", "short", "full", "encode", "goals")
    lines = [f"batch {batch['batch']}, {batch['rounds']} rounds, encoder {_number(encodes.get('plain'))} ms"]
    lines.append(f"{'':<28}" + "".join(f"{h:>12}" for h in heads))
    compared = {c["label"]: c for c in batch["comparisons"]}
    for label, ms in medians.items():
        c = compared.get(label, {})
        goals = [c.get(n) for n in ("oracle_goal_met", "selection_goal_met")]
        verdict = "-" if all(g is None for g in goals) else "missed" if False in goals else "met"
        whole = ms.get("language_model", ms.get("whole"))
        iqr_ms = spread[label].get("language_model", spread[label].get("whole"))
        cells = [whole, iqr_ms, ms.get("score"), ms.get("select"), c.get("selection_share"), ms.get("decode")]
        cells += [c.get(n) for n in ("oracle_ratio", "fully_short_ratio", "full_over_ours", "encode_ratio")]
        lines.append(f"{label:<28}" + "".join(f"{_number(v):>12}" for v in cells) + f"{verdict:>12}")
    lines += [f"{label}: refused: {reason}" for label, reason in batch["refused"].items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def plan(options: argparse.Namespace, on_cpu: bool) -> list[tuple[int, list[Case], dict[str, int]]]:
    """Batch sizes with their cases and rounds."""
    keeps = options.keep or ([4] if options.tiny else [64] if options.quick else [192, 128, 64])
    every = cases(keeps, options.method)
    if options.tiny:
        return [(1, every, {"rounds": 2, "encode_rounds": 1, "decode_rounds": 1}), (2, every, _few(1))]
    if options.quick:
        return [(1, every, {"rounds": 3, "encode_rounds": 1, "decode_rounds": 1})]
    eight = every if options.method or not on_cpu else [c for c in every if c.method in FEW]
    sizes = [(1, every, {"rounds": options.rounds, "encode_rounds": 5, "decode_rounds": 3}), (8, eight, _few(3))]
    return [size for size in sizes if size[0] in (options.batch or (1, 8))]


def _few(rounds: int) -> dict[str, int]:
    return {"rounds": rounds, "encode_rounds": rounds, "decode_rounds": 1}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--keep", type=int, action="append", help="visual tokens kept; may be given several times")
    parser.add_argument("--method", action="append", default=[], help="a method id; may be given several times")
    parser.add_argument("--batch", type=int, action="append", choices=(1, 8), help="batch sizes; default: both")
    parser.add_argument("--rounds", type=int, default=10, help="rounds at batch 1")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens decoded")
    parser.add_argument("--text", type=int, default=64, help="text tokens of a prompt")
    parser.add_argument("--seed", type=int, default=0, help="of weights, prompts and the order of turns")
    parser.add_argument("--quick", action="store_true", help="one keep, three rounds, batch 1")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers, to try the script itself")
    parser.add_argument("--out", type=Path, help="record file; default: benchmarks/records/latency_MACHINE_DTYPE.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print tables and write the record; 130 after Ctrl-C, with what was measured until then."""
    options = parse(argv)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    on_cpu = device.type == "cpu"
    shape: Shape = TINY if options.tiny else SMALL if on_cpu else LLAVA_7B
    record: dict[str, Any] = {
        "benchmark": "latency",
        "command": shlex.join(["python", "benchmarks/latency.py", *(sys.argv[1:] if argv is None else argv)]),
        "machine": machine.facts(device),
        "shape": asdict(shape),
        "dtype": options.dtype,
        "text_tokens": options.text,
        "new_tokens": options.new_tokens,
        "seed": options.seed,
        "goals": {"oracle_ratio": GOALS, "selection_share": SELECTION_GOAL} if on_cpu else None,
        "finished": False,
        "batches": [],
    }
    path = options.out or machine.RECORDS / f"latency_{machine.machine_name(record['machine'])}_{options.dtype}.json"
    order, batches = random.Random(options.seed), []
    try:
        with torch.inference_mode():
            model = build_model(shape, device, dtype, options.seed)
            for size, wanted, rounds in plan(options, on_cpu):
                inputs = build_inputs(shape, size, options.text, device, dtype, options.seed)
                batches.append(Batch(Passes(model, inputs, options.new_tokens), size, **rounds))
                batches[-1].prepare(wanted)
                batches[-1].measure(order)
        record["finished"] = True
    except KeyboardInterrupt:
        print("interrupted; writing what was measured", file=sys.stderr)
    record["batches"] = [b.record(on_cpu) for b in batches]
    machine.write_record(record, path)
    print("\n\n".join(map(table, record["batches"])))
    print(f"\nwritten: {path}")
    return 0 if record["finished"] else 130


if __name__ == "__main__":
    raise SystemExit(main())
