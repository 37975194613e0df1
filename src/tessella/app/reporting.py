"""The whole job of `tessella report`: check, read the ledger, lint it, write the page with pictures of kept tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..bench.identity import identify_model
from ..bench.ledger import read_ledger, read_runs, read_timings
from ..bench.report.boards import Board, read_boards
from ..bench.report.commands import task_of
from ..bench.report.gallery import Disagreement, Exhibit, Gallery, find_disagreements
from ..bench.report.page import report_page
from ..bench.summary import RIGHT, Measured
from ..bench.task import Task
from ..bench.tasks import find_task
from ..core.errors import InputError, TessellaError
from ..pictures.figure import reduction_figure
from ..pictures.saving import check_target, save_bytes
from .answering import ask
from .source import Source

NUM_EXHIBITS = 8
SIDE = 280  # pixels of the longer side of a drawn picture
SAME_MODEL = ("weights", "revision")  # details by which a model is that of a board


@dataclass(frozen=True)
class Report:
    """What a ledger says, board by board, and the gallery of each where a page was written."""

    ledger: str
    boards: tuple[Board, ...]
    galleries: tuple[Gallery, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        left_out = [gallery.left_out for gallery in self.galleries if gallery.left_out]
        return {"ledger": self.ledger, "boards": [board.to_dict() for board in self.boards], "left_out": left_out}


def run_report(
    ledger: str | Path,
    source: Source,
    html: str | Path | None = None,
    gallery: int = NUM_EXHIBITS,
    data: str | None = None,
) -> Report:
    """Read a ledger and, with `html`, write its page; the model is loaded for the page's gallery alone.

    `gallery` is the number of questions shown for each board; `data` is where the pictures of a public set lie. Raises
    InputError for a ledger that cannot be used, a page that cannot be written, and as `tessella.load` does.
    """
    if gallery < 0:
        raise InputError(f"gallery must be at least 0 questions; got {gallery}.")
    page = None if html is None else check_target(html, (".html", ".htm"))
    boards = tuple(read_boards(read_ledger(ledger), read_timings(ledger)))
    if page is None:
        return Report(str(ledger), boards, ())
    galleries = make_galleries(boards, source, gallery, data)
    text = report_page(f"Bench: {Path(ledger).name}", boards, galleries, read_runs(ledger))
    save_bytes(text.encode("utf-8"), page)
    return Report(str(ledger), boards, galleries)


def make_galleries(boards: Sequence[Board], source: Source, number: int, data: str | None) -> tuple[Gallery, ...]:
    """A gallery for each board, or the reason why it has none."""
    if not number:
        return tuple(Gallery(left_out="No pictures were asked for.") for _ in boards)
    found = [find_disagreements(board, number) for board in boards]
    model, processor = source.load() if any(found) else (None, None)
    out = []
    for board, disagreements in zip(boards, found, strict=True):
        try:
            if not disagreements:
                raise InputError("there is no question on which two methods at one keep disagree.")
            _check_model(board, model, source.name)
            task = _find_task(board, data)
            shown = (_show(model, processor, task, d) for d in disagreements)
            exhibits = tuple(exhibit for exhibit in shown if exhibit is not None)
            if not exhibits:
                raise InputError(
                    "only questions behind their pictures are drawn, no clips and no text between pictures."
                )
            out.append(Gallery(exhibits))
        except TessellaError as error:
            out.append(Gallery(left_out=f"No pictures: {error}"))
    return tuple(out)


def _check_model(board: Board, model: Any, name: str) -> None:
    """Raise InputError unless a model is the one that answered."""
    mine = identify_model(model, name)
    details = board.settings[0].details
    if any(mine.get(fact) != details.get(fact) for fact in SAME_MODEL):
        theirs = details.get("model")
        raise InputError(f"{name!r} has other weights than the model that answered ({theirs!r}); give --model.")


def _find_task(board: Board, data: str | None) -> Task:
    """The task of a board. Raises InputError where its questions would be others now."""
    details = board.settings[0].details
    task = find_task(task_of(str(details.get("task"))), data)
    for name, value in task.facts().items():
        if details.get(name) != value:
            raise InputError(f"the questions were of {name} {details.get(name)!r}; {value!r} is drawn here.")
    return task


def _show(model: Any, processor: Any, task: Task, found: Disagreement) -> Exhibit | None:
    """Ask again under each of the settings that are shown, and draw what they keep; None for other forms of prompts."""
    kind, number = found.question
    asked = task.draw(kind, [number])
    if not asked:
        raise InputError(f"the picture of {kind} {number} is missing.")
    *images, words = asked[0].parts
    if not isinstance(words, str) or not all(isinstance(image, Image.Image) for image in images):
        return None
    figures = tuple(_figure(model, processor, task, found, m, images, words) for m in found.shown)
    return Exhibit(found, words, asked[0].truth, figures)


def _figure(
    model: Any,
    processor: Any,
    task: Task,
    found: Disagreement,
    measured: Measured,
    images: Sequence[Any],
    words: str,
) -> str:
    record = measured.records[found.question]
    answer = ask(model, processor, images, words, measured.setting.pipeline, max_new_tokens=task.max_new_tokens)
    again = "" if answer.answer == record.answer else f"; asked again it says {answer.answer!r}"
    right, counts = record.score >= RIGHT, answer.counts + again
    return reduction_figure(measured.label, answer.shown, record.answer, counts, right, 5, ".webp", SIDE)
