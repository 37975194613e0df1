"""Arrows point one way: a walk over the imports of every file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tessella

ROOT = Path(tessella.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TENSORS = {"torch", "numpy", "jaxtyping"}
# what each part may import of ours, and of others
MAY = {
    "core": ({"core"}, TENSORS),
    "ops": ({"core", "ops"}, TENSORS),
    "reduction": ({"core", "ops", "reduction"}, TENSORS),
    "models": ({"core", "ops", "models"}, TENSORS | {"transformers"}),
    # Run.show draws the kept tokens and saves the picture
    "engine": ({"core", "ops", "models", "engine", "pictures"}, TENSORS | {"transformers", "PIL"}),
    "samples": ({"core", "app", "mini", "pictures", "samples"}, {"PIL"}),
    "calibration": (
        {"core", "ops", "models", "engine", "pictures", "samples", "calibration", "loading", "__version__"},
        TENSORS | {"scipy", "optuna"},
    ),
    "instruments": (
        {"core", "ops", "models", "engine", "pictures", "samples", "calibration", "instruments", "__version__"},
        TENSORS | {"PIL", "matplotlib", "scipy"},
    ),
    "bench": (
        {"core", "models", "engine", "mini", "pictures", "app", "instruments", "bench", "loading", "__version__"},
        TENSORS | {"PIL", "av", "datasets", "huggingface_hub", "pyarrow", "pynvml", "ray"},
    ),
    "integrations": (
        {"core", "app", "engine", "loading", "pictures", "integrations", "__version__"},
        TENSORS | {"PIL", "av", "tqdm", "lmms_eval"},
    ),
    "serve": (
        {"core", "engine", "models", "pictures", "app", "serve", "__version__"},
        TENSORS
        | {"PIL", "fastapi", "starlette", "pydantic", "typing_extensions", "uvicorn", "httpx", "prometheus_client"}
        | {"jinja2", "ray"},
    ),
    "tuning": (
        {"core", "models", "engine", "samples", "app", "bench", "calibration", "tuning", "__version__"},
        TENSORS | {"optuna"},
    ),
}


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> Iterator[str]:
    """Absolute dotted names of everything that a file imports, inside functions too."""
    package = ["tessella", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", MAY)
def test_parts_import_what_they_may(part: str) -> None:
    ours, others = MAY[part]
    checked = 0
    for path in FILES:
        if part_of(path) != part:
            continue
        for name in imports(path):
            top, *inner = name.split(".")
            if top == "tessella":
                assert inner[0] in ours, f"{path.relative_to(ROOT)} imports {name}"
            else:
                known = top in sys.stdlib_module_names or top == "__future__"
                assert known or top in others, f"{path.relative_to(ROOT)} imports {name}"
            checked += 1
    assert checked > 2


def test_methods_do_not_import_each_other() -> None:
    wing = {p.stem for p in (ROOT / "reduction").glob("*.py")} - {"__init__"}
    for path in (ROOT / "reduction").glob("*.py"):
        others = [n for n in imports(path) if n.startswith("tessella.reduction.") and n.split(".")[2] in wing]
        assert others == [], path.name


def test_only_commands_import_the_bench() -> None:
    """And of what commands do, the bench uses the making of prompts, the name of a model and clusters only."""
    users = {part_of(p) for p in FILES if any(n.startswith("tessella.bench") for n in imports(p))}
    assert users == {"bench", "tuning", "app", "cli"}
    taken = {n for p in FILES if part_of(p) == "bench" for n in imports(p) if n.startswith("tessella.app")}
    assert {n.rsplit(".", 1)[0] for n in taken} == {
        "tessella.app.prompting",
        "tessella.app.reaching",
        "tessella.app.source",
    }


def test_nothing_imports_tests() -> None:
    for path in FILES:
        assert not [n for n in imports(path) if n.split(".")[0] in ("tests", "conftest", "pytest", "hypothesis")], path


def test_the_walk_sees_relative_imports() -> None:
    found = set(imports(ROOT / "reduction" / "fastv.py"))
    assert {"tessella.core.contracts.Scorer", "jaxtyping.Float", "__future__.annotations"} <= found


def test_files_are_named_by_what_they_hold() -> None:
    assert not {p.stem for p in FILES} & {"utils", "util", "common", "misc", "helpers"}
