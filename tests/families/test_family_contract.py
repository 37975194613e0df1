"""Every family that has an adapter against the family contract."""

from __future__ import annotations

import pytest

import tessella
from tessella.core.pipeline import example_of
from tessella.testing import FAMILY_CHECKS, FAMILY_METHOD_CHECKS
from tessella.testing.families import TinyFamily

METHODS = ("random", "divprune", "fastv@2", "hiprune", "feather")
NAMED = {name.partition("@")[0] for name in METHODS}
OTHERS = tuple(str(example_of(m)) for m in tessella.methods() if m not in NAMED)


@pytest.mark.parametrize("check", FAMILY_CHECKS)
def test_family(family: TinyFamily, check: str) -> None:
    FAMILY_CHECKS[check](family)


@pytest.mark.parametrize("check", FAMILY_METHOD_CHECKS)
@pytest.mark.parametrize("method", METHODS)
def test_method_on_a_family(family: TinyFamily, method: str, check: str) -> None:
    FAMILY_METHOD_CHECKS[check](family, method)


@pytest.mark.slow
@pytest.mark.parametrize("check", FAMILY_METHOD_CHECKS)
@pytest.mark.parametrize("method", OTHERS)
def test_every_other_method_on_a_family(family: TinyFamily, method: str, check: str) -> None:
    FAMILY_METHOD_CHECKS[check](family, method)
