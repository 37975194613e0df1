"""A run that is killed twenty times, wherever it is, ends like one that nobody stopped."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tessella.bench.ledger import read_ledger

# loads the model once, then forks a child for each run and kills it after a while
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
import tessella
from tessella.bench.ledger import Ledger
from tessella.bench.runner import Request, plan_work, run_work

torch.set_num_threads(1)
request = Request("none,hiprune,fastv", "1/9", "digit", 30, batch=2, only=True)
work = plan_work(*tessella.load("mini"), "mini", request)

def run(path, job):
    with Ledger(path, job) as ledger:
        run_work(work, ledger)

def start(path, job):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(path, job)
            code = 0
        finally:
            os._exit(code)
    return child

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
begin = time.monotonic()
assert os.waitpid(start(folder / "whole.db", "bench"), 0)[1] == 0
whole = time.monotonic() - begin
chance, done, before = random.Random(0), 0, 0
while done < kills:
    jobs = [start(folder / "killed.db", name) for name in ("bench", "two")[: 1 + done % 2]]
    time.sleep(chance.uniform(0, 2 * whole / kills))
    for child in jobs:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:  # it had nothing left to do: begin anew
            assert status == 0, status
            (folder / "killed.db").unlink(missing_ok=True)
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done += 1
assert os.waitpid(start(folder / "killed.db", "bench"), 0)[1] == 0
print(done)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, which this system has not")
def test_twenty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", KILLER, str(tmp_path), "20"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert int(result.stdout) >= 20

    def rows(name: Path) -> list[tuple[object, ...]]:
        return sorted((r.setting, r.kind, r.number, r.answer, r.score, r.tokens_kept) for _, r in read_ledger(name))

    whole = rows(tmp_path / "whole.db")
    assert len(whole) == 3 * 30
    assert rows(tmp_path / "killed.db") == whole
    with closing(sqlite3.connect(tmp_path / "killed.db")) as connection:
        assert connection.execute("SELECT count(*) FROM taken").fetchone() == (0,)
