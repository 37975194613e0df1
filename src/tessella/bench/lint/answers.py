"""What the answers themselves give away: a leaning to 'yes' or 'no', and questions that need no picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..records import BLIND, FULL
from ..statistics import Bootstrap
from ..summary import Measured, Summary
from .finding import Finding

YES_MARGIN = 0.1  # of the questions: how much more (or less) often 'yes' may be said than it is right
BLIND_SHARE = 0.5  # of the full accuracy: what may be reached without a picture
YES_NO = {"yes", "no"}


def check_yes_bias(measured: Sequence[Measured], seed: int = 0, resamples: int = 2000) -> Iterator[Finding]:
    """Methods with a picture that say 'yes' far more, or far less, often than it is right; all keeps together."""
    groups: dict[tuple[str, int, float], dict[str, float]] = {}
    for m in sorted(measured, key=lambda m: (m.method, -m.average("tokens_kept"))):
        asked = [(q, r) for q, r in sorted(m.records.items()) if r.truth.lower() in YES_NO]
        if not asked or m.method == BLIND:
            continue
        said = np.array([r.answer.strip().rstrip(".").lower() == "yes" for _, r in asked])
        right = np.array([r.truth.lower() == "yes" for _, r in asked])
        surplus = said.astype(float) - right
        if abs(surplus.mean()) <= YES_MARGIN:
            continue
        too_many = Bootstrap(surplus[None], [q for q, _ in asked], seed, resamples).mean(0).estimate()
        if max(too_many.low, -too_many.high) > YES_MARGIN:
            shares = groups.setdefault((m.method, len(asked), float(right.mean())), {})
            shares[f"keep {m.setting.keep}" if m.setting.keep else m.label] = float(said.mean())
    for (method, num, truth), shares in groups.items():
        said_yes = ", ".join(f"{share:.0%} ({name})" for name, share in shares.items())
        text = f"says 'yes' to {said_yes} of {num:,} questions of which {truth:.0%} deserve it"
        yield Finding("warning", "yes-bias", method, text, {"truth": truth, "questions": num, **shares})


def check_blind(summary: Summary) -> Iterator[Finding]:
    """Accuracy that needs no picture: overall, and the types of which that is more than half."""
    entries = {e.measured.method: e for s in summary.sections for e in s.entries}
    full, blind = entries.get(FULL), entries.get(BLIND)
    if full is None or blind is None:
        return
    if full.accuracy and blind.accuracy and blind.accuracy.value > BLIND_SHARE * full.accuracy.value:
        share, numbers = _share(blind.accuracy.value, full.accuracy.value)
        yield Finding("warning", "blind", "all types", f"{share} of the full accuracy needs no picture", numbers)
    for kind in sorted(full.by_type.keys() & blind.by_type.keys()):
        if blind.by_type[kind].value > BLIND_SHARE * full.by_type[kind].value:
            share, numbers = _share(blind.by_type[kind].value, full.by_type[kind].value)
            yield Finding("note", "blind", kind, f"{share} of the full accuracy needs no picture", numbers)


def _share(blind: float, full: float) -> tuple[str, dict[str, float]]:
    words = f"{blind / full:.0%} ({blind:.1%} of {full:.1%})" if full else f"all ({blind:.1%})"
    return words, {"blind": blind, "full": full}
