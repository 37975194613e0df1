"""Whether all settings answered the same questions, and whether the references are what their names say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

from ..records import BLIND, DOWNSAMPLE, FULL
from ..statistics import LEVEL
from ..summary import REFERENCES, Measured, Summary
from .expected import EXPECTED, NUM_PER_TYPE
from .finding import Finding, list_names, name_setting

ALL = "1.0"  # the keep that keeps every token
OFF_REFERENCE = 0.01  # of accuracy: how far a full row may lie from what was measured apart, whatever the noise
OFF_TOKENS = 0.1  # of the tokens that methods keep: how far down-sampled pictures may lie from them


def check_counts(measured: Sequence[Measured]) -> Iterator[Finding]:
    """Settings whose questions are not those of the full row, or of the setting with most where there is none."""
    full = [m for m in measured if m.method == FULL]
    against = max(full or measured, key=lambda m: len(m.records))
    questions = set(against.records)
    groups: dict[tuple[int, int], list[str]] = {}
    for m in measured:
        lacking, more = len(questions - m.records.keys()), len(m.records.keys() - questions)
        if lacking or more:
            groups.setdefault((lacking, more), []).append(name_setting(m))
    for (lacking, more), names in sorted(groups.items()):
        verb = "lacks" if len(names) == 1 else "lack"
        text = f"{verb} {lacking:,} of the {len(questions):,} questions of {name_setting(against)}"
        text += f", with {more:,} others" if more else ""
        numbers = {"lacking": lacking, "more": more, "questions": len(questions), "settings": len(names)}
        yield Finding("warning", "counts", list_names(names), text, numbers)


def check_references(measured: Sequence[Measured], summary: Summary) -> Iterator[Finding]:
    """References that are missing, and rows of references that are not what their names say."""
    for name in (FULL, BLIND):
        if not any(m.method == name for m in measured):
            yield Finding("warning", "baseline", name, "was not measured; nothing is compared with it", {})
    for m in measured:
        share = m.average("mean_keep_ratio")
        if m.method == FULL and share != 1:
            yield Finding(
                "error", "baseline", name_setting(m), f"keeps {share:.1%} of the tokens, not all", {"kept": share}
            )
        if m.method == BLIND and share != 0:
            yield Finding(
                "error", "baseline", name_setting(m), f"keeps {share:.1%} of the tokens, not none", {"kept": share}
            )
    for section in summary.sections:
        rivals = [e.measured for e in section.entries if e.measured.method not in REFERENCES]
        own = [e.measured for e in section.entries if e.measured.method == DOWNSAMPLE]
        if section.keep is None or not rivals:
            continue
        if not own:
            yield Finding("note", "baseline", section.title, "has no down-sampled pictures to compare with", {})
            continue
        theirs, mine = float(np.median([m.average("tokens_kept") for m in rivals])), own[0].average("tokens_kept")
        if abs(mine - theirs) > OFF_TOKENS * theirs:
            text = f"reads {mine:.1f} tokens, while half of the methods beside it keep {theirs:.1f} or fewer"
            yield Finding("note", "baseline", name_setting(own[0]), text, {"tokens": mine, "methods": theirs})


def check_full(measured: Sequence[Measured]) -> Iterator[Finding]:
    """A full row whose accuracy is not the one that was measured apart with the same weights.

    Tested for each type with a pooled standard error, at a level that holds for all types together.
    """
    full = next((m for m in measured if m.method == FULL), None)
    if full is None:
        return
    task, weights = (str(full.setting.details.get(name, "")) for name in ("task", "weights"))
    expected = EXPECTED.get((task.rsplit(" ", 1)[0], weights))  # whatever the version of the task
    if expected is None:
        return
    scores: dict[str, list[float]] = {}
    for (kind, _), record in full.records.items():
        scores.setdefault(kind, []).append(record.score)
    sigmas = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / len(expected))
    for kind in sorted(scores.keys() & expected.keys()):
        value, known, num = float(np.mean(scores[kind])), expected[kind], len(scores[kind])
        pooled = (value * num + known * NUM_PER_TYPE) / (num + NUM_PER_TYPE)
        error = math.sqrt(pooled * (1 - pooled) * (1 / num + 1 / NUM_PER_TYPE))
        if abs(value - known) > max(OFF_REFERENCE, sigmas * error):
            text = f"answers {value:.1%} of {num:,} questions of {kind}; these weights are known to answer {known:.1%}"
            numbers = {"accuracy": value, "expected": known, "questions": num}
            yield Finding("error", "baseline", FULL, text, numbers)


def check_everything_kept(measured: Sequence[Measured]) -> Iterator[Finding]:
    """Settings that keep every token and yet answer unlike the full model."""
    full = next((m for m in measured if m.method == FULL), None)
    if full is None:
        return
    for m in measured:
        common = m.records.keys() & full.records.keys()
        if m is full or m.setting.keep != ALL or not common:
            continue
        other = sum(m.records[q].answer != full.records[q].answer for q in common)
        if other:
            text = f"gives {other:,} of {len(common):,} answers unlike the full model, though it keeps every token"
            yield Finding("error", "baseline", name_setting(m), text, {"different": other, "questions": len(common)})
