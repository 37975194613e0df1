"""Whether a server's memory stays flat over thousands of requests of every kind.

    python benchmarks/serving_memory.py                  # 5,000 requests
    python benchmarks/serving_memory.py --requests 200   # to try the script itself

Eight clients send requests with new and repeated pictures, under several methods and budgets, streamed and whole; some
leave in the middle of an answer, and some send what is refused. The server's caches are small, so that they are full
early on. The memory that its process holds is read after every fiftieth part of the requests: what it holds at most
after a tenth of them is compared with what it holds then, and a line is fitted to the last half.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import machine
import torch
from server_process import ServerProcess
from serving_load import draw_picture, write_body

CLIENTS, SAMPLES = 8, 50
CACHE_MB = 16
GOAL_GROWTH = 0.05  # of memory after a tenth of all requests
GOAL_SLOPE = 2.0  # MB a thousand requests, over the last half
REDUCTIONS: tuple[dict[str, Any], ...] = (
    {"method": "none"},
    {"method": "hiprune", "keep": "1/9"},
    {"method": "divprune", "keep": 22},
    {"method": "fastv", "keep": 0.25},
    {"method": "random", "keep": "1/2"},
    {"method": "visionzip", "keep": 30},
)
KINDS = ("stream", "whole", "two answers", "leaves", "unknown method", "broken picture", "no JSON", "too many tokens")
WEIGHTS = (30, 30, 5, 15, 5, 5, 5, 5)


def write_request(model: str, kind: str, draw: random.Random) -> dict[str, Any]:
    """Arguments for httpx: a body of one kind."""
    if kind == "no JSON":
        return {"content": b'{"model": ', "headers": {"content-type": "application/json"}}
    picture = draw_picture(draw.randrange(20) if draw.random() < 0.5 else draw.randrange(10**9), draw.choice((56, 112)))
    reduction = draw.choice(REDUCTIONS)
    if kind == "unknown method":
        reduction = {"method": f"fast{draw.randrange(100)}", "keep": 4}
    if kind == "broken picture":
        picture = picture[: len(picture) // 2]
    text = draw.choice(("what color is the star?", "how many shapes are there?", "is there a circle?"))
    body = write_body(model, picture, text, 10**9 if kind == "too many tokens" else 16, reduction)
    if kind in ("whole", "two answers"):
        body |= {"stream": False, "stream_options": None}
    if kind == "two answers":
        body |= {"n": 2, "temperature": 0.7, "seed": draw.randrange(100), "logprobs": True, "top_logprobs": 2}
    return {"json": body}


async def send(http: httpx.AsyncClient, model: str, kind: str, draw: random.Random) -> int:
    """Send a request and read its answer, or its beginning; returns the status."""
    async with http.stream("POST", "/v1/chat/completions", **write_request(model, kind, draw)) as response:
        if kind != "leaves":
            await response.aread()
        return response.status_code


async def send_all(server: ServerProcess, requests: int, seed: int) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Send all requests; (requests answered, bytes) in between, and how often each kind was answered how."""
    draw = random.Random(seed)
    kinds = iter(draw.choices(KINDS, WEIGHTS, k=requests))
    every, done = max(requests // SAMPLES, 1), 0
    samples: list[tuple[int, int]] = []
    outcomes: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=server.address, timeout=120, trust_env=False) as http:

        async def ask_on() -> None:
            nonlocal done
            for kind in kinds:
                outcomes[f"{kind}: {await send(http, server.model, kind, draw)}"] += 1
                done += 1
                if done % every == 0:
                    samples.append((done, server.resident_bytes()))

        await asyncio.gather(*(ask_on() for _ in range(CLIENTS)))
        await check_idle(http)
    return samples, outcomes


async def check_idle(http: httpx.AsyncClient) -> None:
    """Wait until nothing waits or runs. Raises RuntimeError if that does not come in half a minute."""
    for _ in range(300):
        facts = (await http.get("/readyz")).json()
        if not facts["waiting"] and not facts["running"]:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"the server still answers what nobody waits for: {facts}")


def judge(samples: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Growth after the first tenth of the requests, and the slope of the last half."""
    total = samples[-1][0]
    early = max(size for done, size in samples if done <= max(total // 10, samples[0][0]))
    most = max(size for done, size in samples if done >= total // 10)
    late = [(done, size) for done, size in samples if done >= total // 2]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope if len(late) > 1 else 0.0
    growth, per_thousand = most / early - 1, slope * 1000 / 1e6
    return {
        "after_a_tenth_mb": early / 1e6,
        "most_after_mb": most / 1e6,
        "growth": growth,
        "mb_per_1000_requests": per_thousand,
        "goals_met": {"growth": growth <= GOAL_GROWTH, "slope": per_thousand <= GOAL_SLOPE},
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="of kinds, pictures and budgets")
    parser.add_argument("--out", type=Path, help="record file; default: benchmarks/records/serving_memory_MACHINE.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write the record; 1 where an answer was none that its kind of request gets."""
    options = parse(argv)
    facts = machine.facts(torch.device("cpu"))
    caches = [f"--{name}-cache-mb={CACHE_MB}" for name in ("feature", "prompt")]
    with ServerProcess("--device", "cpu", *caches) as server:
        samples, outcomes = asyncio.run(send_all(server, options.requests, options.seed))
    wrong = [o for o in outcomes if o.endswith("200") is (o.partition(":")[0] in KINDS[4:]) or ": 5" in o]
    record = {
        "benchmark": "serving_memory",
        "command": shlex.join(["python", "benchmarks/serving_memory.py", *(sys.argv[1:] if argv is None else argv)]),
        "machine": facts,
        "requests": options.requests,
        "exit_code": server.exit_code,
        "outcomes": dict(sorted(outcomes.items())),
        "samples": samples,
        **judge(samples),
    }
    path = options.out or machine.RECORDS / f"serving_memory_{machine.machine_name(facts)}.json"
    machine.write_record(record, path)
    for name in ("outcomes", "after_a_tenth_mb", "most_after_mb", "growth", "mb_per_1000_requests", "goals_met"):
        print(f"{name}: {record[name]}")
    print(f"written: {path}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
