"""What a run costs beside the model: `none` against the untouched prefill, and the layout of many visual tokens.

    python benchmarks/overhead.py            # minutes on a CPU
    python benchmarks/overhead.py --quick    # few rounds

The two prefills take turns. The layout is measured for a shape that is new and for one that was seen before: what does
not depend on a prompt is kept by shape. Ctrl-C writes what was measured so far.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from machine import iqr, median, quotient
from shapes import LLAVA_7B, SMALL, TINY, build_inputs, build_model

import tessella
from tessella.core.layout import Layout, _lay
from tessella.models.footprint import Footprint, one_grid
from tessella.models.mosaic import mosaic_footprint
from tessella.models.qwen_like import clip_footprint

GOALS = {"none_share": 0.01, "layout_ms": 1.0}  # at most: of the prefill; for 10,000 visual tokens
FOOTPRINTS: dict[str, Callable[[], Footprint]] = {
    "one grid, 100 x 100": lambda: one_grid.__wrapped__(100, 100),
    "windows of 4 x 4, 100 x 100": lambda: clip_footprint.__wrapped__(1, 100, 100, 2, 4),
    "clip of 40 frames, 16 x 16": lambda: clip_footprint.__wrapped__(40, 16, 16, 2, None),
    "thumbnail and 16 tiles, 24 x 24": lambda: mosaic_footprint.__wrapped__((4, 4), 24, (1344, 1344)),
}


def measure_layouts(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds from blocks to a layout, and from a picture's size to its footprint."""
    out = []
    for name, make in FOOTPRINTS.items():
        footprint = make()
        slots = torch.arange(footprint.num_tokens)
        ms: dict[str, list[float]] = {"new": [], "seen": [], "footprint": []}
        for _ in range(rounds):
            _lay.cache_clear()
            ms["new"].append(_milliseconds(lambda s=slots, f=footprint: Layout.build([s], [f.blocks])))
            ms["seen"].append(_milliseconds(lambda s=slots, f=footprint: Layout.build([s], [f.blocks])))
            ms["footprint"].append(_milliseconds(make))
        out.append({"shape": name, "tokens": footprint.num_tokens, "ms": ms})
    return out


def measure_none(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Milliseconds of whole prefills, from pixels to the first token, untouched and under `none`, turn by turn."""
    shape = TINY if options.tiny else LLAVA_7B if device.type == "cuda" else SMALL
    model = build_model(shape, device, torch.bfloat16)
    given = {**build_inputs(shape, 1, 40, device, torch.bfloat16), "use_cache": True, "logits_to_keep": 1}
    ms: dict[str, list[float]] = {"untouched": [], "none": []}
    for number in range(options.rounds + 1):
        plain = _milliseconds(lambda: model(**given), device)
        with tessella.reduce(model, "none"):
            mine = _milliseconds(lambda: model(**given), device)
        if number:  # the first round warms up
            ms["untouched"].append(plain)
            ms["none"].append(mine)
    shares = [(n - u) / u for n, u in zip(ms["none"], ms["untouched"], strict=True)]
    return {"shape": shape.name, "ms": ms, "share": median(shares), "iqr_of_share": iqr(shares)}


def table(record: dict[str, Any]) -> str:
    lines = ["| layout of | tokens | new | seen before | footprint |", "|---|---|---|---|---|"]
    for row in record["layouts"]:
        times = " | ".join(f"{median(row['ms'][part]):.3f} ms" for part in ("new", "seen", "footprint"))
        lines.append(f"| {row['shape']} | {row['tokens']} | {times} |")
    none = record["none"]
    if none is not None:
        whole = quotient(median(none["ms"]["none"]), median(none["ms"]["untouched"]))
        lines.append(
            f"\n`none` on {none['shape']}: median of the paired differences {none['share']:+.2%} of the prefill "
            f"(quartile distance {none['iqr_of_share']:.2%}, {len(none['ms']['none'])} rounds), "
            f"ratio of medians {whole:.4f}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="five rounds")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="file of the record")
    options = parser.parse_args(argv)
    options.rounds = 5 if options.quick else options.rounds
    device = torch.device(options.device)
    record: dict[str, Any] = {
        "benchmark": "overhead",
        "command": shlex.join(["python", "benchmarks/overhead.py", *(sys.argv[1:] if argv is None else argv)]),
        "machine": machine.facts(device),
        "goals": GOALS,
        "finished": False,
        "layouts": [],
        "none": None,
    }
    try:
        with torch.inference_mode():
            record["layouts"] = measure_layouts(options.rounds)
            record["none"] = measure_none(options, device)
        record["finished"] = True
    except KeyboardInterrupt:
        print("interrupted; writing what was measured", file=sys.stderr)
    path = options.out or machine.RECORDS / f"overhead_{machine.machine_name(record['machine'])}.json"
    machine.write_record(record, path)
    print(f"{table(record)}\n\nwritten: {path}")
    return 0 if record["finished"] else 130


def _milliseconds(function: Callable[[], Any], device: torch.device | None = None) -> float:
    begin = _now(device)
    function()
    return _now(device) - begin


def _now(device: torch.device | None) -> float:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1000


if __name__ == "__main__":
    raise SystemExit(main())
