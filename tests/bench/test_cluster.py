"""A run on a real Ray cluster of two nodes on loopback: the same rows, none lost or doubled, mistakes in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tessella
from ray_nodes import NEEDS_RAY, RAY_WARNINGS, on_own_loopback, ray_nodes
from tessella.app.jobs import run_bench
from tessella.app.reaching import find_room
from tessella.app.source import Source
from tessella.bench.cluster import Cluster, Crew, reach, run_on
from tessella.bench.cluster.portions import Portions
from tessella.bench.cluster.worker import Plan, check_same
from tessella.bench.ledger import Ledger
from tessella.bench.pace import Progress
from tessella.bench.records import Record
from tessella.bench.runner import Request, Work, answer, plan_work, run_work
from tessella.cli.application import run
from tessella.cli.optional_value import fill_in
from tessella.core.errors import BudgetError, InputError

SMALL = Request("none,blind,hiprune,random", "1/2,22", "digit,shape", 6, batch=2, only=True)
pytestmark = RAY_WARNINGS


@pytest.fixture(scope="module")
def work() -> Work:
    return plan_work(*tessella.load("mini"), "mini", SMALL)


@pytest.fixture(scope="module")
def whole(work: Work, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """What this process answers by itself."""
    path = tmp_path_factory.mktemp("whole") / "bench.db"
    with Ledger(path) as ledger:
        run_work(work, ledger)
    return rows_of(path, work)


@pytest.fixture(scope="module", autouse=True)
def on_loopback() -> Iterator[None]:
    with on_own_loopback():
        yield


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes, as long as this module runs."""
    with ray_nodes(2) as address:
        yield address


@pytest.fixture(scope="module")
def crew(address: str) -> Iterator[Crew]:
    """Two workers, one on each node's CPU."""
    with reach(Cluster(address)) as ray:
        wait_until(lambda: len(ray.nodes()) == 2)
        crew = Crew(ray, Cluster(address, cpus=1), Source("mini", device="cpu"), SMALL)
        crew.plan()
        yield crew


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen in a minute")


def rows_of(path: Path, work: Work) -> list[Record]:
    """All records of a ledger without their times; two of one question would be an error of SQLite."""
    with Ledger(path) as ledger:
        return [dataclasses.replace(r, ms={}) for _, r in ledger.rows(work.settings, work.kinds, work.numbers)]


def answer_on(crew: Crew, path: Path, tell: Callable[[Progress], None] | None = None) -> list[Record]:
    plan = crew.plan()
    with Ledger(path) as ledger:
        assert run_on(crew, plan, ledger, tell) == ()
    return rows_of(path, plan)


# --- on two nodes ---------------------------------------------------------------------------------------------------


@NEEDS_RAY
def test_two_nodes_answer_what_one_process_answers(crew, work, whole, tmp_path):
    wait_until(lambda: len(list(crew.listen())) == 0 and all(w.plan for w in crew.workers))
    seen: list[tuple[int, float]] = []
    busy: set[int] = set()

    def tell(progress: Progress) -> None:
        seen.append((progress.answers, progress.seconds_left))
        busy.update(w.plan.process for w in crew.workers if w.plan and w.portion)

    assert answer_on(crew, tmp_path / "bench.db", tell) == whole
    assert len(whole) == work.num_answers == 72
    assert [answers for answers, _ in seen] == list(range(2, 73, 2))
    assert seen[-1][1] == 0
    assert len(busy) == 2
    parents = {Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1] for process in busy}
    assert len(parents) == 2  # the two nodes


@NEEDS_RAY
def test_what_a_killed_worker_had_not_answered_is_answered_once(crew, whole, tmp_path):
    killed: list[int] = []
    told: list[int] = []

    def kill(progress: Progress) -> None:
        told.append(progress.answers)
        if not killed and progress.answers >= 10:
            worker = next(w for w in crew.workers if w.plan and w.portion and 0 < len(w.portion.left) < 6)
            killed.append(worker.plan.process)
            os.kill(worker.plan.process, signal.SIGKILL)

    assert answer_on(crew, tmp_path / "bench.db", kill) == whole
    assert told == list(range(2, 73, 2))
    assert killed[0] not in {w.plan.process for w in crew.workers if w.plan}
    wait_until(lambda: len([w for w in [*crew.workers, *crew.listen()] if getattr(w, "plan", None)]) == 2)


@NEEDS_RAY
def test_another_job_shares_the_ledger(crew, work, whole, tmp_path):
    """It holds a batch that the cluster therefore leaves, and waits for."""
    path = tmp_path / "bench.db"
    with Ledger(path, "other") as other:
        other.begin(work.settings, {})
        batch, items = work.todo(other)[0]
        taken = other.take(items)
        mine: list[str] = []

        def tell(progress: Progress) -> None:
            mine.append(progress.pipeline)
            if progress.answers == 60:  # all that is not taken
                for answers in answer(work, batch, taken):
                    other.add(answers.records, answers.item)

        assert answer_on(crew, path, tell) == whole
    assert len(taken) == 6
    assert len(mine) == 30


@NEEDS_RAY
@pytest.mark.slow
def test_the_command_starts_workers_here_and_ctrl_c_ends_them(tmp_path):
    path = tmp_path / "bench.db"
    args = ["--methods", "none", "--types", "digit", "--batch", "2", "--limit", "9000", "--ray", "--ray-cpus", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tessella.cli", "bench", *args, "--out", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(tessella.__file__).parents[1])},
    )
    wait_until(path.exists)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    *progress, last = err.splitlines()
    assert (process.returncode, out) == (130, "")
    assert all(" answers, " in line for line in progress)
    assert f"answers of these settings are kept in '{path}'; the same command goes on from there" in last
    wait_until(lambda: not members_of(process.pid))


def members_of(group: int) -> list[str]:
    """Processes of a group that still run."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of = place.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                found.append(place.parent.name)
    return found


# --- workers that cannot go on --------------------------------------------------------------------------------------


@NEEDS_RAY
def test_what_a_worker_refuses_is_raised_here(crew, address):
    """Of workers that ask for a GPU each, which the others have left."""
    import ray

    others = Crew(ray, Cluster(address, cpus=1), Source("mini"), dataclasses.replace(SMALL, keep="197"))
    with pytest.raises(BudgetError, match=r"keep=197 asks for 197 .*, but only 196 are there") as error:
        others.plan()
    assert "\n" not in str(error.value)


def test_a_portion_over_which_workers_die_is_given_up(work, tmp_path):
    with Ledger(tmp_path / "bench.db") as ledger:
        ledger.begin(work.settings, {})
        portions = Portions(work, ledger)
        for _ in range(2):
            portion = portions.take(workers=1)
            portions.lose(portion, "process 7 on here: killed")
        assert portions.take(workers=1) is portion
        with pytest.raises(InputError) as error:
            portions.lose(portion, "process 7 on here: killed")
    assert str(error.value) == (
        "3 workers died over digit 200000 under 'none'; what was answered is kept. The last one: process 7 on here: "
        "killed"
    )


def test_a_batch_is_shared_where_there_are_more_workers_than_batches(work, tmp_path):
    one = dataclasses.replace(work, batches=work.batches[:2])
    with Ledger(tmp_path / "bench.db") as ledger:
        ledger.begin(work.settings, {})
        portions = Portions(one, ledger)
        sizes = []
        while (portion := portions.take(workers=3)) is not None:
            sizes.append((portion.batch.numbers[0], len(portion.left)))
    assert sizes == [(200_000, 4), (200_000, 2), (200_002, 4), (200_002, 2)]


def test_workers_that_would_not_measure_the_same_are_refused(work):
    first = Plan("here", 1, work.entries, work.batches, (), {})
    check_same(first, dataclasses.replace(first, machine="there"))
    [entry, *others] = work.entries
    details = {**entry.setting.details, "versions": {**entry.setting.details["versions"], "torch": "2.0"}}
    older = dataclasses.replace(entry, setting=dataclasses.replace(entry.setting, details=details))
    with pytest.raises(InputError) as error:
        check_same(first, Plan("there", 2, (older, *others), work.batches, (), {}))
    here = entry.setting.details["versions"]["torch"]
    assert str(error.value).startswith(
        f"workers would not measure the same: setting none versions torch is '2.0' on there and '{here}' on here."
    )
    with pytest.raises(InputError, match="the same: questions is "):
        check_same(first, dataclasses.replace(first, batches=work.batches[:1]))


# --- room -----------------------------------------------------------------------------------------------------------


def nodes(*resources: dict[str, float], alive: bool = True) -> list[dict[str, Any]]:
    return [{"Alive": alive, "Resources": r} for r in resources]


def test_there_is_a_worker_on_each_gpu_or_for_some_cpus_of_a_node():
    mixed = nodes({"CPU": 8.0, "GPU": 2.0}, {"CPU": 5.0})
    assert (find_room(mixed, 2, gpus=True).workers, find_room(mixed, 2, gpus=False).workers) == (2, 4 + 2)
    assert find_room(mixed, 2, gpus=True).demand == {"num_gpus": 1, "num_cpus": 0}
    assert find_room(nodes({"CPU": 8.0}) + nodes({"CPU": 9.0}, alive=False), 3, gpus=True).workers == 2
    with pytest.raises(InputError, match=r"asks for 6 CPUs, and no node .* has as many: the largest has 5"):
        find_room(nodes({"CPU": 5.0}, {"CPU": 4.0}), 6, gpus=True)


# --- mistakes -------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> str:
    """The one line with which the command ends; it writes nothing."""
    code = run(["bench", "--keep", "1/9", "--out", str(folder / "bench.db"), *options])
    out = capsys.readouterr()
    assert (code, out.out, out.err.count("\n")) == (2, "", 1)
    assert list(folder.iterdir()) == []
    return out.err


def test_without_ray_the_extra_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused(capsys, tmp_path, "--ray")
    assert line == "error: a cluster needs Ray, which is not installed: pip install 'tessella[ray]'\n"


@NEEDS_RAY
def test_an_address_where_nothing_listens_is_refused_at_once(capsys, tmp_path):
    where = f"127.0.0.1:{free_port()}"
    start = time.monotonic()
    line = refused(capsys, tmp_path, "--ray", where)
    assert line.startswith(f"error: no Ray cluster answers at '{where}': Connection refused. Start one with 'ray start")
    assert time.monotonic() - start < 20  # Ray itself takes two minutes


@NEEDS_RAY
def test_an_address_where_something_else_listens_is_refused(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        line = refused(capsys, tmp_path, "--ray", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert "what listens there is something else" in line


@NEEDS_RAY
@pytest.mark.parametrize("given", ["here", "host:", "host:99999", "ray://host:10001", ":6379"])
def test_an_address_that_is_none_is_refused(capsys, tmp_path, given):
    assert f"or host:port; got {given!r}." in refused(capsys, tmp_path, "--ray", given)


@NEEDS_RAY
def test_a_worker_without_cpus_is_refused(capsys, tmp_path):
    assert refused(capsys, tmp_path, "--ray", "--ray-cpus", "0") == "error: a worker needs at least 1 CPU; got 0.\n"


@NEEDS_RAY
def test_two_jobs_of_one_name_are_refused_before_ray_is_asked(tmp_path):
    path = tmp_path / "bench.db"
    nowhere = Cluster(f"127.0.0.1:{free_port()}")
    with Ledger(path, "mine"), pytest.raises(InputError, match=f"in use by a job 'mine', process {os.getpid()}"):
        run_bench(SMALL, Source(), path, print, job="mine", cluster=nowhere)


def test_ray_alone_means_this_machine():
    assert fill_in(["--ray", "--only"], "--ray", "local") == ["--ray", "local", "--only"]
    assert fill_in(["--only", "--ray"], "--ray", "local") == ["--only", "--ray", "local"]
    assert fill_in(["--ray", "auto", "--only"], "--ray", "local") == ["--ray", "auto", "--only"]
