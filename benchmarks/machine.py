"""What a benchmark ran on, how its records are written, and how times are summed up."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import tessella

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"


def facts(device: torch.device) -> dict[str, Any]:
    """The machine, the versions and the commit behind a record."""
    cuda = device.type == "cuda"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory,
        "load_average": list(os.getloadavg()),  # of one, five and fifteen minutes, before anything was measured
        "accelerator": torch.cuda.get_device_name(device) if cuda else None,
        "accelerator_memory_bytes": torch.cuda.get_device_properties(device).total_memory if cuda else None,
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tessella": tessella.__version__,
        },
        "commit": _git("rev-parse", "HEAD"),
        "clean": _git("status", "--porcelain") == "",
    }


def machine_name(machine: dict[str, Any]) -> str:
    """A machine's name for a file: its accelerator, or its processor and cores."""
    name = machine["accelerator"] or f"{machine['cpu']} {machine['cores']}-core"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_record(record: dict[str, Any], path: Path) -> None:
    """Write a record as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return statistics.median(values) if values else None


def iqr(values: Sequence[float]) -> float | None:
    """Third quartile less the first; None of nothing, 0 of one value."""
    if len(values) < 2:
        return 0.0 if values else None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def quotient(above: float | None, below: float | None) -> float | None:
    """`above / below`; None where one of them was not measured or the divisor is 0."""
    return None if above is None or not below else above / below


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(*arguments: str) -> str | None:
    """What git prints in this checkout; None outside one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
