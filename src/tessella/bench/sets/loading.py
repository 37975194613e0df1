"""What all public sets share: rows become questions with a number in their kind, a prompt and a truth."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..task import Answered, Asked, Part, Task
from .local import Source, open_picture, read_rows

Row = Mapping[str, Any]
SHORT_ANSWER = "Answer the question using a single word or phrase."  # LLaVA-1.5's instructions
LETTER = "Answer with the option's letter from the given choices directly."
ALL = "all"  # the kind of a set that has one
_BATCH = 1000  # rows read at once when questions are numbered


@dataclass(frozen=True)
class HubSet(Task):
    """A public set, read from the hub or from a copy at `data` (a folder like the repository, or a file of its rows).

    A set freezes what stands below and overrides `prompt`, `truth` and `score`, where needed also `kind`, `order`,
    `look` and `metrics`. Its options are further fields, with None as the default of paths only. `revision` is the
    commit of the repository, "main" where none could be frozen. The organisation that holds most of them was called
    lmms-lab before; the hub forwards the old names.

    Raises InputError, naming the set, when its rows are first needed and cannot be had.
    """

    data: str | Path | None = None

    version: ClassVar[str] = "1"
    metric: ClassVar[str] = "accuracy"
    max_new_tokens: ClassVar[int] = 16
    repository: ClassVar[str]
    revision: ClassVar[str]
    config: ClassVar[str | None] = None
    columns: ClassVar[tuple[str, ...]]  # what prompt, truth, kind and order read
    pictures: ClassVar[tuple[str, ...]] = ("image",)  # columns of what is shown, in the prompt's order
    kind_column: ClassVar[str | None] = None
    first_kinds: ClassVar[tuple[str, ...]] = ()  # in the tables in front of the others
    instruction: ClassVar[str] = SHORT_ANSWER

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.id = cls.__module__.rpartition(".")[2]

    def kind(self, row: Row) -> str:
        """The type of a row's question."""
        return ALL if self.kind_column is None else str(row[self.kind_column])

    def order(self, row: Row) -> Any:
        """What questions of a kind are sorted by; ties stay as they stand in the set."""
        return 0

    def prompt(self, row: Row) -> str:
        """The question with its instruction."""
        return f"{row['question'].strip()}\n{self.instruction}"

    def truth(self, row: Row) -> str:
        """What answers are scored against."""
        return str(row["answer"])

    def look(self, row: Row) -> tuple[Part, ...] | None:
        """What is shown before the question; None where a part of it is missing or broken."""
        seen = [open_picture(row[name], self.folder) for name in self.pictures]
        return tuple(picture for picture in seen if picture is not None) if None not in seen else None

    @property
    def kinds(self) -> tuple[str, ...]:
        found = self._numbered[0]
        return (*(k for k in self.first_kinds if k in found), *sorted(set(found) - set(self.first_kinds)))

    def numbers(self, kind: str) -> range:
        return range(len(self._numbered[0][kind]))

    def draw(self, kind: str, numbers: Sequence[int]) -> list[Asked]:
        asked = []
        for number in numbers:
            row = self.rows[self._numbered[0][kind][number]]
            seen = self.look(row)
            if seen is not None:
                asked.append(Asked(kind, number, (*seen, self.prompt(row)), self.truth(row)))
        return asked

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        """The mean over all questions, as public sets are reported, and over each kind where there are several."""
        kinds: dict[str, list[float]] = {}
        for a in answers:
            kinds.setdefault(a.kind, []).append(a.score)
        out = {self.metric: float(np.mean([a.score for a in answers]))} if answers else {}
        if len(kinds) > 1:
            out |= {f"{self.metric}, {kind}": float(np.mean(scores)) for kind, scores in kinds.items()}
        return out

    def __str__(self) -> str:
        """The name with the options that are not as by default, as `load_set` reads it, but for paths to files."""
        options = [(f.name, f.default, getattr(self, f.name)) for f in _options_of(self)]
        told = [f"{name}={mine!r}" for name, default, mine in options if default not in (None, mine)]
        return f"{self.id}({', '.join(told)})" if told else self.id

    def facts(self) -> dict[str, Any]:
        """Of the data: where it is from, and a digest of all that is read but the pictures; and all options."""
        options = {f.name: getattr(self, f.name) for f in _options_of(self)}
        return {
            **super().facts(),
            "task": f"{self} {self.version}",
            "data": str(self.source) if self.data is None else "a copy",
            "rows": self._numbered[1],
            **({"options": options} if options else {}),
        }

    @property
    def source(self) -> Source:
        return Source(self.repository, self.revision, self.config, self.split)

    @property
    def folder(self) -> Path | None:
        """The folder to which paths in the rows are relative."""
        if self.data is None:
            return None
        place = Path(self.data)
        return place if place.is_dir() else place.parent

    @cached_property
    def rows(self) -> Any:
        """The set as a `datasets.Dataset`; its pictures are not decoded."""
        return read_rows(self.title, self.source, self.data, (*self.columns, *self.pictures))

    @cached_property
    def _numbered(self) -> tuple[dict[str, list[int]], str]:
        """The rows of each kind in the order of their numbers, and a digest of all rows without pictures."""
        found: dict[str, list[tuple[Any, int]]] = {}
        digest, index = hashlib.sha256(), 0
        for batch in self.rows.select_columns(list(self.columns)).iter(_BATCH):
            for values in zip(*batch.values(), strict=True):
                row = dict(zip(batch, values, strict=True))
                digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
                found.setdefault(self.kind(row), []).append((self.order(row), index))
                index += 1
        return {kind: [i for _, i in sorted(members)] for kind, members in found.items()}, digest.hexdigest()[:16]


def _options_of(task: HubSet) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(task) if field.name != "data"]
