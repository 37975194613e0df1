"""What runs on a replica: a model of its own that answers what it is given."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ...core.errors import TessellaError
from ..contract import Event, Question
from ..settings import WorkerSettings


@dataclass(frozen=True)
class Refusal:
    """An error that a question met, sent as a value: what is raised on a replica arrives wrapped."""

    error: TessellaError


class Replica:
    """A deployment of Ray Serve. It is ready once its model is loaded, and raises what loading raises."""

    async def __init__(self, settings: WorkerSettings, threads: int) -> None:  # type: ignore[misc]  # Serve awaits it
        import torch

        from ..local import LocalAnswerer

        stay_on_loopback()
        torch.set_num_threads(threads)
        self._answerer = LocalAnswerer(settings)
        await self._answerer.start()

    def check_health(self) -> None:
        """Raise RuntimeError where the model answers no more; Serve then replaces the replica."""
        if not self._answerer.facts()["ready"]:
            raise RuntimeError("the thread that runs the model has ended")

    async def describe(self) -> tuple[Any, dict[str, Any]]:
        """The model's processor, and what is known of the model."""
        return self._answerer.processor, self._answerer.facts()

    async def answer(self, question: Question) -> AsyncGenerator[Event | Refusal, None]:
        """Events of a question; a refusal is the last one."""
        try:
            async with aclosing(self._answerer.answer(question)) as events:
                async for event in events:
                    yield event
        except TessellaError as error:
            yield Refusal(error)


def stay_on_loopback() -> None:
    """Have Serve open this process's own port to this machine alone.

    Replicas could ask each other through it. Serve opens it on every interface and unpickles what arrives; questions
    come by another way, which Ray guards as it does all of a cluster.
    """
    from ray.serve._private import replica

    name = "add_port_to_grpc_server"
    open_port = getattr(replica, name)
    setattr(replica, name, lambda server, address: open_port(server, address.replace("[::]", "127.0.0.1")))
