"""Ask a model about pictures on part of its visual tokens, and compare methods on one question."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..core.budget import Budget, Scope, parse_keep
from ..core.cards import Fate, Positions
from ..core.contracts import Method
from ..core.errors import InputError, UnsupportedError
from ..core.pipeline import Pipeline, as_pipeline, parse, split_outside
from ..core.recipe import Recipe
from ..core.roles import RolePolicy
from ..pictures.drawing import SIZE, draw_prompt, sheet
from ..pictures.saving import check_picture_target, check_target, encode_picture, save_bytes, save_picture
from ..pictures.shown import Shown
from .prompting import check_question, check_room, prepare
from .showing import shown_of

Images = Image.Image | Sequence[Image.Image]
DEFAULT_METHOD = "hiprune"  # when only a keep is given
FULL = "none"  # the method that keeps every token


@dataclass(frozen=True)
class Answer:
    """What a model answered and what was done with its visual tokens.

    `shown` holds its pictures with what became of their tokens; `report` is the run's report.
    """

    question: str
    answer: str
    pipeline: str
    report: dict[str, Any]
    seconds: float
    shown: Shown = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; pictures are left out, kept indices are in."""
        return {
            "question": self.question,
            "answer": self.answer,
            "pipeline": self.pipeline,
            "seconds": round(self.seconds, 4),
            "kept": [list(k) for k in self.kept],
            "report": self.report,
        }

    @property
    def kept(self) -> tuple[tuple[int, ...], ...]:
        """For each image the indices of the tokens that are left at the end."""
        return self.shown.kept

    @property
    def counts(self) -> str:
        """The token counts in words: '22 of 196 visual tokens'."""
        kept, there = self.report["tokens_kept"], self.report["tokens_in"]
        mean = self.report["mean_keep_ratio"]
        text = f"{kept} of {there} visual tokens"
        roles = [f"{role} {n['kept']} of {n['of']}" for role, n in self.report["roles"].items()]
        if roles:
            text += f" ({', '.join(roles)})"
        if abs(mean * there - kept) > 0.5:
            text += f", {mean:.1%} on the mean over layers"
        return f"{text}, {self.shown.seen}" if self.shown.seen else text

    def draw(self, caption: str | None = None, size: int = SIZE) -> Image.Image:
        """The pictures with kept, merged and dropped patches; by default captioned with question, answer and counts."""
        text = caption or f"{self.question}\nanswer: {self.answer}\n{self.pipeline}: {self.counts}"
        shown = self.shown
        return draw_prompt(shown.images, shown.blocks, shown.kept, shown.merged, text, size=size)

    def save_picture(self, path: str | Path) -> None:
        """Write the drawing to a picture file."""
        save_picture(self.draw(), check_picture_target(path))


@dataclass(frozen=True)
class Row:
    """One method of a comparison: an answer, or the reason why the model cannot carry it."""

    method: str
    answer: Answer | None = None
    same_as_full: bool | None = None
    reason: str = ""

    @property
    def is_full(self) -> bool:
        return self.method == FULL

    def to_dict(self) -> dict[str, Any]:
        if self.answer is None:
            return {"method": self.method, "answer": None, "reason": self.reason}
        report = self.answer.report
        names = ("tokens_in", "tokens_kept", "keep_ratio", "mean_keep_ratio", "cache_bytes", "full_cache_bytes", "ms")
        return {
            "method": self.method,
            "answer": self.answer.answer,
            "same_as_full": self.same_as_full,
            **{name: report[name] for name in names},
            "kept": [list(k) for k in self.answer.kept],
            "notes": list(report["notes"]),
        }


@dataclass(frozen=True)
class Comparison:
    """Answers of several methods to one question about one picture; the first row keeps every token, if included."""

    question: str
    keep: str | None
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"question": self.question, "keep": self.keep, "rows": [row.to_dict() for row in self.rows]}

    def draw(self, size: int = 336) -> Image.Image:
        """A sheet with one panel per method that answered."""
        panels = [
            (row.method, row.answer.draw(f"answer: {row.answer.answer}\n{row.answer.counts}", size=size))
            for row in self.rows
            if row.answer is not None
        ]
        return sheet(panels, columns=min(4, len(panels)), title=self.question)

    def save_sheet(self, path: str | Path) -> None:
        """Write the sheet to a picture file."""
        save_bytes(encode_picture(self.draw(), check_picture_target(path).suffix), path)

    def save_html(self, path: str | Path) -> None:
        """Write one self-contained page: table and pictures, nothing fetched from elsewhere."""
        from .page import comparison_page

        target = check_target(path, (".html", ".htm"))
        save_bytes(comparison_page(self).encode("utf-8"), target)


def ask(
    model: Any,
    processor: Any,
    images: Images,
    question: str,
    pipeline: str | Method | Recipe | Pipeline | None = None,
    keep: int | float | str | None = None,
    *,
    scope: Scope | None = None,
    positions: Positions | None = None,
    newlines: Fate | None = None,
    thumbnails: Fate | None = None,
    max_new_tokens: int = 32,
) -> Answer:
    """The model's greedy answer to a question about one picture or several, on the visual tokens that are kept.

    Without `pipeline` and `keep` every token is kept; with `keep` alone the method is hiprune, or the nearest that the
    model can carry. Raises InputError for a question that is empty or too long, BudgetError and UnsupportedError as
    `tessella.reduce` does.
    """
    from ..engine.apply import reduce
    from ..models.adapter import find_adapter

    pictures = (images,) if isinstance(images, Image.Image) else tuple(images)
    check_request(question, pipeline, keep, scope, newlines, thumbnails, max_new_tokens)
    find_adapter(model)
    check_room(model, processor, question, max_new_tokens)
    if pipeline is None:
        pipeline = FULL if keep is None else default_method(model)
    inputs = prepare(model, processor, [pictures], [question], max_new_tokens)
    start = time.perf_counter()
    run = reduce(model, pipeline, keep, scope, positions, newlines, thumbnails, processor)
    with run, torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    seconds = time.perf_counter() - start
    text = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return Answer(
        question=question.strip(),
        answer=text.strip(),
        pipeline=run.report.pipeline,
        report=run.report.to_dict(),
        seconds=seconds,
        shown=shown_of(run, processor, pictures),
    )


def ask_many(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    pipeline: str | Method | Recipe | Pipeline = FULL,
    keep: int | float | str | None = None,
    *,
    max_new_tokens: int = 32,
) -> list[str]:
    """Greedy answers to one question about each picture, as one batch."""
    from ..engine.apply import reduce

    inputs = prepare(model, processor, [(image,) for image in images], questions, max_new_tokens)
    with reduce(model, pipeline, keep=keep, processor=processor), torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    texts = processor.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def compare(
    model: Any,
    processor: Any,
    image: Image.Image,
    question: str,
    methods: str | Sequence[str],
    keep: int | float | str | None = None,
    include_full: bool = True,
    *,
    scope: Scope | None = None,
    newlines: Fate | None = None,
    thumbnails: Fate | None = None,
    max_new_tokens: int = 32,
) -> Comparison:
    """One question with several methods: answers, tokens, times (each method warmed up once) and cache bytes.

    `methods` is a list, or a text with commas, of pipelines; `keep` and `scope` are given to those that have no budget
    of their own and take one, `newlines` and `thumbnails` to all that drop something. A method that the model cannot
    carry becomes a row with the reason, unless it is the only one.
    """
    pipelines = read_methods(methods, keep, scope)
    if include_full:
        pipelines = [as_pipeline(FULL), *(p for p in pipelines if str(p) != FULL)]
    alone = sum(str(p) != FULL for p in pipelines) <= 1
    rows: list[Row] = []
    full: str | None = None
    for pipeline in pipelines:
        options: dict[str, Any] = {} if str(pipeline) == FULL else {"newlines": newlines, "thumbnails": thumbnails}
        try:
            ask(model, processor, image, question, pipeline, max_new_tokens=1, **options)  # pays for warming up
            answer = ask(model, processor, image, question, pipeline, max_new_tokens=max_new_tokens, **options)
        except UnsupportedError as error:
            if alone:
                raise
            rows.append(Row(str(pipeline), reason=str(error)))
            continue
        if str(pipeline) == FULL:
            full = answer.answer
        rows.append(Row(str(pipeline), answer, None if full is None else answer.answer == full))
    return Comparison(question.strip(), None if keep is None else str(keep), tuple(rows))


def check_request(
    question: str,
    pipeline: str | Method | Recipe | Pipeline | None = None,
    keep: int | float | str | None = None,
    scope: Scope | None = None,
    newlines: Fate | None = None,
    thumbnails: Fate | None = None,
    max_new_tokens: int = 32,
) -> None:
    """Everything about a request that can be checked without the model; raises the error that `ask` would raise."""
    check_question(question)
    RolePolicy(newlines, thumbnails)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1; got {max_new_tokens}.")
    if pipeline is not None:
        as_pipeline(pipeline).with_budget(keep, scope)
    elif keep is not None:
        Budget(parse_keep(keep), scope)
    elif scope is not None:
        raise InputError(f"scope={scope!r} was given without a keep.")


def read_methods(
    methods: str | Sequence[str], keep: int | float | str | None = None, scope: Scope | None = None
) -> list[Pipeline]:
    """Pipelines with their budgets. Raises InputError for none, for two alike, or for a scope that none of them takes,
    and the errors of core for bad ones."""
    texts = split_outside(methods, ",") if isinstance(methods, str) else list(methods)
    texts = [text.strip() for text in texts]
    if not texts or not all(texts):
        raise InputError("methods must name at least one, with commas between: 'hiprune,divprune'.")
    out: list[Pipeline] = []
    takes: list[bool] = []
    for text in texts:
        pipeline = parse(text)
        takes.append(any(p.method.card.takes_keep and p.budget is None for p in pipeline.parts))
        out.append(pipeline.with_budget(keep, scope) if takes[-1] else pipeline.with_budget(None))
    if scope is not None and not any(takes):
        raise InputError(f"scope={scope!r} was given, but every method has its own budget or takes none.")
    names = [str(p) for p in out]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise InputError(f"methods names {twice!r} twice.")
    return out


def default_method(model: Any) -> str:
    """The method for a user who gave only a keep. Raises UnsupportedError when the model can carry neither."""
    from ..engine.apply import can_apply

    verdict = can_apply(model, DEFAULT_METHOD)
    if verdict:
        return DEFAULT_METHOD
    if verdict.nearest is None:
        raise UnsupportedError(verdict.reason)
    return verdict.nearest
