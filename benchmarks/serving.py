"""Requests a second, time to the first token and time for each after it, of a real server over HTTP.

    python benchmarks/serving.py            # the embedded model and the 0.5 B shape; about an hour on two cores
    python benchmarks/serving.py --quick    # few requests to tiny models, to try the script itself

A server process is asked by 1, 8 and 32 clients at once, each sending its next request when the last is answered: for
all visual tokens and for 1/9 of them by turns. A prompt has one picture and 64 text tokens, an answer 32 tokens: the
models name no token that would end it (`endless.py`). Every request has a picture of its own, so that no cache helps;
a second table is of one picture that all requests share, where both of the server's caches do.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import machine
import torch
from endless import write_mini, write_shape
from server_process import ServerProcess
from serving_load import Answered, Phase, draw_picture, send_all, write_body
from shapes import SMALL, TINY
from transformers import AutoProcessor

from tessella.app.conversations import write_turns

GOAL = 1.5  # requests a second with 1/9 of the visual tokens, over those with all, of the 0.5 B shape at 32 clients
FULL = "full"
WORDS = {"mini": "what color is the star ?", "small": "w6 w7 w8 w9 w10"}


@dataclass(frozen=True)
class Plan:
    """What is measured of each model."""

    clients: tuple[int, ...]
    rounds: int  # in which settings take turns
    requests: int  # of each client and round
    text_tokens: int
    new_tokens: int


def quantile(values: Sequence[float], share: float) -> float:
    """Of all values the one below which so large a share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def summarise(phases: Sequence[Phase]) -> dict[str, float]:
    """Rate over all phases of one setting, and its times in milliseconds."""
    answers: list[Answered] = [answer for phase in phases for answer in phase.answers]
    seconds = sum(phase.seconds for phase in phases)
    out = {
        "requests": len(answers),
        "visual_tokens_kept": statistics.mean(a.visual_tokens_kept for a in answers),
        "requests_per_s": len(answers) / seconds,
        "tokens_per_s": sum(a.tokens for a in answers) / seconds,
    }
    for name in ("first_s", "token_s"):
        values = [getattr(a, name) * 1000 for a in answers]
        for share in (0.5, 0.95):
            out[f"{name[:-2]}_ms_p{share * 100:.0f}"] = quantile(values, share)
    return out


def write_text(processor: Any, words: str, tokens: int) -> str:
    """Words, over and over, with which a prompt has so many tokens beside its picture's."""
    for count in range(tokens + 1):
        text = " ".join(islice(cycle(words.split()), count))
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        written = processor.tokenizer(write_turns(processor, [turn]), add_special_tokens=False)["input_ids"]
        if len(written) - 1 == tokens:
            return text
    raise ValueError(f"no text of {words!r} makes {tokens} tokens")


class Bench:
    """One model on a server of its own."""

    def __init__(self, folder: Path, side: int, plan: Plan, options: argparse.Namespace) -> None:
        self._folder, self._side, self._plan, self._options = folder, side, plan, options
        self._text = write_text(AutoProcessor.from_pretrained(folder), WORDS[folder.name], plan.text_tokens)
        self._reductions = {FULL: {"method": "none"}, options.keep: {"method": options.method, "keep": options.keep}}
        self._seed = 0

    def measure(self) -> list[dict[str, Any]]:
        """A row for each number of clients, with pictures of their own or a shared one."""
        options = self._options
        rows: list[dict[str, Any]] = []
        with ServerProcess(
            "--model", str(self._folder), "--dtype", "bfloat16", "--device", options.device,
            "--max-batch", str(options.max_batch), "--timeout", "3600",
        ) as server:  # fmt: skip
            for shared in (False, True):
                for clients in self._plan.clients:
                    rows.append(self._row(server, clients, shared))
                    print(f"{self._folder.name}: {line_of(rows[-1])}", file=sys.stderr, flush=True)
        return rows

    def _row(self, server: ServerProcess, clients: int, shared: bool) -> dict[str, Any]:
        phases: dict[str, list[Phase]] = {name: [] for name in self._reductions}
        for reduction in self._reductions.values():  # untimed
            asyncio.run(
                send_all(server.address, list(self._bodies(server.model, min(clients, 2), shared, reduction)), clients)
            )
        for number in range(self._plan.rounds):
            turn = list(self._reductions.items())
            for name, reduction in turn if number % 2 else reversed(turn):
                bodies = list(self._bodies(server.model, clients * self._plan.requests, shared, reduction))
                phases[name].append(asyncio.run(send_all(server.address, bodies, clients)))
        for phase in (p for of in phases.values() for p in of):
            if any(answer.tokens != self._plan.new_tokens for answer in phase.answers):
                raise RuntimeError(f"an answer does not have the {self._plan.new_tokens} tokens that were asked for")
        settings = {name: summarise(of) for name, of in phases.items()}
        full, short = settings.values()
        return {
            "clients": clients,
            "pictures": "one" if shared else "new",
            "settings": settings,
            "times": short["requests_per_s"] / full["requests_per_s"],
            "seconds": {name: [p.seconds for p in of] for name, of in phases.items()},
        }

    def _bodies(self, model: str, count: int, shared: bool, reduction: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for _ in range(count):
            self._seed += not shared
            picture = draw_picture(0 if shared else self._seed, self._side)
            yield write_body(model, picture, self._text, self._plan.new_tokens, reduction)


def line_of(row: dict[str, Any]) -> str:
    """A row in a line: requests a second of both settings."""
    rates = ", ".join(f"{name} {s['requests_per_s']:.2f}/s" for name, s in row["settings"].items())
    return f"{row['clients']} clients, {row['pictures']} picture(s): {rates}, {row['times']:.2f} x"


def table(model: dict[str, Any]) -> str:
    """All rows of a model, a line for each setting."""
    heads = ("requests/s", "tokens/s", "first p50", "first p95", "token p50", "token p95", "times")
    lines = [f"{model['name']}, at most {model['max_batch']} answers in a batch; times in ms"]
    lines.append(f"{'pictures, clients, tokens kept':<34}" + "".join(f"{h:>12}" for h in heads))
    for row in model["rows"]:
        for name, s in row["settings"].items():
            names = ("first_ms_p50", "first_ms_p95", "token_ms_p50", "token_ms_p95")
            cells = [s["requests_per_s"], s["tokens_per_s"], *(s[n] for n in names)]
            label = f"{row['pictures']}, {row['clients']}, {name} ({s['visual_tokens_kept']:.0f})"
            times = "" if name == FULL else f"{row['times']:.2f}"
            lines.append(f"{label:<34}" + "".join(f"{c:>12.2f}" for c in cells) + f"{times:>12}")
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", choices=("mini", "small"), default=["mini", "small"])
    parser.add_argument("--method", default="hiprune")
    parser.add_argument("--keep", default="1/9")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3, help="in which both settings take turns")
    parser.add_argument("--requests", type=int, default=2, help="of each client in a round")
    parser.add_argument("--max-batch", type=int, default=32, help="answers that the server writes side by side")
    parser.add_argument("--quick", action="store_true", help="few requests to tiny models")
    parser.add_argument("--out", type=Path, help="record file; default: benchmarks/records/serving_MACHINE.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.quick:
        plan = Plan((1, 2), 1, 1, 64, 4)
    else:
        plan = Plan(tuple(options.clients), options.rounds, options.requests, 64, 32)
    facts = machine.facts(torch.device(options.device))
    models = []
    with tempfile.TemporaryDirectory() as place:
        for name in options.models:
            shape = TINY if options.quick else SMALL
            folder = Path(place) / name
            write_mini(folder) if name == "mini" else write_shape(folder, shape)
            rows = Bench(folder, 112 if name == "mini" else shape.image_size, plan, options).measure()
            described = "embedded model" if name == "mini" else shape.name
            models.append({"name": described, "max_batch": options.max_batch, "dtype": "bfloat16", "rows": rows})
    record = {
        "benchmark": "serving",
        "command": shlex.join(["python", "benchmarks/serving.py", *(sys.argv[1:] if argv is None else argv)]),
        "machine": facts,
        "plan": asdict(plan),
        "method": options.method,
        "keep": options.keep,
        "models": models,
        "goal": goal_of(models),
    }
    path = options.out or machine.RECORDS / f"serving_{machine.machine_name(facts)}.json"
    machine.write_record(record, path)
    print("\n\n".join(map(table, models)))
    if record["goal"] is not None:
        print(f"\n{record['goal']['times']:.2f} x, goal {GOAL} x: {'met' if record['goal']['met'] else 'missed'}")
    print(f"written: {path}")
    return 0


def goal_of(models: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Whether the 0.5 B shape reaches the goal at 32 clients; None where that was not measured."""
    for model in models:
        for row in model["rows"]:
            if (model["name"], row["clients"], row["pictures"]) == (SMALL.name, 32, "new"):
                return {"times": row["times"], "goal": GOAL, "met": row["times"] >= GOAL}
    return None


if __name__ == "__main__":
    raise SystemExit(main())
