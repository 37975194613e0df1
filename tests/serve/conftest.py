"""What the tests of the server share: one process that serves the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from real_server import RealServer

import tessella
from tessella.app.demo import Example, bundled


@pytest.fixture(scope="session")
def server() -> Iterator[RealServer]:
    with RealServer() as running:
        yield running


@pytest.fixture
def client(server: RealServer) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini", device="cpu")


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return bundled()
