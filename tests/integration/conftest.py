"""A model to share, and no gradients unless a test asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from tessella.testing.tiny import tiny_llava


@pytest.fixture(scope="session")
def model() -> LlavaForConditionalGeneration:
    """For tests that leave it as it came, which every run must."""
    return tiny_llava()


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield
