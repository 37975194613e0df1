"""Start a server from its settings alone."""

from __future__ import annotations

from collections.abc import Callable

from ..core.errors import InputError
from .cluster.scale import Scale
from .settings import FrontSettings, WorkerSettings


def start_server(
    worker: WorkerSettings,
    front: FrontSettings,
    say: Callable[[str], None],
    ray: str | None = None,
    scale: Scale | None = None,
) -> None:
    """Serve until a signal, with a model in this process or, at the address `ray`, with replicas in a cluster.

    `say` is given the address once questions are taken. Raises InputError for what cannot be served, and where the
    extra `serve` is not installed.
    """
    worker.check()
    try:
        from .running import run_server
    except ImportError as error:
        if error.name is None or error.name.startswith("tessella"):
            raise
        raise InputError(
            f"serving needs {error.name!r}, which is not installed; install the extra: pip install 'tessella[serve]'"
        ) from None
    if ray is None:
        from .local import LocalAnswerer

        run_server(LocalAnswerer(worker), front, say)
    else:
        from .cluster import RayAnswerer

        run_server(RayAnswerer(worker, ray, scale or Scale()), front, say)
