"""A server process of its own, and what its tests send."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
from PIL import Image


class RealServer:
    """`tessella serve` with options of a command line, until the end of the block."""

    def __init__(self, *options: str, **environment: str) -> None:
        self._command = [sys.executable, "-m", "tessella.cli", "serve", "--port", "0", *options]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}

    def __enter__(self) -> RealServer:
        self._log = tempfile.NamedTemporaryFile("w+")
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=self._environment
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            told = self.log()
            self.__exit__()
            raise AssertionError(f"no address but {line!r}, and on standard error: {told}")
        self.line, self.url = line, found.group()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.end()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def end(self, seconds: float = 60) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def log(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8")

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def counter(self, name: str, **headers: str) -> float:
        """The sum of a metric over its labels."""
        text = httpx.get(f"{self.url}/metrics", headers=headers, trust_env=False).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

    def wait_until(self, holds: Callable[[], bool], seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"not within {seconds} s"
            time.sleep(0.05)


def data_url(image: Image.Image, kind: str = "png") -> str:
    written = io.BytesIO()
    image.save(written, kind)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def asking(text: str, *urls: str) -> list[dict[str, Any]]:
    """Messages of one turn: pictures, then the question."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
