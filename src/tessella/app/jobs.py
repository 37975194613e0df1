"""The whole job of a command: check what is cheap to check, load the model, run, write the files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..pictures.opening import read_picture
from ..pictures.saving import check_picture_target, check_target, save_picture
from .answering import Answer, Comparison, ask, check_request, compare, read_methods
from .source import Source

if TYPE_CHECKING:
    from ..bench.cluster import Cluster
    from ..bench.ledger import Ledger
    from ..bench.pace import Progress
    from ..bench.runner import Request as BenchRequest
    from ..bench.runner import Work
    from ..bench.summary import Summary

    Runner = Callable[[Work, Ledger, Callable[[Progress], None] | None], tuple[str, ...]]


@dataclass(frozen=True)
class Request:
    """How to reduce and how long to answer; see `answering.ask`."""

    method: str | None = None
    keep: str | None = None
    scope: str | None = None
    newlines: str | None = None
    thumbnails: str | None = None
    max_new_tokens: int = 32

    @property
    def options(self) -> dict[str, Any]:
        """All but the method, as keyword arguments."""
        return {name: value for name, value in vars(self).items() if name != "method"}


def ask_files(
    images: Sequence[str | Path], question: str, source: Source, request: Request, show: str | Path | None = None
) -> tuple[Answer, tuple[str, ...]]:
    """Ask about picture files; with `show` also draw what was kept. Returns the answer and notes about the files."""
    check_request(question, request.method, **request.options)
    target = None if show is None else check_picture_target(show)
    pictures = [read_picture(image) for image in images]
    model, processor = source.load()
    answer = ask(model, processor, [p.image for p in pictures], question, request.method, **request.options)
    if target is not None:
        answer.save_picture(target)
    return answer, tuple(note for p in pictures for note in p.notes)


def compare_file(
    image: str | Path,
    question: str,
    methods: str,
    source: Source,
    request: Request,
    sheet: str | Path | None = None,
    html: str | Path | None = None,
) -> tuple[Comparison, tuple[str, ...]]:
    """Compare methods on a picture file; optionally write the sheet and the page."""
    options = {n: v for n, v in request.options.items() if n not in ("keep", "scope")}
    check_request(question, **options)
    read_methods(methods, request.keep, request.scope)  # type: ignore[arg-type]
    if sheet is not None:
        check_picture_target(sheet)
    if html is not None:
        check_target(html, (".html", ".htm"))
    picture = read_picture(image)
    model, processor = source.load()
    comparison = compare(model, processor, picture.image, question, methods, **request.options)
    if sheet is not None:
        comparison.save_sheet(sheet)
    if html is not None:
        comparison.save_html(html)
    return comparison, picture.notes


def list_methods(model: str | None = None, **filters: Any) -> list[dict[str, Any]]:
    """Rows of `catalogue.method_rows`, for a model's name with the column that says whether it can carry them.

    Raises InputError for a stage or a need that no card can have.
    """
    from ..core.cards import NEEDS, STAGES
    from .catalogue import method_rows

    for name, allowed in (("stage", STAGES), ("needs", tuple(NEEDS))):
        if filters.get(name) is not None and filters[name] not in allowed:
            raise InputError(f"{name} must be one of {', '.join(allowed)}; got {filters[name]!r}.")
    loaded = None if model is None else Source(model).load()[0]
    return method_rows(model=loaded, **filters)


def run_demo(folder: str | Path, say: Callable[[Any], None]) -> Path:
    """The demo: `say` receives an introduction, then each part of `demo` as it is ready. Returns the sheet's path.

    The folder is made if it is not there; its parent must be.
    """
    from . import demo

    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise InputError(f"{str(place)!r} is a file; give a folder.")
    if not place.is_dir():
        check_target(place)
        place.mkdir()
    target = check_picture_target(place / "sheet.png")
    model, processor = Source().load()
    examples = demo.bundled()
    say(demo.Introduction(sum(p.numel() for p in model.parameters())))
    answers = demo.answer_examples(model, processor, examples)
    save_picture(demo.draw_sheet(answers, examples), target)
    say(demo.ExampleAnswers(examples, answers))
    say(demo.RivalAnswers(examples, demo.compare_rivals(model, processor, examples)))
    say(demo.Scores(demo.score_settings(model, processor, demo.table_settings(), per_kind=demo.PER_KIND)))
    return target


def run_bench(
    request: BenchRequest,
    source: Source,
    out: str | Path,
    say: Callable[[str], None],
    tell: Callable[[Progress], None] | None = None,
    job: str = "bench",
    cluster: Cluster | None = None,
    timed: Callable[[int, int], None] | None = None,
) -> Summary:
    """Measure what `request` asks for in the ledger `out`, going on where it stopped; returns the comparison.

    `say` receives notes, `tell` the progress; jobs of other names may work on the same ledger. With a `cluster` its
    workers answer, each with a model of its own. With `timed`, which is told of rounds, a timing pass follows. Nothing
    is written before the request is known to be possible. Ctrl-C raises KeyboardInterrupt with a line on how to go on.
    """
    from ..bench.ledger import Ledger
    from ..bench.summary import summarize
    from ..bench.timing_pass import time_work

    request.check()
    if cluster is not None and timed is not None:
        raise InputError("a timing pass needs this machine to itself: run it without a cluster, on the same ledger.")
    if cluster is not None:
        cluster.check()
    with Ledger(out, job) as ledger, _plan(request, source, cluster) as (work, run):
        for note in work.notes:
            say(note)
        try:
            for note in run(work, ledger, tell):
                say(note)
            if timed is not None:
                time_work(work, ledger, tell=timed)
        except KeyboardInterrupt:
            there = len(ledger.done(work.settings))
            raise KeyboardInterrupt(
                f"{there:,} answers of these settings are kept in {str(out)!r}; the same command goes on from there"
            ) from None
        rows = ledger.rows(work.settings, work.kinds, work.numbers)
    return summarize(rows)


@contextlib.contextmanager
def _plan(request: BenchRequest, source: Source, cluster: Cluster | None) -> Iterator[tuple[Work, Runner]]:
    """The work, and what does it: this process, or the workers of a cluster until the end of the block."""
    if cluster is None:
        from ..bench.runner import plan_work, run_work

        yield plan_work(*source.load(), source.name, request), run_work
    else:
        from ..bench.cluster import Crew, reach, run_on

        with reach(cluster) as ray:
            crew = Crew(ray, cluster, source, request)
            yield crew.plan(), partial(run_on, crew)


def to_json(value: Any) -> str:
    """JSON text for a terminal or a file; numbers that are no numbers are refused."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
