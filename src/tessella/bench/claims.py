"""Claims of papers, each with the rule that decides it, fixed in writing before the numbers are looked at.

A claim compares settings on the same questions. Its verdict is

- *needs a larger model* if a precondition written in the claim fails, whatever the numbers say;
- *shown* if, for each of its comparisons, the interval of the difference lies wholly on the claimed side of the margin:
  95 %, two-sided, paired bootstrap over questions, with Holm's correction over the comparisons of the claim;
- *not shown* otherwise, and also where the opposite shows.

The questions are exactly those of the claim's types, seed and number, though a ledger may hold more: nobody can stop at
a favourable moment. If one of them was not answered under one of the settings, the claim is *not measured*.

    python -m tessella.bench.claims --ledger bench.db --out claims.md
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..core.errors import InputError, TessellaError
from ..core.pipeline import parse
from .embedded import first_number
from .records import FULL, Record, Setting
from .regions import Thirds
from .statistics import LEVEL, Bootstrap, Draws, Estimate, Question, holm
from .summary import check_comparable, collect
from .tables import NOTHING, Table, number, points, to_markdown

RESAMPLES = 20_000  # of which Holm's smallest tail over 20 comparisons still holds 25
LEAST_TAIL = 10  # resamples beyond each end of the widest interval
Status = Literal["shown", "not shown", "needs a larger model", "not measured"]


@dataclass(frozen=True)
class Evidence:
    """What claims are decided on, by canonical pipeline text: right and wrong answers, and tokens by third."""

    correct: Mapping[str, Mapping[Question, float]]
    thirds: Mapping[str, Mapping[Question, Thirds]] = field(default_factory=dict)
    num_layers: int | None = None


@dataclass(frozen=True)
class Metric:
    """A number for each question under a pipeline; `needs` says what it is read from."""

    name: str
    needs: Literal["records", "thirds"]
    values: Callable[[Evidence, str], Mapping[Question, float]]


ACCURACY = Metric("accuracy", "records", lambda evidence, pipeline: evidence.correct.get(pipeline, {}))
TOP = Metric(
    "share of kept tokens in the top third",
    "thirds",
    lambda evidence, pipeline: {q: t.share_kept(0) for q, t in evidence.thirds.get(pipeline, {}).items()},
)
BOTTOM = Metric(
    "share of kept tokens in the bottom third",
    "thirds",
    lambda evidence, pipeline: {q: t.share_kept(2) for q, t in evidence.thirds.get(pipeline, {}).items()},
)


@dataclass(frozen=True)
class Floor:
    """The full model answers at least this share of the claim's questions (mean over types), without any interval."""

    least: float

    @property
    def text(self) -> str:
        return f"the full model is right on at least {self.least:.0%} of the questions"

    def holds(self, evidence: Evidence, questions: Sequence[Question]) -> bool | None:
        """None if the full model was not measured on all of them."""
        answers = evidence.correct.get(FULL, {})
        if not all(q in answers for q in questions):
            return None
        kinds = sorted({kind for kind, _ in questions})
        shares = [np.mean([answers[q] for q in questions if q[0] == kind]) for kind in kinds]
        return bool(np.mean(shares) >= self.least)


@dataclass(frozen=True)
class Layers:
    """The language model has at least this many layers."""

    least: int

    @property
    def text(self) -> str:
        return f"the language model has at least {self.least} layers"

    def holds(self, evidence: Evidence, questions: Sequence[Question]) -> bool | None:
        """None if the number is not known."""
        return None if evidence.num_layers is None else evidence.num_layers >= self.least


@dataclass(frozen=True)
class Halfway:
    """The mean of two pipelines with their budgets, question by question; for claims of winning back half."""

    first: str
    second: str

    def __str__(self) -> str:
        return f"halfway from {canonical(self.first)} to {canonical(self.second)}"


@dataclass(frozen=True)
class Claim:
    """What is claimed, and all that decides it.

    `comparisons`: pairs of pipelines with their budgets; the first is said to have `more` or `less` of the metric than
    the second, or than the middle of two, by more than `margin` (in the metric's own unit). `samples` questions of each
    of `kinds` from the bench's `seed` on.
    """

    id: str
    text: str
    source: str
    comparisons: tuple[tuple[str, str | Halfway], ...]
    kinds: tuple[str, ...]
    metric: Metric = ACCURACY
    direction: Literal["more", "less"] = "more"
    margin: float = 0.0
    samples: int = 200
    seed: int = 0
    level: float = LEVEL
    preconditions: tuple[Floor | Layers, ...] = ()

    @property
    def questions(self) -> list[Question]:
        start = first_number(self.seed)
        return [(kind, start + n) for kind in self.kinds for n in range(self.samples)]

    @property
    def pipelines(self) -> tuple[str, ...]:
        """Canonical texts of all that are compared, each once."""
        return tuple(dict.fromkeys(canonical(p) for pair in self.comparisons for side in pair for p in _of(side)))


@dataclass(frozen=True)
class Compared:
    """One comparison of a claim: both values, their difference with its interval, and whether the claim shows here."""

    first: str
    second: str
    values: tuple[float, float]
    difference: Estimate
    shown: bool

    def to_dict(self) -> dict[str, Any]:
        names = {"first": self.first, "second": self.second, "values": list(self.values)}
        return {**names, "difference": self.difference.to_dict(), "shown": self.shown}


@dataclass(frozen=True)
class Verdict:
    """How a claim came out. `missing` are pipelines without some of the questions, `reasons` what failed."""

    claim: Claim
    status: Status
    compared: tuple[Compared, ...] = ()
    missing: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the rule's numbers."""
        claim = self.claim
        rule = {name: getattr(claim, name) for name in ("direction", "margin", "level", "samples", "seed")}
        return {
            "id": claim.id,
            "text": claim.text,
            "source": claim.source,
            "metric": claim.metric.name,
            "types": list(claim.kinds),
            **rule,
            "preconditions": [p.text for p in claim.preconditions],
            "status": self.status,
            "comparisons": [c.to_dict() for c in self.compared],
            "missing": list(self.missing),
            "reasons": list(self.reasons),
        }


def canonical(pipeline: str) -> str:
    """A pipeline's text as `str` writes it; unchanged where this version knows no such method."""
    try:
        return str(parse(pipeline))
    except TessellaError:
        return pipeline


def _of(side: str | Halfway) -> tuple[str, ...]:
    """The pipelines of one side of a comparison."""
    return (side.first, side.second) if isinstance(side, Halfway) else (side,)


def gather(
    rows: Sequence[tuple[Setting, Record]],
    thirds: Mapping[str, Mapping[Question, Thirds]] | None = None,
    num_layers: int | None = None,
    needed: Collection[str] | None = None,
) -> Evidence:
    """Evidence from rows on the `needed` pipelines (None: all), whether a keep stood beside a method or in its text.

    Raises InputError for rows of different models or tasks, or if one of these pipelines is there under two settings.
    """
    measured = collect(rows) if rows else []
    check_comparable([m.setting for m in measured])
    correct: dict[str, dict[Question, float]] = {}
    details: dict[str, dict[str, Any]] = {}
    for m in measured:
        name = canonical(m.setting.pipeline)
        if needed is not None and name not in needed:
            continue
        if details.setdefault(name, m.setting.details) != m.setting.details:
            raise InputError(f"{name} is there under several settings; one ledger for each is needed to judge claims.")
        correct.setdefault(name, {}).update({q: r.score for q, r in m.records.items()})
    return Evidence(correct, {canonical(p): t for p, t in (thirds or {}).items()}, num_layers)


def evaluate(claim: Claim, evidence: Evidence, seed: int = 0, resamples: int = RESAMPLES) -> Verdict:
    """The verdict of a claim by its rule. Raises InputError if `resamples` are too few for its widest interval."""
    tail = (1 - claim.level) / len(claim.comparisons) / 2 * resamples
    if tail < LEAST_TAIL:
        least = math.ceil(2 * LEAST_TAIL * len(claim.comparisons) / (1 - claim.level))
        raise InputError(f"{claim.id} needs at least {least} resamples; got {resamples}.")
    questions = claim.questions
    holds = [(p.text, p.holds(evidence, questions)) for p in claim.preconditions]
    failed = tuple(f"fails: {text}" for text, held in holds if held is False)
    if failed:
        return Verdict(claim, "needs a larger model", reasons=failed)
    unknown = tuple(f"not known: {text}" for text, held in holds if held is None)
    values = {p: claim.metric.values(evidence, p) for p in claim.pipelines}
    missing = [p for p, v in values.items() if not all(q in v for q in questions)]
    if any(isinstance(p, Floor) and p.holds(evidence, questions) is None for p in claim.preconditions):
        missing.insert(0, FULL)
    if missing or unknown:
        return Verdict(claim, "not measured", missing=tuple(missing), reasons=unknown)
    table = np.array([[v[q] for q in questions] for v in values.values()])
    compared = _compare(claim, Bootstrap(table, questions, seed, resamples))
    return Verdict(claim, "shown" if all(c.shown for c in compared) else "not shown", compared)


def _compare(claim: Claim, bootstrap: Bootstrap) -> tuple[Compared, ...]:
    """All comparisons of a claim, with intervals corrected over them."""
    place = {pipeline: n for n, pipeline in enumerate(claim.pipelines)}
    pairs = [
        ([place[canonical(p)] for p in _of(a)], [place[canonical(p)] for p in _of(b)]) for a, b in claim.comparisons
    ]
    sign = 1.0 if claim.direction == "more" else -1.0
    draws = [_difference(bootstrap, first, second) for first, second in pairs]
    claimed = holm([Draws(sign * d.value, sign * d.resampled) for d in draws], claim.margin, claim.level)
    out = []
    for (a, b), (first, second), draw, estimate in zip(claim.comparisons, pairs, draws, claimed, strict=True):
        low, high = sorted((sign * estimate.low, sign * estimate.high))
        values = (_mean(bootstrap, first), _mean(bootstrap, second))
        shown = estimate.side(claim.margin) == "better"
        names = tuple(canonical(side) if isinstance(side, str) else str(side) for side in (a, b))
        out.append(Compared(*names, values, Estimate(draw.value, low, high, estimate.level), shown))
    return tuple(out)


def _difference(bootstrap: Bootstrap, first: Sequence[int], second: Sequence[int]) -> Draws:
    """Draws of the difference between the means of two groups of pipelines of equal weight."""
    each = [bootstrap.difference(a, b) for a in first for b in second]
    return Draws(float(np.mean([d.value for d in each])), np.mean([d.resampled for d in each], axis=0))


def _mean(bootstrap: Bootstrap, pipelines: Sequence[int]) -> float:
    return float(np.mean([bootstrap.mean(p).value for p in pipelines]))


# -- what is printed ---------------------------------------------------------------------------------------------------


def command_for(verdicts: Sequence[Verdict], ledger: str = "bench.db") -> list[str]:
    """`tessella bench` commands that measure what verdicts lack; one for each set of types, seed and number."""
    groups: dict[tuple[tuple[str, ...], int, int], dict[str, None]] = {}
    for verdict in verdicts:
        claim = verdict.claim
        if claim.metric.needs == "records" or FULL in verdict.missing:
            lacking = [p for p in verdict.missing if claim.metric.needs == "records" or p == FULL]
            groups.setdefault((claim.kinds, claim.seed, claim.samples), {}).update(dict.fromkeys(lacking))
    out = []
    for (kinds, seed, samples), pipelines in groups.items():
        if pipelines:
            what = _methods_and_keeps(list(pipelines))
            out.append(
                f"tessella bench {what} --types {','.join(kinds)} --limit {samples} --seed {seed} --out {ledger}"
            )
    return out


def _methods_and_keeps(pipelines: Sequence[str]) -> str:
    """Options that name pipelines: methods at plain keeps by id, others with their own budgets."""
    methods: dict[str, None] = {}
    keeps: dict[str, None] = {}
    for pipeline in pipelines:
        head, _, keep = pipeline.rpartition(":")
        plain = head and " " not in keep and "|" not in pipeline
        methods[head if plain else pipeline] = None
        if plain:
            keeps[keep] = None
    options = f'--methods "{",".join(methods)}"'
    return options + (f" --keep {','.join(keeps)}" if keeps else "")


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """One row for each claim, and one below for each of its comparisons if there are several."""
    rows: list[tuple[str, ...]] = []
    for v in verdicts:
        shown = sum(c.shown for c in v.compared)
        status = f"{v.status} ({shown} of {len(v.compared)})" if len(v.compared) > 1 else v.status
        rows.append((v.claim.id, v.claim.text, v.claim.source, status, *_cells(v, v.compared[:1])))
        rows += [("", "", "", "", *_cells(v, (c,))) for c in v.compared[1:]]
    heads = ("claim", "text", "source", "verdict", "compared", "%", "difference in points", "level %", "shows here")
    return Table("Claims", heads, tuple(rows), (7,))


def _cells(verdict: Verdict, compared: Sequence[Compared]) -> tuple[str, ...]:
    if not compared:
        return (NOTHING,) * 5
    c = compared[0]
    a, b = (f"{100 * value:.1f}" for value in c.values)
    difference = points(c.difference).rsplit(" ", 1)[0]
    return (
        f"{c.first} > {c.second}" if verdict.claim.direction == "more" else f"{c.first} < {c.second}",
        f"{a}, {b}",
        difference,
        number(100 * c.difference.level, 2),
        "yes" if c.shown else "no",
    )


def notes_on(verdicts: Sequence[Verdict], seed: int, resamples: int, ledger: str) -> list[str]:
    """The rule, each claim's conditions, and how to get what is missing."""
    notes = [
        "shown: every interval lies wholly on the claimed side of the margin; two-sided paired bootstrap over "
        f"questions within their type ({resamples} resamples, seed {seed}), Holm's correction over the comparisons of "
        "a claim. It covers the choice of questions, not another training of the model",
    ]
    for v in verdicts:
        claim = v.claim
        conditions = "; ".join(p.text for p in claim.preconditions) or "none"
        margin = f"{claim.direction} by more than {100 * claim.margin:g} points"
        notes.append(
            f"{claim.id}: {claim.metric.name}, {margin}; {claim.samples} questions of {', '.join(claim.kinds)}, seed "
            f"{claim.seed}; preconditions: {conditions}"
        )
        notes += [f"{claim.id}: {reason}" for reason in v.reasons]
        if v.missing:
            notes.append(f"{claim.id}: not measured on all questions: {', '.join(v.missing)}")
    return notes + [f"to measure what is missing: {command}" for command in command_for(verdicts, ledger)]


def render(verdicts: Sequence[Verdict], tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The verdict table, further tables and notes as Markdown."""
    return to_markdown([verdict_table(verdicts), *tables], notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the stated claims on a ledger; 2 and one line for what cannot be done."""
    from .judging import judge_ledger, read_arguments

    try:
        judge_ledger(read_arguments(arguments))
    except TessellaError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
