"""Methods that one square picture cannot test, on tiny models with random weights of families with tiles or clips.

    python benchmarks/tiles_and_clips.py        # writes records/tiles_and_clips.json

Says that each acts and how many visual tokens it leaves; answers of random weights mean nothing, and are not looked at.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import torch

import tessella
from tessella.core.errors import TessellaError
from tessella.testing.families import tiny_family
from tessella.testing.family_cases import CLIP_FRAMES, Row, inputs_of, tiny_model


@dataclass(frozen=True)
class Case:
    """A pipeline with its keep, a family, and what its prompt shows."""

    pipeline: str
    family: str
    shows: str


CASES = (
    Case("globalcom2:1/4", "llava_next", "tiles"),
    Case("slime", "llava_next", "tiles"),
    Case("slime:1/4", "llava_next", "tiles"),
    Case("todre:1/4", "llava_next", "tiles"),
    Case("evs:1/2", "qwen2_5_vl", "clip"),
    Case("evs:1/2", "llava_onevision", "clip"),
    Case("aot", "qwen2_5_vl", "clip"),
    Case("aot", "llava_onevision", "clip"),
    Case("quota:1/2 per prompt", "llava", "pictures"),
)


def row_of(case: Case, family: Any) -> tuple[Row, str]:
    """The prompt of a case, and its description."""
    first, last = family.sizes[0], family.sizes[-1]
    if case.shows == "clip":
        return Row((), ((CLIP_FRAMES, first),)), f"a clip of {CLIP_FRAMES} frames"
    if case.shows == "pictures":
        return Row((first, last, first)), "three pictures"
    return Row((last,)), f"a picture of {last[0]} x {last[1]} pixels in tiles"


def run(case: Case) -> dict[str, Any]:
    """Visual tokens before and after one prefill."""
    family = tiny_family(case.family)
    row, shown = row_of(case, family)
    with torch.inference_mode(), tessella.reduce(tiny_model(family), case.pipeline) as active:
        tiny_model(family)(**inputs_of(family, row))
        record = active.report.last
    assert record is not None
    tokens = {name: sum(map(sum, getattr(record, name))) for name in ("tokens_in", "tokens_kept")}
    return {"pipeline": case.pipeline, "family": case.family, "input": shown, **tokens}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=machine.RECORDS / "tiles_and_clips.json", help="the record")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "benchmarks/tiles_and_clips.py", *given])
    try:
        runs = [run(case) for case in CASES]
    except TessellaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = {"benchmark": "tiles_and_clips", "command": command, "machine": machine.facts(torch.device("cpu"))}
    machine.write_record({**record, "runs": runs}, options.out)
    for entry in runs:
        print("{pipeline:<24}{family:<18}{input:<44}{tokens_in:>6} -> {tokens_kept}".format(**entry))
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
