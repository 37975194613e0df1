"""Every setting answers the same questions; batches that nobody has answered are taken from the ledger in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..app.prompting import write_prompt
from ..core.errors import InputError
from . import identity, tasks
from .batches import answer_batch, by_shape, inputs_of, prepare_batch
from .entries import Entry, check_budgets, read_choices, read_keeps, resolve
from .ledger import Item, Ledger
from .pace import Pace, Progress
from .records import Record, Setting
from .task import Task

LISTED = 20  # questions without a picture that a note names
LOOK_AGAIN = 0.5  # seconds until a job looks whether others have finished what they took


@dataclass(frozen=True)
class Request:
    """What to measure: texts with commas as on the command line, None for all; `limit` questions of each type."""

    methods: str | None = None
    keep: str | None = None
    types: str | None = None
    limit: int = 200
    stage: str | None = None
    seed: int = 0
    batch: int = 50
    only: bool = False
    task: str = "mini"
    data: str | None = None  # a local file or folder of a public set
    shard: str | None = None  # 'i/n'
    share: bool = True  # encode each picture once for all settings that allow it

    def check(self) -> Task:
        """Raise the error of core that this request deserves, as far as it shows without a model; the task."""
        read_choices(self.methods, read_keeps(self.keep), self.stage, self.only)
        tasks.batch_size(self.limit, self.batch)
        tasks.read_shard(self.shard)
        task = tasks.find_task(self.task, self.data, self.seed)
        tasks.read_kinds(task, self.types)
        return task


@dataclass(frozen=True)
class Work:
    """A request resolved for one model: entries in the order of the tables, and the batches that they answer."""

    model: Any
    processor: Any
    task: Task
    entries: tuple[Entry, ...]
    batches: tuple[tasks.Batch, ...]
    notes: tuple[str, ...]
    share: bool = True

    @property
    def settings(self) -> list[Setting]:
        return [entry.setting for entry in self.entries]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(batch.kind for batch in self.batches))

    @property
    def numbers(self) -> frozenset[int]:
        return frozenset(n for batch in self.batches for n in batch.wanted)

    def todo(self, ledger: Ledger) -> list[tuple[tasks.Batch, list[Item]]]:
        """The batches that some settings have not answered, with what is missing."""
        done = ledger.done(self.settings)
        out = []
        for batch in self.batches:
            lacking = {
                s.key: tuple(n for n in batch.wanted if (s.key, batch.kind, n) not in done) for s in self.settings
            }
            items = [Item(key, batch.kind, batch.numbers[0], numbers) for key, numbers in lacking.items() if numbers]
            if items:
                out.append((batch, items))
        return out

    def pipeline_of(self, item: Item) -> str:
        return next(s.pipeline for s in self.settings if s.key == item.setting)

    @property
    def num_answers(self) -> int:
        return len(self.entries) * sum(len(batch.wanted) for batch in self.batches)


@dataclass(frozen=True)
class Answers:
    """What one setting answered of one batch, and the seconds that this took."""

    item: Item
    records: tuple[Record, ...]
    seconds: float


def plan_work(model: Any, processor: Any, name: str, request: Request) -> Work:
    """Resolve a request for a loaded model. `name` is what the user calls the model.

    Raises an error of core for whatever cannot be done as asked, before anything runs.
    """
    task = request.check()
    size = tasks.batch_size(request.limit, request.batch)
    kinds = tasks.read_kinds(task, request.types)
    choices = read_choices(request.methods, read_keeps(request.keep), request.stage, request.only)
    details = {
        **task.facts(),
        "prompt": write_prompt(processor, "{question}", 1),
        "batch": size,
        **identity.identify_model(model, name),
        **identity.identify_processor(processor),
        **identity.identify_execution(model),
        "versions": identity.versions(),
    }
    entries, notes = resolve(model, choices, details)
    batches = list(tasks.batches(task, kinds, request.limit, size))
    for first in (asked for b in batches for asked in task.draw(b.kind, b.numbers[:1])):
        check_budgets(model, entries, inputs_of(model, processor, task, [first]))
        break
    else:
        raise InputError(f"no question of {task.id} has its picture.")
    number, of = tasks.read_shard(request.shard)
    return Work(model, processor, task, tuple(entries), tuple(batches[number::of]), tuple(notes), request.share)


def run_work(work: Work, ledger: Ledger, tell: Callable[[Progress], None] | None = None) -> tuple[str, ...]:
    """Answer what the ledger does not hold yet; a batch of a setting is written as soon as it is answered.

    Other jobs on this ledger share the work; returns when nothing is left, of theirs neither. Returns notes: which
    questions have no picture.
    """
    ledger.begin(work.settings, identity.describe_run())
    todo = work.todo(ledger)
    pace = Pace(work.num_answers, work.num_answers - count(todo), [[i.setting for i in items] for _, items in todo])
    missing: dict[str, None] = {}
    while todo:
        left: list[tuple[tasks.Batch, list[Item]]] = []
        for batch, items in todo:
            taken = ledger.take(items)
            for answers in answer(work, batch, taken, missing):
                ledger.add(answers.records, answers.item)
                pace.answered(answers.item.setting, len(answers.item.numbers), answers.seconds)
                if tell is not None:
                    tell(pace.progress(work.pipeline_of(answers.item), batch.kind))
            mine = {(i.setting, i.first) for i in taken}
            others = [i for i in items if (i.setting, i.first) not in mine]
            theirs = [i for i in others if ledger.lacks(i)]  # another job is answering them
            for item in others:
                if item not in theirs:
                    pace.answered_elsewhere(item.setting, len(item.numbers))
            if theirs:
                left.append((batch, theirs))
        if len(left) == len(todo):
            time.sleep(LOOK_AGAIN)
        todo = left
    return note_on(missing)


def answer(
    work: Work, batch: tasks.Batch, items: Sequence[Item], missing: dict[str, None] | None = None
) -> Iterator[Answers]:
    """Answer a batch under some settings, one after the other; questions without a picture are named in `missing`."""
    if not items:
        return
    entries = {e.setting.key: e for e in work.entries}
    wanted = [entries[item.setting] for item in items]
    start = time.perf_counter()
    asked = work.task.draw(batch.kind, batch.numbers)
    if missing is not None:
        there = {a.number for a in asked}
        missing.update(dict.fromkeys(f"{batch.kind} {n}" for n in batch.wanted if n not in there))
    prepared = [
        prepare_batch(work.model, work.processor, work.task, group, wanted, work.share) for group in by_shape(asked)
    ]
    for item, entry in zip(items, wanted, strict=True):
        records = [r for p in prepared for r in answer_batch(work.model, work.processor, work.task, p, entry)]
        records.sort(key=lambda r: r.number)
        now = time.perf_counter()
        yield Answers(item, tuple(r for r in records if r.number in item.numbers), now - start)
        start = time.perf_counter()


def count(todo: Sequence[tuple[tasks.Batch, Sequence[Item]]]) -> int:
    """Answers that are to come."""
    return sum(len(item.numbers) for _, items in todo for item in items)


def note_on(missing: Collection[str]) -> tuple[str, ...]:
    """A note that counts and lists questions without a picture."""
    if not missing:
        return ()
    named = sorted(missing)
    more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
    return (f"{len(named)} questions have no picture and were left out: {', '.join(named[:LISTED])}{more}",)
