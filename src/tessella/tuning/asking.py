"""Ask a model questions under many pipelines: pictures are encoded once, and no answer is asked for twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..app.prompting import write_prompt
from ..bench.batches import Prepared, answer_batch, by_shape, inputs_of, prepare_batch
from ..bench.entries import Choice, Entry, resolve
from ..bench.identity import describe_run, identify_execution, identify_model, identify_processor, versions
from ..bench.ledger import Ledger, read_ledger
from ..bench.records import Record
from ..bench.task import Asked
from ..core.errors import TessellaError
from ..core.pipeline import Part, Pipeline
from .blocks import HALF, Block
from .questions import OwnQuestions

Known = dict[str, dict[tuple[str, int], Record]]  # by setting, then by question


@dataclass
class Asking:
    """A model, its questions, and the ledger that every answer is written to as soon as it is there."""

    model: Any
    processor: Any
    task: OwnQuestions
    ledger: Ledger
    details: dict[str, Any]
    size: int  # questions answered together
    known: Known = field(default_factory=dict)

    def entry(self, pipeline: Pipeline) -> Entry:
        """A pipeline with its setting. Raises UnsupportedError where the model cannot carry it."""
        entries, _ = resolve(self.model, [Choice(pipeline, str(pipeline), None, asked=True)], self.details)
        self.ledger.add_settings([entries[0].setting])
        return entries[0]

    def groups(self, numbers: Sequence[int]) -> list[list[Asked]]:
        """Questions in the order given, divided into what is answered together."""
        chunks = (numbers[start : start + self.size] for start in range(0, len(numbers), self.size))
        return [group for chunk in chunks for group in by_shape(self.task.ask(chunk))]

    def inputs(self, asked: Sequence[Asked]) -> dict[str, Any]:
        """The model's inputs for questions that are read together."""
        return inputs_of(self.model, self.processor, self.task, asked)

    def prepare(self, asked: Sequence[Asked], entries: Sequence[Entry]) -> Prepared:
        """A group's inputs, with its pictures encoded for all that the entries read of them."""
        return prepare_batch(self.model, self.processor, self.task, asked, entries)

    def answers(self, entry: Entry, asked: Sequence[Asked], prepared: Prepared | None = None) -> list[Record]:
        """One record for each question of a group, in its order: of the ledger, or answered now."""
        known = self.known.setdefault(entry.setting.key, {})
        if not all((a.kind, a.number) in known for a in asked):
            if prepared is None:
                prepared = self.prepare(asked, [entry])
            sharing = frozenset() if entry.rewrites else frozenset([entry.setting.key])
            shared = dataclasses.replace(prepared, sharing=sharing)
            records = answer_batch(self.model, self.processor, self.task, shared, entry)
            self.ledger.add(records)
            known.update({(r.kind, r.number): r for r in records})
        return [known[a.kind, a.number] for a in asked]

    def building(self, blocks: Sequence[Block]) -> list[Entry]:
        """Entries that read of the encoder all that a pipeline of these blocks can, and change no picture."""
        methods = [m for b in blocks for m in (b.method, *(m for inner in b.holds.values() for m in inner if m))]
        out = {}
        for method in methods:
            try:
                entry = self.entry(Pipeline((Part(method, HALF),)))
            except TessellaError:
                continue  # it cannot be a step by itself; whoever holds it says what it reads
            if not entry.rewrites:
                out[entry.setting.key] = entry
        return list(out.values())


def start_asking(model: Any, processor: Any, name: str, task: OwnQuestions, ledger: Ledger, size: int) -> Asking:
    """Begin, or go on with, a ledger. `name` is what the user calls the model."""
    details = {
        **task.facts(),
        "prompt": write_prompt(processor, "{question}", 1),
        "batch": size,
        **identify_model(model, name),
        **identify_processor(processor),
        **identify_execution(model),
        "versions": versions(),
    }
    ledger.begin([], describe_run())
    known: Known = {}
    for setting, record in read_ledger(ledger.path):
        known.setdefault(setting.key, {})[record.kind, record.number] = record
    return Asking(model, processor, task, ledger, details, size, known)
