"""A Ray cluster of several nodes on loopback, for tests."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
from collections.abc import Iterator

import pytest

from tessella.app.reaching import ON_LOOPBACK

NEEDS_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'tessella[ray]'"
)
RAY_WARNINGS = pytest.mark.filterwarnings(
    "ignore:.*Ray will no longer override accelerator visible devices:FutureWarning",
    "ignore:subprocess .* is still running:ResourceWarning",  # of the Ray that a driver has started
)
# a token of these tests' own; Ray reads it once in a process
_OWN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def on_own_loopback() -> Iterator[None]:
    """The environment of Ray in these tests, to be said before Ray is imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ON_LOOPBACK, **_OWN}.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def ray_nodes(count: int) -> Iterator[str]:
    """The address of a cluster whose nodes have one CPU and, as far as Ray knows, one GPU each."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(shutdown_at_exit=True)
    for _ in range(count):
        nodes.add_node(num_cpus=1, num_gpus=1, include_dashboard=False, wait=False)
    try:
        yield nodes.address
    finally:
        nodes.shutdown()
