"""What is printed of claims: the list of all, tables of verdicts, notes, and the parts of a page that are made anew."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.registry import methods
from ...mini.questions import KINDS
from ..statistics import Estimate
from ..tables import NOTHING, Table, number, points
from .claim import Claim, Halfway
from .evidence import Metric
from .rule import Compared, Verdict

LIST, VERDICTS = "claims", "verdicts"  # marks of the parts of a page that are made anew
ALL, BASELINE = "all methods", "baseline"
RIVAL = "none of its own: a rival in other methods' claims"
SEVERAL = 4  # comparisons whose numbers stand in one cell


def claim_list(stated: Sequence[Claim]) -> str:
    """Markdown: under each method the claims of its paper, then those of ours about all methods, then the baselines."""
    by_method: dict[str, list[Claim]] = {}
    for claim in stated:
        for method in claim.about or (ALL,):
            by_method.setdefault(method, []).append(claim)
    every = by_method.pop(ALL, [])
    parts = []
    for method, claims in [*sorted(by_method.items()), *([(ALL, every)] if every else [])]:
        parts += [f"#### {method}", *(_in_words(claim) for claim in claims)]
    baselines = ", ".join(f"`{name}`" for name in methods(baseline=True))
    parts += ["#### baselines", f"{baselines}: {RIVAL}."]
    return "\n\n".join(parts)


def _in_words(claim: Claim) -> str:
    metric = "" if claim.metric.name == "accuracy" else f"{claim.metric.name}; "
    margin = f"margin {_amount(claim.margin, claim.metric)}; " if claim.margin else ""
    conditions = "".join(f"; {p.text}" for p in claim.preconditions)
    return (
        f"**{claim.id}.** {claim.text} {_pairs(claim)}; {metric}{_kinds(claim)}; {margin}{claim.samples} questions a "
        f"type, seed {claim.seed}{conditions}. ({claim.source})"
    )


def _pairs(claim: Claim) -> str:
    """All comparisons as they are written; what several share stands once."""
    sign = "over" if claim.direction == "more" else "under"
    groups: dict[str, list[str]] = {}
    for first, second in claim.comparisons:
        groups.setdefault(_written(second), []).append(_written(first))
    if len({first for first, _ in claim.comparisons}) == 1:
        return f"{_written(claim.comparisons[0][0])} {sign} " + ", ".join(groups)
    return "; ".join(f"{', '.join(firsts)} {sign} {second}" for second, firsts in groups.items())


def _written(side: str | Halfway) -> str:
    return f"the middle of `{side.first}` and `{side.second}`" if isinstance(side, Halfway) else f"`{side}`"


def _kinds(claim: Claim) -> str:
    if claim.kinds == KINDS:
        return f"all {len(KINDS)} types of questions about one picture"
    return ("type " if len(claim.kinds) == 1 else "types ") + ", ".join(claim.kinds)


def _amount(value: float, metric: Metric) -> str:
    points = 100 * value
    return f"{points:g} point{'' if abs(points) == 1 else 's'}" if metric.is_share else f"{value:g}"


def claims_table(stated: Sequence[Claim]) -> Table:
    """One row for each claim: what it is about and what is compared."""
    rows = tuple((c.id, ", ".join(c.about) or NOTHING, c.text, _kinds(c), str(c.seed), c.source) for c in stated)
    return Table("Claims", ("claim", "methods", "text", "questions", "seed", "source"), rows, (4,))


def methods_table(verdicts: Sequence[Verdict]) -> Table:
    """One row for each method and claim about it, with the verdict, then ours about all, then baselines without any."""
    about = [(method, v) for method in methods(baseline=False) for v in verdicts if method in v.claim.about]
    about += [(ALL, v) for v in verdicts if not v.claim.about]
    rows: list[tuple[str, ...]] = [(method, v.claim.id, v.status, _outcome(v)) for method, v in about]
    rows += [(method, NOTHING, BASELINE, RIVAL) for method in methods(baseline=True)]
    return Table("Verdict for every method", ("method", "claim", "verdict", "came out"), tuple(rows))


def _outcome(verdict: Verdict) -> str:
    """The numbers of a claim's comparisons, how many of many show, or why there are none."""
    if len(verdict.compared) > SEVERAL:
        return f"{sum(c.shown for c in verdict.compared)} of {len(verdict.compared)} comparisons"
    if verdict.compared:
        return "; ".join(" ".join(_numbers(verdict, c)) for c in verdict.compared)
    return "; ".join(verdict.reasons) or f"no answers yet of {', '.join(verdict.missing)}"


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """One row for each claim, and one below for each of its comparisons if there are several."""
    rows: list[tuple[str, ...]] = []
    for v in verdicts:
        shown = sum(c.shown for c in v.compared)
        status = f"{v.status} ({shown} of {len(v.compared)})" if len(v.compared) > 1 else v.status
        rows.append((v.claim.id, v.claim.text, v.claim.source, status, *_cells(v, v.compared[:1])))
        rows += [("", "", "", "", *_cells(v, (c,))) for c in v.compared[1:]]
    heads = ("claim", "text", "source", "verdict", "compared", "values", "difference", "level %", "shows here")
    return Table("Claims", heads, tuple(rows), (7,))


def _cells(verdict: Verdict, compared: Sequence[Compared]) -> tuple[str, ...]:
    if not compared:
        return (NOTHING,) * 5
    c = compared[0]
    names = f"{c.first} > {c.second}" if verdict.claim.direction == "more" else f"{c.first} < {c.second}"
    level = number(100 * c.difference.level, 2)
    return names, *_numbers(verdict, c), level, "yes" if c.shown else "no"


def _numbers(verdict: Verdict, compared: Compared) -> tuple[str, str]:
    """Both values, and their difference with its interval: shares in per cent and points."""
    is_share, d = verdict.claim.metric.is_share, compared.difference
    scale = 100 if is_share else 1
    values = ", ".join(f"{scale * value:.1f}" for value in compared.values) + (" %" if is_share else "")
    per_cent = d if is_share else Estimate(d.value / 100, d.low / 100, d.high / 100)
    return values, points(per_cent).rsplit(" ", 1)[0]


def rule_note(seed: int, resamples: int) -> str:
    """The rule in one line."""
    return (
        "shown: every interval lies wholly on the claimed side of the margin; two-sided paired bootstrap over "
        f"questions within their type ({resamples} resamples, seed {seed}), Holm's correction over the comparisons of "
        "a claim. It covers the choice of questions, not another training of the model"
    )


def notes_on(verdicts: Sequence[Verdict]) -> list[str]:
    """Each claim's conditions, what of them fails, and what was not measured."""
    notes = []
    for v in verdicts:
        claim = v.claim
        conditions = "; ".join(p.text for p in claim.preconditions) or "none"
        margin = f"{claim.direction} by more than {_amount(claim.margin, claim.metric)}"
        notes.append(
            f"{claim.id}: {claim.metric.name}, {margin}; {claim.samples} questions of {', '.join(claim.kinds)}, seed "
            f"{claim.seed}; preconditions: {conditions}"
        )
        notes += [f"{claim.id}: {reason}" for reason in v.reasons]
        if v.missing:
            notes.append(f"{claim.id}: not measured on all questions: {', '.join(v.missing)}")
    return notes


def has_marks(page: str, name: str) -> bool:
    """Whether a page has the marks `<!-- name: begin -->` and `<!-- name: end -->`."""
    return all(f"<!-- {name}: {end} -->" in page for end in ("begin", "end"))


def put_between(page: str, name: str, content: str) -> str:
    """A page with new content between its marks; without these as it is."""
    if not has_marks(page, name):
        return page
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{content.strip()}\n{end}{rest.partition(end)[2]}"
