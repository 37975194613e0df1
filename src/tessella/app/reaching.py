"""Find or start a Ray cluster, and say how many workers it has room for."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import InputError

LOCAL, AUTO = "local", "auto"
ALLOWED = f"'{LOCAL}' (started on this machine, for the time being), '{AUTO}' (the one that runs here) or host:port"
SECONDS = 3.0  # to wait for a cluster's first answer; Ray itself would try for two minutes
# Ray listens on every interface unless it is told that its node is no part of a cluster
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # what is asked after the end starts no cluster of its own
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of other workers, when the first one's was raised
}
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # HTTP/2 with empty settings, as gRPC begins
_SETTINGS = 4  # type of the frame that answers it


@dataclass(frozen=True)
class Cluster:
    """Where work is spread, how many CPUs and threads each worker has where it has no GPU, and for a cluster that is
    started here the bytes of shared memory through which large messages go."""

    address: str = LOCAL
    cpus: int = 2
    store_bytes: int = 100 << 20

    def check(self) -> None:
        """Raise InputError for an address or a count that cannot be, and where Ray is not installed."""
        if self.address not in (LOCAL, AUTO):
            read_address(self.address)
        if self.cpus < 1:
            raise InputError(f"a worker needs at least 1 CPU; got {self.cpus}.")
        _import_ray(self.address)


@dataclass(frozen=True)
class Room:
    """How many workers there is room for, and what each asks of Ray."""

    workers: int
    demand: dict[str, float]


@contextlib.contextmanager
def reach(cluster: Cluster) -> Iterator[Any]:
    """The module `ray`, connected until the end of the block; a cluster that was started here ends with it.

    What Ray says of itself is kept off the terminal and it sends no usage statistics. Raises InputError in one line for
    a cluster that cannot be reached or started.
    """
    address = cluster.address
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO
    if address not in (LOCAL, AUTO):
        _check_answers(*read_address(address))
    ray = _import_ray(address)
    sizes = {"object_store_memory": cluster.store_bytes} if address == LOCAL else {}
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **sizes)
    except (Exception, SystemExit) as error:  # Ray leaves the program where a cluster does not answer
        reason = "it does not answer" if isinstance(error, SystemExit) else str(error).split("\n")[0]
        done = "started" if address == LOCAL else f"reached at {address!r}"
        raise InputError(f"no Ray cluster could be {done}: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def find_room(nodes: Sequence[Mapping[str, Any]], cpus: int, gpus: bool) -> Room:
    """Room on the nodes that live, from `ray.nodes()`: with `gpus` a worker on each GPU if there are any, else one for
    every `cpus` CPUs of a node. Raises InputError where no node has as many.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    num_gpus = sum(int(has.get("GPU", 0)) for has in alive) if gpus else 0
    if num_gpus:
        return Room(num_gpus, {"num_gpus": 1, "num_cpus": 0})
    workers = sum(int(has.get("CPU", 0)) // cpus for has in alive)
    if not workers:
        most = max((int(has.get("CPU", 0)) for has in alive), default=0)
        raise InputError(
            f"a worker asks for {cpus} CPUs, and no node of the Ray cluster has as many: the largest has {most}. Give "
            "each worker fewer: --ray-cpus 1."
        )
    return Room(workers, {"num_cpus": cpus})


def read_address(text: str) -> tuple[str, int]:
    """Host and port. Raises InputError for what is none."""
    host, _, port = text.rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InputError(f"the address of a Ray cluster is {ALLOWED}; got {text!r}.")
    return host.strip("[]"), int(port)


def _check_answers(host: str, port: int) -> None:
    """Raise InputError unless something there speaks the protocol of a Ray head node."""
    where = f"no Ray cluster answers at '{host}:{port}'"
    fix = f"Start one with 'ray start --head', or give {ALLOWED}."
    try:
        with socket.create_connection((host, port), SECONDS) as connection:
            connection.sendall(_GREETING)
            answer = connection.recv(9)
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}. {fix}") from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise InputError(f"{where}: what listens there is something else. {fix}")


def _import_ray(address: str) -> Any:
    """The module, which reads its environment when it is imported, not later."""
    for name, value in {**_ALWAYS, **(ON_LOOPBACK if address == LOCAL else {})}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise InputError("a cluster needs Ray, which is not installed: pip install 'tessella[ray]'") from None
    return ray
