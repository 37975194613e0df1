"""Replicas on a real Ray cluster on loopback: every question answered once and right, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest

import tessella
from ray_nodes import NEEDS_RAY, RAY_WARNINGS, on_own_loopback, ray_nodes
from tessella import mini
from tessella.app.answering import ask
from tessella.app.prompting import write_parts
from tessella.app.source import Source
from tessella.core.errors import BudgetError, UnknownMethodError
from tessella.mini.questions import sample
from tessella.serve.cluster import RayAnswerer, Scale
from tessella.serve.contract import Busy, Closing, Event, Late, Lost, Piece, Question, Reading, Sampling
from tessella.serve.settings import WorkerSettings

SERVE_WARNINGS = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field` is deprecated:DeprecationWarning",  # by Serve itself
    "ignore:The `metrics_interval_s` field:DeprecationWarning",  # its successor is not read yet
)
pytestmark = [NEEDS_RAY, RAY_WARNINGS, SERVE_WARNINGS]
PIPELINES = ("none", "hiprune:1/9", "divprune:22", "fastv:1/2")
NUM_WHOLE, NUM_STREAMED, TOKENS = 40, 8, 24
MAX_BATCH, MAX_WAITING = 4, 60
T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without its end token, so that answers are long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("model") / "endless"
    shutil.copytree(mini.path(), folder)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        for part in (settings, settings.get("text_config", {})):
            part["eos_token_id"] = None
        (folder / name).write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def questions(endless: Path) -> list[tuple[Question, str]]:
    """Questions with the answers that one model in this process gives."""
    model, processor = tessella.load(endless, device="cpu")
    out = []
    for number in range(NUM_WHOLE + NUM_STREAMED):
        drawn, pipeline = sample("colour", number), PIPELINES[number % len(PIPELINES)]
        text = write_parts(processor, [None, drawn.question])
        question = Question(str(number), text, (drawn.image,), pipeline, sampling=Sampling(TOKENS))
        question = dataclasses.replace(question, streamed=number >= NUM_WHOLE)
        out.append(
            (question, ask(model, processor, drawn.image, drawn.question, pipeline, max_new_tokens=TOKENS).answer)
        )
    return out


@pytest.fixture(scope="module")
def run() -> Iterator[Run[Any]]:
    """An event loop that goes on from one test to the next, as a server's does."""
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.close()


@pytest.fixture(scope="module")
def answerer(endless: Path, run: Run[None]) -> Iterator[RayAnswerer]:
    """One replica or two, on two nodes with a CPU each."""
    source = Source(str(endless), device="cpu")
    settings = WorkerSettings(source, max_batch=MAX_BATCH, max_waiting=MAX_WAITING)
    scale = Scale(1, 2, cpus=1, gpus=0, up_after_s=0.5, down_after_s=3.0)
    with on_own_loopback(), ray_nodes(2) as address:
        answerer = RayAnswerer(settings, address, scale)
        run(answerer.start())
        yield answerer
        run(answerer.stop(0))


async def answers(answerer: RayAnswerer, question: Question) -> list[Event]:
    async with aclosing(answerer.answer(question)) as events:
        return [event async for event in events]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it did not happen in a minute")


async def load(answerer: RayAnswerer, question: Question) -> None:
    """Keep more questions under way than two replicas answer side by side, until cancelled."""

    async def ask_on() -> None:
        while True:
            await answers(answerer, question)

    await asyncio.gather(*(ask_on() for _ in range(5 * MAX_BATCH)))


@contextlib.asynccontextmanager
async def under_load(answerer: RayAnswerer, question: Question) -> Any:
    loading = asyncio.create_task(load(answerer, question))
    try:
        yield
    finally:
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading


def replicas() -> set[int]:
    """Processes of this machine's replicas that live."""
    found = set()
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"ServeReplica:tessella-" in place.read_bytes():
                found.add(int(place.parent.name))
    return found


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece)).strip()


def test_what_a_killed_replica_had_not_answered_is_answered_once(answerer, run, questions):
    async def scene() -> list[list[Event] | BaseException]:
        async with under_load(answerer, questions[0][0]):
            await until(lambda: answerer.facts()["replicas"]["ready"] == 2)
        asked = [asyncio.create_task(answers(answerer, question)) for question, _ in questions]
        await until(lambda: sum(task.done() for task in asked) >= 10)
        os.kill(max(replicas()), signal.SIGKILL)
        return await asyncio.gather(*asked, return_exceptions=True)

    answered = run(scene())
    for (question, right), events in zip(questions, answered, strict=True):
        if question.streamed and isinstance(events, Lost):
            assert str(events) == "what was answering has died in the middle of the answer; ask again."
            continue
        assert not isinstance(events, BaseException), events
        assert text_of(events) == right
        assert isinstance(events[0], Reading)
        assert isinstance(events[-1], Closing)
        assert [type(e) for e in events[1:-1]] == [Piece] * (len(events) - 2)
        assert [e.finish for e in events[1:-1] if isinstance(e, Piece) and e.finish] == ["length"]
        assert events[-1].completion_tokens == TOKENS
    assert answerer.facts()["running"] == answerer.facts()["waiting"] == 0


@pytest.mark.slow
def test_replicas_come_and_go_within_their_bounds(answerer, run, questions):
    seen: Counter[int] = Counter()

    async def scene() -> None:
        async with under_load(answerer, questions[0][0]):
            await until(lambda: answerer.facts()["replicas"]["ready"] == 2)
            for _ in range(20):
                await asyncio.sleep(0.1)
                seen[len(replicas())] += 1
        await until(lambda: answerer.facts()["replicas"]["ready"] == 1)

    run(scene())
    assert max(seen) == 2
    assert answerer.facts()["replicas"] == {"ready": 1, "min": 1, "max": 2}


def test_a_replica_serves_its_own_machine_alone(answerer):
    """Serve gives each a port of its own, where it unpickles whatever comes."""
    import psutil

    ports = [c for pid in replicas() for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    assert len(ports) >= 2
    assert {port.laddr.ip.removeprefix("::ffff:") for port in ports} == {"127.0.0.1"}


def test_errors_cross_as_themselves(answerer, run, questions):
    question = questions[0][0]
    for pipeline, kind, words in (
        ("fast_v:4", UnknownMethodError, "Closest: 'fastv'"),
        ("hiprune:197", BudgetError, "asks for 197"),
    ):
        with pytest.raises(kind, match=words) as error:
            run(answers(answerer, dataclasses.replace(question, pipeline=pipeline)))
        assert type(error.value) is kind  # and no child of it that Ray has made
    assert answerer.facts()["running"] == 0


def test_questions_beyond_what_may_wait_are_refused(answerer, run, questions):
    async def scene() -> list[list[Event] | BaseException]:
        asked = (
            answers(answerer, questions[0][0]) for _ in range(MAX_BATCH * answerer.facts()["replicas"]["ready"] + 70)
        )
        return await asyncio.gather(*asked, return_exceptions=True)

    kinds = Counter(type(events) for events in run(scene()))
    assert kinds[Busy] == 70 - MAX_WAITING
    assert kinds.keys() == {Busy, list}


def test_an_answer_that_takes_too_long_is_late(answerer, run, questions, monkeypatch):
    monkeypatch.setattr(answerer, "_settings", dataclasses.replace(answerer._settings, timeout_s=0.001))
    with pytest.raises(Late, match=r"longer than 0\.001 s"):
        run(answers(answerer, questions[0][0]))
    assert answerer.facts()["running"] == 0


def test_a_question_that_nobody_reads_on_is_cancelled_on_its_replica(answerer, run, questions):
    long = dataclasses.replace(questions[-1][0], sampling=Sampling(1000))

    async def scene() -> tuple[list[Event], list[int], float]:
        events = answerer.answer(long)
        begun = [await anext(events), await anext(events)]
        running = [await count_running(answerer)]
        start = time.monotonic()
        await events.aclose()
        while await count_running(answerer):
            await asyncio.sleep(0.02)
        return begun, running, time.monotonic() - start

    begun, running, seconds = run(scene())
    assert [type(event) for event in begun] == [Reading, Piece]
    assert running == [1]
    assert seconds < 2  # a thousand tokens take longer


async def count_running(answerer: RayAnswerer) -> int:
    """Questions that replicas answer, as far as one of them, or the other, says."""
    return max([(await answerer._deployment.handle.describe.remote())[1]["running"] for _ in range(4)])
