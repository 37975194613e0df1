"""The commands that answer a setting's questions again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..embedded import SEED_OFFSET, SEED_STRIDE, Embedded
from ..summary import Measured


def commands_of(measured: Measured) -> list[str]:
    """`tessella bench` for each seed of a setting, with every option that its key depends on.

    A model that was read from a folder is named by the folder's last name, and a public set without its data.
    """
    setting, details = measured.setting, measured.setting.details
    what = ["--methods", setting.method if setting.keep else setting.pipeline]
    what += ["--keep", setting.keep] if setting.keep else []
    how = [part for name in ("model", "dtype", "device", "batch") if name in details for part in _option(name, details)]
    out = []
    for task, seed, numbers in _questions(measured):
        first = seed * SEED_STRIDE + SEED_OFFSET if task.startswith(Embedded.id) else 0
        kinds = sorted({kind for kind, _ in numbers})
        which = ["--task", task, "--types", ",".join(kinds), "--limit", str(max(n for _, n in numbers) - first + 1)]
        which += ["--seed", str(seed)] if seed else []
        out.append(shlex.join(["tessella", "bench", *what, "--only", *which, *how, "--out", "bench.db"]))
    return out


def task_of(task: str) -> str:
    """The id of a task from the detail of a setting, which holds its version too.

    >>> task_of("mini world 1"), task_of("mini world, crowded 1"), task_of("pope 2")
    ('mini', "mini(variant='crowded')", 'pope')
    """
    name, _, variant = task.rsplit(" ", 1)[0].partition(", ")
    if name != "mini world":
        return name
    return f"{Embedded.id}(variant={variant!r})" if variant else Embedded.id


def _option(name: str, details: dict[str, object]) -> Sequence[str]:
    return f"--{name}", str(details[name])


def _questions(measured: Measured) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """Task, seed and questions of each run of `tessella bench` that a setting's records take."""
    task = task_of(str(measured.setting.details.get("task", "")))
    by_seed: dict[int, list[tuple[str, int]]] = {}
    for question in sorted(measured.records):
        seed = max(0, question[1] - SEED_OFFSET) // SEED_STRIDE if task.startswith(Embedded.id) else 0
        by_seed.setdefault(seed, []).append(question)
    return [(task, seed, questions) for seed, questions in sorted(by_seed.items())]
