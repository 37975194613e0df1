"""`tessella serve --ray`: what is refused in one line, and a whole life on a cluster of its own."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from real_server import RealServer, asking, data_url

from ray_nodes import NEEDS_RAY, RAY_WARNINGS, on_own_loopback
from tessella.cli.application import run
from tessella.core.errors import InputError
from tessella.serve.cluster import Scale

pytestmark = RAY_WARNINGS


@pytest.fixture(scope="module", autouse=True)
def on_loopback() -> Iterator[None]:
    with on_own_loopback():
        yield


def nodes(*resources: dict[str, float], alive: bool = True) -> list[dict[str, Any]]:
    return [{"Alive": alive, "Resources": has} for has in resources]


def test_what_a_replica_takes_follows_the_cluster():
    mixed = nodes({"CPU": 8.0, "GPU": 2.0}, {"CPU": 5.0})
    assert Scale().demand(mixed, None) == {"num_cpus": 2, "num_gpus": 1}
    assert Scale().demand(mixed, "cpu") == {"num_cpus": 2, "num_gpus": 0}
    assert Scale(gpus=0.5).demand(mixed, None) == {"num_cpus": 2, "num_gpus": 0.5}
    assert Scale().demand(nodes({"CPU": 2.0}), None) == {"num_cpus": 2, "num_gpus": 0}


@pytest.mark.parametrize(
    ("scale", "device", "room"),
    [
        (Scale(7, 9), "cpu", "6 replicas of 2 CPUs,"),
        (Scale(3, 4), None, "2 replicas of 2 CPUs and 1 GPUs,"),
        (Scale(5, 9, gpus=0.5), None, "4 replicas of 2 CPUs and 0.5 GPUs,"),
        (Scale(2, 2, gpus=2), None, "1 replicas of 2 CPUs and 2 GPUs,"),
        (Scale(1, 1, cpus=9), "cpu", "0 replicas of 9 CPUs,"),
    ],
)
def test_a_cluster_without_room_for_the_fewest_is_refused(scale, device, room):
    there = nodes({"CPU": 8.0, "GPU": 2.0}, {"CPU": 5.0}) + nodes({"CPU": 99.0, "GPU": 9.0}, alive=False)
    with pytest.raises(InputError) as error:
        scale.demand(there, device)
    assert str(error.value) == (
        f"the Ray cluster has room for {room} and --min-replicas asks for {scale.min_replicas}. Ask for fewer, or give "
        "each less: --ray-cpus, --ray-gpus."
    )


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line with which the command ends."""
    code = run(["serve", "--port", "0", *options])
    out = capsys.readouterr()
    assert (code, out.out, out.err.count("\n")) == (2, "", 1)
    return out.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--min-replicas", "0"), "got 0 and 4."),
        (("--min-replicas", "5"), "got 5 and 4."),
        (("--ray-cpus", "0"), "a replica needs at least 1 CPU; got 0."),
        (("--ray-gpus", "1.5"), "or a fraction below 1 of a shared GPU; got 1.5."),
        (("--ray-gpus", "-1"), "or a fraction below 1 of a shared GPU; got -1."),
    ],
)
@NEEDS_RAY
def test_sizes_that_cannot_be_are_refused(capsys, options, words):
    assert words in refused(capsys, "--ray", *options)


@NEEDS_RAY
def test_addresses_that_are_none_and_where_nothing_listens(capsys):
    assert "or host:port; got 'here'." in refused(capsys, "--ray", "here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    assert f"no Ray cluster answers at '{where}': Connection refused." in refused(capsys, "--ray", where)


def test_without_ray_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused(capsys, "--ray")
    assert line == "error: a cluster needs Ray, which is not installed: pip install 'tessella[ray]'\n"


@NEEDS_RAY
@pytest.mark.slow
def test_the_command_serves_from_a_cluster_of_its_own_and_ends_with_it(examples, mini):
    """The whole life, of which the end comes while an answer is being written."""
    written: list[str] = []
    with RealServer("--ray", "--max-replicas", "1", "--ray-cpus", "1", "--device", "cpu") as server:
        family = psutil.Process(server.process.pid).children(recursive=True)
        ports = [c for process in family for c in process.net_connections() if c.status == "LISTEN"]
        assert len(ports) > 5
        assert {port.laddr.ip.removeprefix("::ffff:") for port in ports} == {"127.0.0.1"}
        with server.client() as client:
            messages = asking(examples[0].question, data_url(examples[0].image))
            body = {"tessella": {"method": "hiprune", "keep": "1/9"}}
            reply = client.chat.completions.create(model="mini", messages=messages, extra_body=body)
            stream = client.chat.completions.create(model="mini", messages=messages, extra_body=body, stream=True)
            ending = threading.Timer(0.0, server.end)
            ending.start()
            written += [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
            ending.join()
        assert server.process.returncode == 0
    from tessella.app.answering import ask

    right = ask(*mini, examples[0].image, examples[0].question, "hiprune", "1/9")
    assert reply.choices[0].message.content.strip() == "".join(written).strip() == right.answer
    assert reply.usage.tessella["visual_tokens_kept"] == 22
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


@NEEDS_RAY
@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_told_in_one_line(tmp_path, capsys):
    with (
        pytest.raises(AssertionError) as error,
        RealServer("--ray", "--ray-cpus", "1", "--model", str(tmp_path / "no")),
    ):
        pass
    lines = [line for line in str(error.value).splitlines() if "error: " in line]
    assert len(lines) == 1
    assert f"error: no replica could be started: there is no model folder '{tmp_path / 'no'}'; give" in lines[0]
