"""Every operator shows an example with shapes, and the examples of core, ops and testing run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import tessella.core
import tessella.ops
import tessella.testing

PACKAGES = (tessella.core, tessella.ops)
MODULES = [f"{p.__name__}.{m.name}" for p in PACKAGES for m in pkgutil.iter_modules(p.__path__)]
OPERATORS = [m for m in MODULES if ".ops." in m]


@pytest.mark.parametrize("name", [*MODULES, "tessella.testing.array_view"])
def test_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_shows_an_example(name: str) -> None:
    module = importlib.import_module(name)
    functions = [f for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == name and n[0] != "_"]
    assert functions, name
    for function in functions:
        assert ">>>" in (function.__doc__ or ""), f"{name}.{function.__name__} shows no example"
