"""The families that have an adapter, and no gradients unless a test asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tessella.testing.families import TinyFamily
from tessella.testing.family_cases import supported_families

FAMILIES = supported_families()
if "paligemma" in FAMILIES:
    FAMILIES["paligemma2"] = replace(FAMILIES["paligemma"], text="gemma2")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `family` runs on every one."""
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@pytest.fixture
def model(family: TinyFamily) -> object:
    """The family's model, made once a session; tests leave it as it came."""
    from tessella.testing.family_cases import tiny_model

    return tiny_model(family)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield
