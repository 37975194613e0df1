"""The examples of docs/serving.md run as they are written, but for the port."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from real_server import RealServer

from tessella.app.demo import Example

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture
def blocks(server: RealServer, examples: list[Example], tmp_path: Path) -> dict[str, str]:
    examples[5].image.save(tmp_path / "photo.png")
    text = PAGE.read_text(encoding="utf-8").replace("http://127.0.0.1:8000", server.url)
    return dict(re.findall(r"```(python|sh)\n(.*?)```", text, flags=re.DOTALL))


def test_the_python_runs(blocks: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", blocks["python"]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "196 -> 22"


def test_the_shell_runs(blocks: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(["bash", "-c", blocks["sh"]], cwd=tmp_path, capture_output=True, text=True)
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[0])["object"] == "chat.completion.chunk"


def test_every_counter_is_described(server: RealServer) -> None:
    page = PAGE.read_text(encoding="utf-8")
    with server.http() as http:
        counters = set(re.findall(r"^# TYPE (tessella_\w+)", http.get("/metrics").text, re.M))
    assert {name for name in counters if not name.endswith("_created")} <= set(re.findall(r"tessella_\w+", page))
