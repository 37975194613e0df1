"""Time and memory of selection alone: DivPrune against the plain loop, and every method's growth beside a full prefill.

    python benchmarks/selection.py            # up to 10,000 tokens
    python benchmarks/selection.py --quick    # up to 2,880 tokens

Methods of the growth table look at random views of the width of the 0.5 B shape (896 channels, encoder 1024 with 16
heads, its connector), on which attention is given, not computed; the operator that computes attention received is
measured by itself. The prefill is that of the shape's language model over as many tokens and 32 more, in bfloat16.
Ctrl-C writes what was measured so far.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
import torch
from cases import Case, cases
from machine import iqr, median, quotient
from memory import watched
from shapes import SMALL, TINY, Shape, build_model
from torch import Tensor, nn

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import TessellaError
from tessella.core.model_info import ModelInfo
from tessella.engine.plan import counts_of, units_of
from tessella.ops.attention import attention_received
from tessella.reduction import divprune
from tessella.testing.random_view import Item, Widths, random_view

GRIDS = {16: (4, 4), 64: (8, 8), 576: (24, 24), 2_880: (48, 60), 10_000: (100, 100)}
# at least so much faster; at most so much over B times one row; of the prefill of 576 tokens, for light methods
GOALS = {"factor": 20.0, "batched_ratio": 1.3, "share": 0.02}
GOAL_TOKENS, NUM_TEXT = 576, 32
LONG = 4096  # tokens: more are measured once
OPERATOR_HEADS, OPERATOR_WIDTH = 16, 64


def slow_reference() -> Any:
    """The loop of `tests/ops/slow.py` that compares with all picks at each step."""
    spec = importlib.util.spec_from_file_location("slow", machine.ROOT / "tests" / "ops" / "slow.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.farthest_first


def milliseconds(function: Callable[[], Any], device: torch.device) -> float:
    begin = _now(device)
    function()
    return _now(device) - begin


def fast(tokens: Tensor, keep: int) -> Tensor:
    """DivPrune's picks of `keep` of each row's tokens."""
    batch, num_tokens, _ = tokens.shape
    mask = torch.ones(batch, num_tokens, dtype=torch.bool, device=tokens.device)
    return divprune.farthest_first(tokens, Counts((keep,) * batch, (num_tokens,) * batch), mask)


def compare_divprune(sizes: dict[str, int], rounds: int, device: torch.device) -> dict[str, Any]:
    """The loop, one row and a batch in turns; the picks of the first two must agree."""
    slow, keep = slow_reference(), sizes["keep"]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(sizes["batch"], sizes["tokens"], sizes["width"], generator=generator).to(device)
    one = tokens[:1].contiguous()
    same = fast(one, keep)[0].tolist() == slow(one[0], keep)
    fast(tokens, keep)
    ms: dict[str, list[float]] = {"loop": [], "one": [], "batched": []}
    for _ in range(rounds):
        ms["loop"].append(milliseconds(lambda: slow(one[0], keep), device))
        ms["one"].append(milliseconds(lambda: fast(one, keep), device))
        ms["batched"].append(milliseconds(lambda: fast(tokens, keep), device))
    factor = quotient(median(ms["loop"]), median(ms["one"]))
    batched = quotient(median(ms["batched"]), sizes["batch"] * (median(ms["one"]) or 0))
    assert factor is not None
    assert batched is not None
    return {
        **sizes,
        **_summary(ms),
        "same_picks": same,
        "factor": factor,
        "batched_ratio": batched,
        "memory": watched(lambda: fast(one, keep)),
        "factor_goal_met": factor >= GOALS["factor"],
        "batched_goal_met": batched <= GOALS["batched_ratio"],
    }


def grow_divprune(sizes: dict[str, int], numbers: list[int], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """DivPrune on wide tokens, for each number of them."""
    out = []
    for n in numbers:
        tokens = torch.randn(1, n, sizes["width"], generator=torch.Generator().manual_seed(0)).to(device)
        ms = [milliseconds(lambda t=tokens: fast(t, sizes["keep"]), device) for _ in range(1 if n > LONG else rounds)]
        memory = watched(lambda t=tokens: fast(t, sizes["keep"]))
        out.append({"tokens": n, "keep": sizes["keep"], "width": sizes["width"], **_summary({"select": ms}), **memory})
    return out


def info_of(shape: Shape) -> ModelInfo:
    """What methods know of a model of a shape."""
    layers = {"num_layers": shape.layers, "num_encoder_layers": shape.encoder_layers}
    sizes = {"hidden_size": shape.width, "num_heads": shape.heads, "has_class_token": True}
    return ModelInfo(family=shape.name, feature_layer=shape.encoder_layers - 2, **layers, **sizes)


def connector_of(shape: Shape) -> nn.Module:
    """Two linear layers and a GELU, as a LLaVA's."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(shape.encoder_width, shape.width), nn.GELU(), nn.Linear(shape.width, shape.width))


def prefill(shape: Shape, n: int, rounds: int) -> dict[str, Any]:
    """The language model of a shape over n visual tokens and some text, on the CPU in bfloat16."""
    model = build_model(replace(shape, encoder_layers=1), torch.device("cpu"), torch.bfloat16).model.language_model
    hidden = torch.randn(1, n + NUM_TEXT, shape.width, dtype=torch.bfloat16)

    def read() -> None:
        model(inputs_embeds=hidden, use_cache=True)

    if n <= LONG:  # a longer one takes minutes, and warms up as it goes
        read()
    ms = [milliseconds(read, torch.device("cpu")) for _ in range(rounds)]
    return {"tokens": n, "text": NUM_TEXT, "shape": shape.name, **_summary({"prefill": ms})}


def grow_method(case: Case, n: int, rounds: int, shape: Shape, full: float) -> dict[str, Any]:
    """The first cut of a method among n tokens of a random view; `full` is what their prefill takes, in ms."""
    info, part = info_of(shape), tessella.parse(case.pipeline).parts[0]
    budget = part.budget or (Budget(case.keep) if case.keep is not None else None)
    step = part.method.fit(info).steps(info, budget)[0]
    frames = 4 if "frames" in part.method.card.needs else 1
    rows, columns = GRIDS[n]
    widths = Widths(shape.encoder_heads, shape.encoder_width // shape.encoder_heads, shape.width, shape.encoder_width)
    item = Item(rows // 2, columns // 2, frames=frames) if frames > 1 else Item(rows, columns)
    view = random_view([item], step.captures, widths=widths, info=info, connector=connector_of(shape))
    counts = counts_of(step, view.layout, units_of(step, view.layout))

    def reduce() -> None:
        view.state.clear()
        step.reduce(view, counts)

    ms: list[float] = []
    if n <= LONG:
        reduce()
        ms += [milliseconds(reduce, view.device) for _ in range(rounds)]
        memory = watched(reduce)
    else:  # once for both
        memory = watched(lambda: ms.append(milliseconds(reduce, view.device)))
    share = quotient(median(ms), full)
    judged = case.cost == "light" and n == GOAL_TOKENS and share is not None
    return {
        "label": case.label,
        "cost": case.cost,
        "tokens": n,
        "num_keep": list(counts.num_keep),
        **_summary({"reduce": ms}),
        "share_of_prefill": share,
        "share_goal_met": share < GOALS["share"] if judged else None,
        **memory,
        "makes_all_attention": memory["largest_elements"] >= n * n * shape.encoder_heads,
    }


def grow_received(n: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Attention received by n tokens, from the queries and keys of all heads."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, OPERATOR_HEADS, n, OPERATOR_WIDTH, generator=generator).to(device) for _ in range(2))

    def receive() -> None:
        attention_received(query, key, OPERATOR_WIDTH**-0.5)

    receive()
    ms = [milliseconds(receive, device) for _ in range(rounds)]
    memory = watched(receive)
    everything = n * n * OPERATOR_HEADS
    return {
        "tokens": n,
        "heads": OPERATOR_HEADS,
        **_summary({"receive": ms}),
        **memory,
        "makes_all_attention": memory["largest_elements"] >= everything,
    }


def table(record: dict[str, Any]) -> str:
    """The record as lines of text."""
    lines = []
    if record["divprune"]:
        d = record["divprune"]
        lines += [
            f"divprune, {d['keep']} of {d['tokens']} tokens of width {d['width']}: {d['median_ms']['one']:.1f} ms, "
            f"{d['factor']:.1f} times faster than the loop; {d['batch']} rows take {d['batched_ratio']:.2f} times "
            f"{d['batch']} x one"
        ]
    lines.append(
        f"{'':<28}{'tokens':>8}{'ms':>12}{'IQR':>12}{'of prefill':>12}{'peak MiB':>12}{'largest MiB':>12}"
        "  all attention"
    )
    named = [("prefill", row) for row in record["prefill"]]
    named += [("divprune, wide", row) for row in record["divprune_growth"]]
    named += [("attention received", row) for row in record["attention_received"]]
    named += [(row["label"], row) for row in record["methods"]]
    for name, row in named:
        (part,) = row["median_ms"]
        share = row.get("share_of_prefill")
        sizes = "".join(f"{row.get(f'{n}_bytes', 0) / 2**20:>12.2f}" for n in ("peak", "largest"))
        times = f"{row['median_ms'][part]:>12.3f}{row['iqr_ms'][part]:>12.3f}"
        times += f"{'' if share is None else f'{100 * share:.2f} %':>12}"
        lines.append(f"{name:<28}{row['tokens']:>8}{times}{sizes}  {row.get('makes_all_attention', '-')}")
    return "\n".join(lines + [f"{label}: refused: {reason}" for label, reason in record["refused"].items()])


def measure(record: dict[str, Any], options: argparse.Namespace, device: torch.device) -> None:
    """Fill the record, part by part."""
    numbers = [16, 64] if options.tiny else [576, 2_880] if options.quick else [576, 2_880, 10_000]
    sizes = {"tokens": 576, "keep": 192, "width": 4096, "batch": 8}
    shape = SMALL
    if options.tiny:
        shape, sizes = TINY, {"tokens": 24, "keep": 8, "width": 16, "batch": 2}
    record["prefill"] = [prefill(shape, n, 1 if n > LONG else min(options.rounds, 3)) for n in numbers]
    full = {row["tokens"]: row["median_ms"]["prefill"] for row in record["prefill"]}
    record["divprune"] = compare_divprune(sizes, options.rounds, device)
    record["divprune_growth"] = grow_divprune(sizes, numbers, options.rounds, device)
    record["attention_received"] = [grow_received(n, options.rounds, device) for n in numbers]
    chosen = [c for c in cases([sizes["keep"]], options.method) if not c.rewrites]
    for n in numbers:
        for case in chosen:
            try:
                record["methods"].append(grow_method(case, n, options.rounds, shape, full[n]))
            except TessellaError as error:
                record["refused"][f"{case.label} of {n}"] = str(error)
            print(f"{case.label} of {n}: done", file=sys.stderr, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="of DivPrune and of attention received; views are on the CPU")
    parser.add_argument("--method", action="append", default=[], help="a method id; may be given several times")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="up to 2,880 tokens")
    parser.add_argument("--tiny", action="store_true", help="a few tokens, to try the script itself")
    parser.add_argument("--out", type=Path, help="record file; default: benchmarks/records/selection_MACHINE.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table and write the record; 130 after Ctrl-C, with what was measured until then."""
    options = parse(argv)
    device = torch.device(options.device)
    record: dict[str, Any] = {
        "benchmark": "selection",
        "command": shlex.join(["python", "benchmarks/selection.py", *(sys.argv[1:] if argv is None else argv)]),
        "machine": machine.facts(device),
        "goals": GOALS,
        "finished": False,
        "prefill": [],
        "divprune": None,
        "divprune_growth": [],
        "attention_received": [],
        "methods": [],
        "refused": {},
    }
    try:
        with torch.inference_mode():
            measure(record, options, device)
        record["finished"] = True
    except KeyboardInterrupt:
        print("interrupted; writing what was measured", file=sys.stderr)
    path = options.out or machine.RECORDS / f"selection_{machine.machine_name(record['machine'])}.json"
    machine.write_record(record, path)
    print(f"{table(record)}\n\nwritten: {path}")
    return 0 if record["finished"] else 130


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1000


def _summary(ms: dict[str, list[float]]) -> dict[str, Any]:
    """All times, their medians and quartile distances, in milliseconds."""
    return {
        "ms": ms,
        "median_ms": {part: median(values) for part, values in ms.items()},
        "iqr_ms": {part: iqr(values) for part, values in ms.items()},
    }


if __name__ == "__main__":
    raise SystemExit(main())
