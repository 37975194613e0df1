"""Hand a run's work out to workers in portions, and write what comes back; nobody else writes this job's records."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence

from ...core.errors import InputError
from ..ledger import Item, Ledger
from ..pace import Pace, Progress
from ..runner import Answers, Work, count, note_on
from ..tasks import Batch
from .crew import MOST_DEATHS, Crew, Portion

FEWEST = 4  # settings in a portion of a batch that is shared out: they share one pass of the encoder

Part = tuple[Batch, Sequence[Item]]


def run_on(crew: Crew, work: Work, ledger: Ledger, tell: Callable[[Progress], None] | None = None) -> tuple[str, ...]:
    """`run_work` on a crew: answer what the ledger does not hold yet. Returns notes.

    What a worker that died had answered stays, and another one answers the rest. Raises InputError where workers die
    over one portion again and again; what was answered is kept.
    """
    ledger.begin(work.settings, crew.facts())
    portions = Portions(work, ledger)
    missing: dict[str, None] = {}
    while portions.open:
        while crew.idle and (portion := portions.take(len(crew.workers))) is not None:
            crew.give(crew.idle[0], portion)
        heard = False
        for news in crew.listen():
            heard = True
            missing.update(dict.fromkeys(news.missing))
            if news.died is not None:
                portions.lose(news.portion, news.died)
            elif news.answers is not None:
                progress = portions.write(news.portion, news.answers)
                if tell is not None:
                    tell(dataclasses.replace(progress, seconds_left=progress.seconds_left / max(len(crew.workers), 1)))
        if not heard or crew.idle:
            portions.look_again()
    return note_on(missing)


class Portions:
    """What is to be answered: not taken yet, with workers, to be answered again, or taken by another job."""

    def __init__(self, work: Work, ledger: Ledger) -> None:
        self._work, self._ledger = work, ledger
        todo = work.todo(ledger)
        finished = work.num_answers - count(todo)
        self._pace = Pace(work.num_answers, finished, [[i.setting for i in items] for _, items in todo])
        self._todo: deque[Part] = deque(todo)
        self._again: deque[Portion] = deque()
        self._out: set[Portion] = set()
        self._theirs: list[Part] = []

    @property
    def open(self) -> bool:
        """Whether anything is left, with workers and other jobs too."""
        return bool(self._todo or self._again or self._out or self._theirs)

    def take(self, workers: int) -> Portion | None:
        """The next portion for a worker: a batch, or where fewer batches than workers are left, its share of one."""
        if self._again:
            portion = self._again.popleft()
            self._out.add(portion)
            return portion
        while self._todo:
            batch, items = self._todo.popleft()
            size = max(FEWEST, -(-len(items) * (len(self._todo) + 1) // max(workers, len(self._todo) + 1)))
            if items[size:]:
                self._todo.appendleft((batch, items[size:]))
            taken = self._ledger.take(items[:size])
            self._set_aside(batch, items[:size], taken)
            if taken:
                portion = Portion(batch, {item.setting: item for item in taken})
                self._out.add(portion)
                return portion
        return None

    def write(self, portion: Portion, answers: Answers) -> Progress:
        """Write answers; a portion without any left is closed."""
        item = answers.item
        self._ledger.add(answers.records, item)
        del portion.left[item.setting]
        if not portion.left:
            self._out.remove(portion)
        self._pace.answered(item.setting, len(item.numbers), answers.seconds)
        return self._pace.progress(self._work.pipeline_of(item), portion.batch.kind)

    def lose(self, portion: Portion, reason: str) -> None:
        """Have what is left of a portion answered again. Raises InputError once too many workers died over it."""
        if not portion.left:
            return
        self._out.remove(portion)
        portion.deaths += 1
        if portion.deaths >= MOST_DEATHS:
            item = next(iter(portion.left.values()))
            raise InputError(
                f"{portion.deaths} workers died over {item.kind} {item.first} under "
                f"{self._work.pipeline_of(item)!r}; what was answered is kept. The last one: {reason}"
            )
        self._again.append(portion)

    def look_again(self) -> None:
        """Ask the ledger again for what other jobs had taken."""
        self._todo.extend(self._theirs)
        self._theirs = []

    def _set_aside(self, batch: Batch, items: Sequence[Item], taken: Sequence[Item]) -> None:
        """Remember what another job is answering, and count what it has answered."""
        mine = {item.setting for item in taken}
        theirs = []
        for item in items:
            if item.setting not in mine:
                if self._ledger.lacks(item):
                    theirs.append(item)
                else:
                    self._pace.answered_elsewhere(item.setting, len(item.numbers))
        if theirs:
            self._theirs.append((batch, theirs))
