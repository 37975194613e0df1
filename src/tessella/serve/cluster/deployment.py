"""Replicas as an application of Ray Serve: started, looked after by Serve, and ended."""

from __future__ import annotations

import dataclasses
import logging
import re
import secrets
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...app.reaching import LOCAL, Cluster, reach
from ...app.source import Source
from ...core.errors import InputError
from ..settings import WorkerSettings
from .replica import Replica
from .scale import Scale

STORE_BYTES = 1 << 30  # of shared memory for pictures on their way to replicas
TRIES = 3  # to load the model, one after the other, until the deployment is given up
COUNT_S = 1.0  # seconds until questions under way are counted again
LOOK_AGAIN = 0.2  # seconds until replicas that load are looked at again
NAME = "replicas"
_QUIET = {"log_level": "ERROR", "enable_access_log": False}


class Deployment:
    """Replicas on a cluster that is reached, or started. Everything here blocks: none of it is for an event loop."""

    def __init__(self, settings: WorkerSettings, address: str, scale: Scale) -> None:
        self._settings, self._scale = _everywhere(settings), scale
        self._cluster = Cluster(address, scale.cpus, STORE_BYTES)
        self._stack = ExitStack()
        self._app = f"tessella-{secrets.token_hex(4)}"
        self._given_up = threading.Event()
        self._lock = threading.Lock()  # Serve, asked after the end, would start a cluster of its own
        self.handle: Any = None

    def reach(self) -> None:
        """Connect to the cluster, or start it. Raises InputError in one line for what cannot be."""
        self._scale.check()
        self._cluster.check()
        self._stack.enter_context(reach(self._cluster))

    def deploy(self) -> None:
        """Return once a replica is ready, or all is given up. Raises InputError for no room, or no model."""
        import ray

        serve = _import_serve()
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        demand = self._scale.demand(ray.nodes(), self._settings.source.device)
        serve.start(proxy_location="Disabled", logging_config=_QUIET)
        if self._cluster.address != LOCAL:  # which ends as a whole
            self._stack.callback(serve.delete, self._app)
        self.handle = self._run(serve, demand)
        self._stack.callback(self.handle.shutdown)
        while not self.count_ready() and not self._given_up.wait(LOOK_AGAIN):
            pass

    def give_up(self) -> None:
        """Have `deploy`, under way in another thread, return soon."""
        self._given_up.set()

    def count_ready(self) -> int:
        """How many replicas are ready, 0 after the end. Raises InputError where the model could not be loaded."""
        from ray import serve

        with self._lock:
            if self.handle is None:
                return 0
            [deployment] = serve.status().applications[self._app].deployments.values()
        if deployment.status == "DEPLOY_FAILED":
            raise InputError(f"no replica could be started: {_gist(deployment.message)}")
        return sum(count for state, count in deployment.replica_states.items() if state == "RUNNING")

    def stop(self) -> None:
        """End the replicas, and a cluster that was started for them."""
        with self._lock:
            self.handle = None
            self._stack.close()

    def _run(self, serve: Any, demand: dict[str, float]) -> Any:
        side_by_side = self._settings.max_batch
        autoscaling = {
            "min_replicas": self._scale.min_replicas,
            "max_replicas": self._scale.max_replicas,
            "target_ongoing_requests": side_by_side,
            "upscale_delay_s": self._scale.up_after_s,
            "downscale_delay_s": self._scale.down_after_s,
            "metrics_interval_s": COUNT_S,  # to become an environment variable, which Ray 2.60 does not read yet
            "look_back_period_s": max(self._scale.up_after_s, 2 * COUNT_S),
        }
        deployed = serve.deployment(Replica).options(
            name=NAME,
            ray_actor_options=demand,
            max_ongoing_requests=side_by_side + min(side_by_side, self._settings.max_waiting),
            max_constructor_retry_count=TRIES,
            graceful_shutdown_timeout_s=self._settings.timeout_s,
            graceful_shutdown_wait_loop_s=0.2,
            logging_config=_QUIET,
            autoscaling_config=autoscaling,
        )
        application = deployed.bind(self._settings, self._scale.cpus)
        target = serve.RunTarget(application, name=self._app, route_prefix=None)
        [handle] = serve.run_many([target], wait_for_applications_running=False)
        return handle


def _everywhere(settings: WorkerSettings) -> WorkerSettings:
    """The same with a whole path: replicas run in folders of their own."""
    name = settings.source.name
    if name == "mini" or not Path(name).is_dir():
        return settings
    source: Source = dataclasses.replace(settings.source, name=str(Path(name).absolute()))
    return dataclasses.replace(settings, source=source)


def _gist(message: str) -> str:
    """The last line of what Serve says of a deployment that failed, without the type of the error in front."""
    return re.sub(r"^[\w.]+: ", "", message.strip().splitlines()[-1])


def _import_serve() -> Any:
    try:
        from ray import serve
    except ImportError:
        raise InputError("replicas need Ray Serve, which is not installed: pip install 'tessella[ray]'") from None
    return serve
