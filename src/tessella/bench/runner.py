"""Every setting answers the same questions, batch by batch; pictures are prepared and encoded once for all settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..app.prompting import prepare, write_prompt
from ..core.errors import UnsupportedError
from ..engine.apply import reduce
from ..engine.encoder import encode_once
from ..engine.run import Run
from ..engine.timing import Stopwatch
from ..mini.questions import Sample
from ..models.adapter import find_adapter
from ..models.placing import layout_of
from . import identity, tasks
from .entries import Entry, check_budgets, read_choices, read_keeps, resolve
from .ledger import PARTS, Ledger
from .pace import Pace, Progress
from .records import Record, Setting


@dataclass(frozen=True)
class Request:
    """What to measure: texts with commas as on the command line, None for all; `limit` samples of each type."""

    methods: str | None = None
    keep: str | None = None
    types: str | None = None
    limit: int = 200
    stage: str | None = None
    seed: int = 0
    batch: int = 50
    only: bool = False

    def check(self) -> None:
        """Raise the error of core that this request deserves, as far as it shows without a model."""
        read_choices(self.methods, read_keeps(self.keep), self.stage, self.only)
        tasks.read_kinds(self.types)
        tasks.first_seed(self.seed)
        tasks.batch_size(self.limit, self.batch)


@dataclass(frozen=True)
class Work:
    """A request resolved for one model: entries in the order of the tables, and the batches that they answer."""

    model: Any
    processor: Any
    entries: tuple[Entry, ...]
    batches: tuple[tasks.Batch, ...]
    notes: tuple[str, ...]

    @property
    def settings(self) -> list[Setting]:
        return [entry.setting for entry in self.entries]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(batch.kind for batch in self.batches))

    @property
    def seeds(self) -> range:
        return range(self.batches[0].wanted.start, self.batches[-1].wanted.stop)

    @property
    def num_answers(self) -> int:
        return len(self.entries) * sum(len(batch.wanted) for batch in self.batches)


@dataclass
class Prepared:
    """A batch's inputs, and one pass of the encoder over its pictures for all entries that can share it."""

    batch: tasks.Batch
    samples: list[Sample]
    inputs: dict[str, Any]
    num_visual: tuple[int, ...]
    encoded: dict[str, Any] | None = None
    encode_ms: float = 0.0
    sharing: frozenset[str] = field(default_factory=frozenset)


def plan_work(model: Any, processor: Any, name: str, request: Request) -> Work:
    """Resolve a request for a loaded model. `name` is what the user calls the model.

    Raises an error of core for whatever cannot be done as asked, before anything runs.
    """
    size = tasks.batch_size(request.limit, request.batch)
    kinds = tasks.read_kinds(request.types)
    choices = read_choices(request.methods, read_keeps(request.keep), request.stage, request.only)
    details = {
        "task": f"mini world {tasks.TASK_VERSION}",
        "pictures": tasks.pictures_digest(),
        "split": tasks.SPLIT,
        "prompt": write_prompt(processor, "{question}", 1),
        "decoding": f"greedy, at most {tasks.MAX_NEW_TOKENS} new tokens",
        "batch": size,
        **identity.identify_model(model, name),
        **identity.identify_processor(processor),
        **identity.identify_execution(model),
        "versions": identity.versions(),
    }
    entries, notes = resolve(model, choices, details)
    batches = tuple(tasks.batches(kinds, tasks.first_seed(request.seed), request.limit, size))
    first = tasks.Batch(batches[0].kind, batches[0].seeds[:1], batches[0].wanted[:1])
    check_budgets(model, entries, _inputs_of(model, processor, first.draw()))
    return Work(model, processor, tuple(entries), batches, tuple(notes))


def run_work(work: Work, ledger: Ledger, tell: Callable[[Progress], None] | None = None) -> None:
    """Answer what the ledger does not hold yet; a batch of a setting is written as soon as it is answered."""
    ledger.begin(work.settings, identity.describe_run())
    done = ledger.done(work.settings)
    todo = [(batch, [e for e in work.entries if _missing(e, batch, done)]) for batch in work.batches]
    finished = sum((e.setting.key, b.kind, s) in done for e in work.entries for b in work.batches for s in b.wanted)
    pace = Pace(work.num_answers, finished, [[e.setting.key for e in entries] for _, entries in todo])
    for batch, entries in todo:
        if not entries:
            continue
        start = time.perf_counter()
        prepared = prepare_batch(work, batch, entries)
        pace.prepared(time.perf_counter() - start)
        for entry in entries:
            start = time.perf_counter()
            missing = set(_missing(entry, batch, done))
            ledger.add([r for r in answer_batch(work, prepared, entry) if r.seed in missing])
            pace.answered(entry.setting.key, len(missing), time.perf_counter() - start)
            if tell is not None:
                tell(pace.progress(entry.setting.pipeline, batch.kind))


def prepare_batch(work: Work, batch: tasks.Batch, entries: Sequence[Entry]) -> Prepared:
    """Draw a batch, make its inputs, and encode its pictures once for the entries that do not rewrite them."""
    samples = batch.draw()
    inputs = _inputs_of(work.model, work.processor, samples)
    layout = layout_of(find_adapter(work.model), inputs)
    assert layout is not None
    prepared = Prepared(batch, samples, inputs, layout.num_tokens)
    sharing = [entry for entry in entries if not entry.rewrites]
    if sharing:
        stopwatch = Stopwatch()
        with torch.inference_mode():
            prepared.encoded = encode_once(work.model, inputs, [e.pipeline for e in sharing], stopwatch)
        prepared.encode_ms = stopwatch.milliseconds()["encode"]
        prepared.sharing = frozenset(e.setting.key for e in sharing)
    return prepared


def answer_batch(work: Work, prepared: Prepared, entry: Entry) -> list[Record]:
    """One record for each sample of a batch under one setting."""
    given = dict(prepared.inputs)
    shares = entry.setting.key in prepared.sharing
    if shares:
        assert prepared.encoded is not None
        del given["pixel_values"]
        given["mm_encoder_outputs"] = dict(prepared.encoded)
    with reduce(work.model, entry.pipeline) as run, torch.inference_mode():
        out = work.model.generate(**given, max_new_tokens=tasks.MAX_NEW_TOKENS, do_sample=False, num_beams=1)
    new = out[:, prepared.inputs["input_ids"].shape[1] :]
    answers = work.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return _records(prepared, entry.setting, [a.strip() for a in answers], run, prepared.encode_ms if shares else None)


def _records(
    prepared: Prepared, setting: Setting, answers: Sequence[str], run: Run, encode_ms: float | None
) -> list[Record]:
    report = run.report
    last, size = report.last, len(answers)
    if last is None:
        raise UnsupportedError(f"'{setting.pipeline}' read no prompt with pictures, so there is nothing to measure.")
    ms = {part: report.ms[part] / size for part in PARTS}
    if encode_ms is not None:
        ms["encode"] = encode_ms / size
    out = []
    for row, (seed, drawn) in enumerate(zip(prepared.batch.seeds, prepared.samples, strict=True)):
        there, read = prepared.num_visual[row], sum(last.tokens_in[row])  # a rewritten prompt may hold fewer
        out.append(
            Record(
                setting=setting.key,
                kind=drawn.kind,
                seed=seed,
                answer=answers[row],
                truth=drawn.answer,
                correct=tasks.is_correct(answers[row], drawn.answer),
                tokens_in=there,
                tokens_kept=sum(last.tokens_kept[row]),
                mean_keep_ratio=last.mean_keep_ratios[row] * read / there,
                cache_bytes=report.cache_bytes // size,
                ms=ms,
            )
        )
    return out


def _inputs_of(model: Any, processor: Any, samples: Sequence[Sample]) -> dict[str, Any]:
    images, questions = [[s.image] for s in samples], [s.question for s in samples]
    return dict(prepare(model, processor, images, questions, tasks.MAX_NEW_TOKENS))


def _missing(entry: Entry, batch: tasks.Batch, done: set[tuple[str, str, int]]) -> list[int]:
    return [seed for seed in batch.wanted if (entry.setting.key, batch.kind, seed) not in done]
