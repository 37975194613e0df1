"""Shape annotations are executed, seeds are fixed and said, and tests use two threads at most."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# before anything of these packages is imported
install_import_hook(["tessella.core", "tessella.ops", "tessella.reduction", "tessella.testing"], "beartype.beartype")

SEED = 0
# several processes of pytest-xdist have a thread each
NUM_THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, int(os.environ.get("OMP_NUM_THREADS", "2")))

torch.set_num_threads(NUM_THREADS)
settings.register_profile("tessella", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("tessella")


def pytest_report_header() -> str:
    return f"tessella: seed {SEED} before each test, {NUM_THREADS} torch threads, derandomized properties"


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(SEED)
