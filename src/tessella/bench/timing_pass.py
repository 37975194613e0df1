"""How long each setting takes, measured apart from its answers: settings take turns, in an order drawn anew each round.

Whatever else the machine does falls on all of them. Times are those of one prefill of a batch, the encoder apart; for
settings that change the pictures from pixels on. Beside each stands its oracle's time (`oracle.py`).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ..engine.apply import reduce
from ..models.adapter import find_adapter
from .batches import inputs_of, prepare_batch
from .energy import read_joules
from .entries import Entry
from .identity import describe_run
from .ledger import Ledger
from .oracle import Oracle, cache_name, why_not
from .runner import Work
from .task import Asked

BATCHES = (1, 8)
REPEATS = 30
DECODED = 4  # tokens decoded after each prefill
LOOK_AT = 8  # questions looked at for each one that is timed: those timed have prompts of one length

Parts = dict[str, float]  # milliseconds, and joules where a GPU reports them


@dataclass
class Turn:
    """What takes turns, and what it took each time."""

    measure: Callable[[], Parts]
    ms: list[Parts] = field(default_factory=list)

    def take(self) -> None:
        self.ms.append(self.measure())

    def all(self, part: str) -> list[float]:
        return [parts[part] for parts in self.ms if part in parts]


class TimingPass:
    """All settings of some work on one batch of its questions."""

    def __init__(self, work: Work, size: int) -> None:
        self.work, self.size, self.model = work, size, work.model
        self.adapter = find_adapter(work.model)
        self.prepared = prepare_batch(work.model, work.processor, work.task, self._questions(), work.entries)
        self.machine = describe_run()
        self.why_no_oracle = why_not(self.adapter, self.prepared.inputs)
        self.lengths: dict[str, tuple[int, ...]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.turns: dict[str, Turn] = {}

    def measure(self, repeats: int, seed: int = 0, tell: Callable[[int, int], None] | None = None) -> None:
        """Warm up, then take `repeats` rounds. `tell` is told of rounds done, and of how many."""
        for entry in self.work.entries:
            self._look_at(entry)
        for turn in self.turns.values():
            turn.measure()
        order = random.Random(seed)
        for number in range(repeats):
            turns = list(self.turns.values())
            order.shuffle(turns)
            for turn in turns:
                turn.take()
            if tell is not None:
                tell(number + 1, repeats)

    def result(self, entry: Entry) -> dict[str, Any]:
        """What was measured of an entry, as plain values; times in milliseconds a batch."""
        turn = self.turns[entry.setting.key]
        oracle = self.turns.get(_oracle_of(self.lengths.get(entry.setting.key)))
        ratio = None if oracle is None else float(np.median(oracle.all("prefill")) / np.median(turn.all("prefill")))
        return {
            "repeats": len(turn.ms),
            "from_pixels": entry.rewrites,
            **{f"{part}_ms": _spread(turn.all(part)) for part in ("prefill", "choose", "decode")},
            "oracle_ms": None if oracle is None else _spread(oracle.all("prefill")),
            "oracle_ratio": ratio,
            "no_oracle": "it changes the pictures" if entry.rewrites else self.why_no_oracle,
            **self.facts[entry.setting.key],
            "joules": float(np.mean(turn.all("joules"))) if turn.all("joules") else None,  # of a prefill
            "machine": self.machine,
        }

    def _questions(self) -> list[Asked]:
        task, batch = self.work.task, self.work.batches[0]
        asked = task.draw(batch.kind, task.numbers(batch.kind)[: self.size * LOOK_AT])
        lengths = inputs_of(self.model, self.work.processor, task, asked)["attention_mask"].sum(dim=1).tolist()
        common, _ = Counter(lengths).most_common(1)[0]
        alike = [a for a, n in zip(asked, lengths, strict=True) if n == common]
        return alike[: self.size] if len(alike) >= self.size else asked[: self.size]

    def _look_at(self, entry: Entry) -> None:
        """One prefill of an entry, for what is counted and not timed, and its turns."""
        key, device = entry.setting.key, self.model.device
        cuda = device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        with reduce(self.model, entry.pipeline) as run, FlopCounterMode(display=False) as flops:
            self._prefill(entry)
            report = run.report
        assert report.last is not None
        self.facts[key] = {
            "flops": flops.get_total_flops(),
            "cache_bytes": report.cache_bytes,
            "peak_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
        }
        self.turns[key] = Turn(lambda: self._timed(entry))
        if not entry.rewrites and self.why_no_oracle is None:
            lengths = self.lengths[key] = report.last.cache_lengths
            self.turns.setdefault(_oracle_of(lengths), Turn(lambda: self._timed_oracle(lengths)))

    def _prefill(self, entry: Entry) -> Any:
        given = dict(self.prepared.inputs)
        if not entry.rewrites:
            assert self.prepared.encoded is not None
            for modality in self.adapter.modalities.values():
                given.pop(modality.pixels, None)
            given["mm_encoder_outputs"] = dict(self.prepared.encoded)
        with torch.inference_mode():
            return self.model(**given, use_cache=True, logits_to_keep=1)

    def _timed(self, entry: Entry) -> Parts:
        with reduce(self.model, entry.pipeline) as run:
            joules, begin = read_joules(self.model.device), self._now()
            out = self._prefill(entry)
            parts, ms = {"prefill": self._now() - begin}, run.report.ms
            if joules is not None:
                parts["joules"] = (read_joules(self.model.device) or joules) - joules
            return {**parts, "choose": ms["score"] + ms["select"], "decode": self._decode(out)}

    def _decode(self, out: Any) -> float:
        """Milliseconds a token behind a prompt, whatever the tokens are."""
        token, cache = out.logits[:, -1:].argmax(dim=-1), out[cache_name(self.model)]
        begin = self._now()
        with torch.inference_mode():
            for _ in range(DECODED):
                given = {"input_ids": token, cache_name(self.model): cache}
                token = self.model(**given, use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(dim=-1)
        return (self._now() - begin) / DECODED

    def _timed_oracle(self, lengths: Sequence[int]) -> Parts:
        oracle = Oracle(self.model, self.prepared.inputs, self.prepared.encoded or {})
        begin = self._now()
        with torch.inference_mode():
            oracle.prefill(lengths)
        return {"prefill": self._now() - begin}

    def _now(self) -> float:
        """Milliseconds, once the device has done what it was given."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter() * 1000


def time_work(
    work: Work,
    ledger: Ledger,
    sizes: Sequence[int] = BATCHES,
    repeats: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> None:
    """Time every setting of some work at each batch size, into the ledger. By default `REPEATS` times."""
    for size in sizes:
        timing = TimingPass(work, size)
        timing.measure(repeats or REPEATS, tell=tell)
        for entry in work.entries:
            ledger.add_timing(entry.setting.key, size, timing.result(entry))


def _oracle_of(lengths: tuple[int, ...] | None) -> str:
    return f"oracle {lengths}"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95))}
