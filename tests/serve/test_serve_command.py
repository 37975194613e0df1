"""The command `serve`: what cannot be served is told in one line, before a model is loaded."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tessella.cli.application import run


@pytest.fixture
def complain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The one line that `tessella serve` prints with options it cannot take."""
    monkeypatch.delenv("TESSELLA_API_KEYS", raising=False)

    def complained(*options: str) -> str:
        assert run(["serve", *options]) == 2
        out = capsys.readouterr()
        assert out.out == ""
        assert out.err.count("\n") == 1
        return out.err

    return complained


@pytest.mark.parametrize(
    "options, message",
    [
        (("--host", "0.0.0.0"), "error: --host 0.0.0.0 can be reached from other machines, so keys are needed: give"),
        (("--method", "fast_v", "--keep", "1/9"), "error: no method 'fast_v'. Closest: 'fastv'"),
        (("--method", "hiprune"), "error: hiprune needs a keep"),
        (("--keep", "25%"), "got '25%'. For a quarter write 0.25 or 1/4."),
        (("--max-keep", "25%"), "got '25%'. For a quarter write 0.25 or 1/4."),
        (("--method", "none.json"), "error: the recipe 'none.json' cannot be read: No such file"),
        (("--port", "99999"), "error: port must be 0 (any that is free) to 65535; got 99999."),
        (("--max-tokens", "0"), "error: max_tokens must be at least 1; got 0."),
        (("--max-batch", "0"), "error: max_batch must be at least 1; got 0."),
        (("--timeout", "0"), "error: timeout_s must be more than 0; got 0"),
        (("--api-key-file", "none.txt"), "error: the key file 'none.txt' cannot be read: No such file"),
        (("--model", "/none", "--port", "0"), "error: there is no model folder '/none'"),
        (("--api-key", "secret"), "error: No such option: --api-key"),
    ],
)
def test_what_cannot_be_served(complain, options: tuple[str, ...], message: str) -> None:
    assert message in complain(*options)


def test_a_port_that_is_taken(complain) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"error: cannot listen at 127.0.0.1, port {port}: Address already in use. Give another --port" in (
            complain("--port", str(port))
        )


def test_without_the_extra(complain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "tessella.serve.running", raising=False)
    assert complain() == (
        "error: serving needs 'uvicorn', which is not installed; install the extra: pip install 'tessella[serve]'\n"
    )


def test_the_command_line_starts_without_what_serves(tmp_path: Path) -> None:
    code = (
        "import sys, tessella.cli.application, tessella.serve.settings; "
        "print([m for m in ('fastapi', 'uvicorn', 'starlette', 'prometheus_client', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"
