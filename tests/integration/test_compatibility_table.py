"""The table in docs/compatibility.md and the tests of this folder, and those of families, name each other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tessella.testing import FAMILY_CHECKS

HERE = Path(__file__).parent
TABLE = (HERE.parents[1] / "docs" / "compatibility.md").read_text(encoding="utf-8")
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| what")]
NAMED = re.compile(r"`((?:test|check)_\w+)`")


def test_every_row_has_its_tests() -> None:
    known = _tests()
    assert len(ROWS) > 60
    for row in ROWS:
        names = NAMED.findall(row.rsplit("|", 2)[1])
        assert names, f"no test in: {row}"
        assert set(names) <= known, f"no such test: {sorted(set(names) - known)}"


def test_every_test_has_its_row() -> None:
    named = {name for row in ROWS for name in NAMED.findall(row.rsplit("|", 2)[1])}
    assert _tests() - named == set()


def _tests() -> set[str]:
    """Names of the tests in the other modules and in those of families; each stands in one of them."""
    files = [*HERE.glob("test_compatibility*.py"), *(HERE.parent / "families").glob("test_*.py")]
    names = [f"check_{name}" for name in FAMILY_CHECKS]
    for path in sorted(files):
        if path != Path(__file__) and path.name != "test_family_contract.py":  # whose checks these are
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names += [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    assert len(names) == len(set(names)) > 80
    return set(names)
