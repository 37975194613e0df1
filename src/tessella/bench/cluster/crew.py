"""The workers of a run: started as far as there is room, compared with each other, replaced when they die."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...app.reaching import Cluster, find_room
from ...app.source import Source
from ...core.errors import InputError, TessellaError
from ..ledger import Item
from ..runner import Answers, Request, Work
from ..tasks import Batch
from .worker import BenchWorker, Plan, check_same

LOOK_AGAIN = 0.5  # seconds without news until nodes and other jobs are looked at
MOST_DEATHS = 3  # of workers at one portion, or one after the other while they load


@dataclass(eq=False)
class Portion:
    """Items of one batch that this job has taken, by setting, as far as they are not answered."""

    batch: Batch
    left: dict[str, Item]
    deaths: int = 0


@dataclass(eq=False)
class Worker:
    """A worker, what it said once it was ready, and the portion that it answers."""

    actor: Any
    plan: Plan | None = None
    portion: Portion | None = None


@dataclass(frozen=True)
class News:
    """What a worker has answered of a portion, or that it died over it."""

    portion: Portion
    answers: Answers | None = None
    missing: tuple[str, ...] = ()
    died: str | None = None


class Crew:
    """Workers on a connected cluster. Whatever a worker that died had not answered comes back as news."""

    def __init__(self, ray: Any, cluster: Cluster, source: Source, request: Request) -> None:
        self._ray, self._cluster = ray, cluster
        self._source, self._request = _everywhere(source, request)
        self.workers: list[Worker] = []
        self._awaited: dict[Any, Worker] = {}  # by what Ray is to return next
        self._first: Plan | None = None
        self._deaths = 0  # while loading, since the last worker that was ready
        self.idle: list[Worker] = []
        self._fill()

    def plan(self) -> Work:
        """What all workers measure, from the first that is ready; it has no model, which only workers have."""
        while self._first is None:
            list(self.listen())
        plan = self._first
        return Work(None, None, self._request.check(), plan.entries, plan.batches, plan.notes, self._request.share)

    def facts(self) -> dict[str, Any]:
        """Facts of the run: those of the first worker's machine, and of the cluster."""
        assert self._first is not None, "plan() comes first"
        nodes = [node["NodeName"] for node in self._ray.nodes() if node["Alive"]]
        return {
            **self._first.facts,
            "ray": {"version": self._ray.__version__, "workers": len(self.workers), "nodes": nodes},
        }

    def give(self, worker: Worker, portion: Portion) -> None:
        """Let an idle worker answer a portion."""
        self.idle.remove(worker)
        worker.portion = portion
        self._awaited[worker.actor.answer.remote(portion.batch, list(portion.left.values()))] = worker

    def listen(self) -> Iterator[News]:
        """News of one worker, if there are any soon. Raises what a worker raised."""
        if not self._awaited:
            time.sleep(LOOK_AGAIN)
            return
        ready, _ = self._ray.wait(list(self._awaited), num_returns=1, timeout=LOOK_AGAIN)
        if not ready:
            self._fill()
        for awaited in ready:
            worker = self._awaited.pop(awaited)
            try:
                yield from self._hear(worker, awaited)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, TessellaError):
                    raise error.cause from error
                raise
            except self._ray.exceptions.RayError as error:
                yield from self._bury(worker, error)

    def _hear(self, worker: Worker, awaited: Any) -> Iterator[News]:
        if worker.portion is None:
            self._admit(worker, self._ray.get(awaited))
            return
        part = next(awaited, None)
        if part is None:
            assert not worker.portion.left, "a worker has answered all that it was given"
            worker.portion = None
            self.idle.append(worker)
            return
        answers, missing = self._ray.get(part)
        self._awaited[awaited] = worker
        yield News(worker.portion, answers, missing)

    def _admit(self, worker: Worker, plan: Plan) -> None:
        self._first = self._first or plan
        check_same(self._first, plan)
        self._deaths = 0
        worker.plan = plan
        self.idle.append(worker)

    def _bury(self, worker: Worker, error: Exception) -> Iterator[News]:
        """Take a worker that died off the list, and start another."""
        where = "" if worker.plan is None else f"process {worker.plan.process} on {worker.plan.machine}: "
        reason = where + " ".join(str(error).split())
        self._ray.kill(worker.actor)  # where it was cut off only
        self.workers.remove(worker)
        if worker.portion is not None:
            yield News(worker.portion, died=reason)
        else:
            self._deaths += 1
            if self._deaths >= MOST_DEATHS:
                raise InputError(f"{self._deaths} workers in turn died while they loaded the model: {reason}")
        self._fill()

    def _fill(self) -> None:
        """Start as many workers as there is room for. Raises InputError where there is none for any."""
        room = find_room(self._ray.nodes(), self._cluster.cpus, gpus=self._source.device != "cpu")
        actor = self._ray.remote(BenchWorker).options(max_restarts=0, max_task_retries=0, **room.demand)
        for _ in range(room.workers - len(self.workers)):
            worker = Worker(actor.remote(self._source, self._request, self._cluster.cpus))
            self.workers.append(worker)
            self._awaited[worker.actor.plan.remote()] = worker


def _everywhere(source: Source, request: Request) -> tuple[Source, Request]:
    """The same with whole paths: workers run in folders of their own."""
    if Path(source.name).is_dir():
        source = dataclasses.replace(source, name=str(Path(source.name).absolute()))
    if request.data is not None:
        request = dataclasses.replace(request, data=str(Path(request.data).absolute()))
    return source, request
