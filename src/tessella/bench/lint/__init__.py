"""What a reader of a ledger should know before believing its tables: findings in plain words, each with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Record, Setting
from ..summary import Summary, collect, summarize
from . import answers, baselines, intervals
from .finding import LEVELS, Finding
from .pairing import Pairing


def lint(
    rows: Sequence[tuple[Setting, Record]],
    summary: Summary | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[Finding, ...]:
    """All findings on comparable rows, the worst first. `summary` is that of the rows, where it is there already.

    Raises InputError as `summarize` does.
    """
    measured = collect(rows)
    summary = summary or summarize(rows, seed, resamples)
    pairing = Pairing(measured, summary.seed, summary.resamples)
    found = [
        *baselines.check_counts(measured),
        *baselines.check_references(measured, summary),
        *baselines.check_full(measured),
        *baselines.check_everything_kept(measured),
        *intervals.check_curves(pairing),
        *answers.check_yes_bias(measured, summary.seed, summary.resamples),
        *intervals.check_leads(pairing, summary),
        *answers.check_blind(summary),
    ]
    return tuple(sorted(found, key=lambda finding: LEVELS.index(finding.level)))


__all__ = ["Finding", "lint"]
