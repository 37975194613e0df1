"""How many replicas there may be, and what each of them takes of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.errors import InputError


@dataclass(frozen=True)
class Scale:
    """Bounds on the number of replicas, and what each takes: CPUs, which are its threads, and GPUs.

    `gpus` None is one where the cluster has any, and none where it has not or the model is to be on a CPU; a fraction
    lets replicas share a GPU. A replica is added when more questions are under way for `up_after_s` than all of them
    answer side by side, and taken away when fewer are for `down_after_s`.
    """

    min_replicas: int = 1
    max_replicas: int = 4
    cpus: int = 2
    gpus: float | None = None
    up_after_s: float = 5.0
    down_after_s: float = 300.0

    def check(self) -> None:
        """Raise InputError for bounds and sizes that cannot be."""
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise InputError(
                "the number of replicas lies between --min-replicas, 1 or more, and --max-replicas, as many or more; "
                f"got {self.min_replicas} and {self.max_replicas}."
            )
        if self.cpus < 1:
            raise InputError(f"a replica needs at least 1 CPU; got {self.cpus}.")
        if self.gpus is not None and not (0 <= self.gpus < 1 or self.gpus == int(self.gpus) > 0):
            raise InputError(f"--ray-gpus is a whole number, or a fraction below 1 of a shared GPU; got {self.gpus:g}.")

    def demand(self, nodes: Sequence[Mapping[str, Any]], device: str | None) -> dict[str, float]:
        """What each replica asks of Ray, on the nodes that live, from `ray.nodes()`.

        Raises InputError where they have no room for `min_replicas`.
        """
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        gpus = self.gpus
        if gpus is None:
            gpus = 1 if device != "cpu" and any(has.get("GPU") for has in alive) else 0
        room = sum(_room(has, self.cpus, gpus) for has in alive)
        if room < self.min_replicas:
            each = f"{self.cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
            raise InputError(
                f"the Ray cluster has room for {room} replicas of {each}, and --min-replicas asks for "
                f"{self.min_replicas}. Ask for fewer, or give each less: --ray-cpus, --ray-gpus."
            )
        return {"num_cpus": self.cpus, "num_gpus": gpus}


def _room(has: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many replicas a node has room for."""
    by_cpus = int(has.get("CPU", 0) // cpus)
    if not gpus:
        return by_cpus
    if gpus < 1:
        return min(by_cpus, int(has.get("GPU", 0)) * int(1 / gpus))
    return min(by_cpus, int(has.get("GPU", 0) // gpus))
