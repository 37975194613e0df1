"""Every family that has an adapter against the family contract."""

from __future__ import annotations

import pytest

from tessella.testing.families import TinyFamily
from tessella.testing.family_contract import FAMILY_CHECKS, FAMILY_METHOD_CHECKS

METHODS = ("random", "divprune", "fastv@2", "hiprune", "feather")


@pytest.mark.parametrize("check", FAMILY_CHECKS)
def test_family(family: TinyFamily, check: str) -> None:
    FAMILY_CHECKS[check](family)


@pytest.mark.parametrize("check", FAMILY_METHOD_CHECKS)
@pytest.mark.parametrize("method", METHODS)
def test_method_on_a_family(family: TinyFamily, method: str, check: str) -> None:
    FAMILY_METHOD_CHECKS[check](family, method)
