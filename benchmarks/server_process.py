"""A server of its own for a benchmark: started on a free port, watched, and ended."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO

END_S = 60


class ServerProcess:
    """`tessella serve` with options of a command line, while this is entered.

    `address` is http://HOST:PORT, `model` the name under which it serves.
    """

    def __init__(self, *options: str) -> None:
        self._command = [sys.executable, "-m", "tessella.cli", "serve", "--port", "0", *options]
        self.model = self.address = ""

    def __enter__(self) -> ServerProcess:
        """Wait for the line that says where the server listens. Raises RuntimeError with its last words if it ends."""
        self._log: IO[str] = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"serves (.+) at (http://\S+)", line):
                self.model, self.address = found.groups()
                return self
        self._process.wait(END_S)
        raise RuntimeError(f"the server did not start: {self.last_words()}")

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.terminate()
        try:
            self.exit_code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_code = self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def last_words(self) -> str:
        """The end of what the server wrote to its log."""
        self._log.seek(0)
        return self._log.read()[-2000:].strip()

    def resident_bytes(self) -> int:
        """Memory that the process holds now, as Linux counts it."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found.group(1)) * 1024
