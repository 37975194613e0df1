"""What the paired intervals bear out and what they do not: curves that rise, and leads that are noise."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence

from ..records import DOWNSAMPLE, FULL, Setting
from ..statistics import holm
from ..summary import REFERENCES, Entry, Measured, Summary
from .finding import Finding, as_points, list_names
from .pairing import Pairing


def check_curves(pairing: Pairing) -> Iterator[Finding]:
    """Steps to fewer tokens that raise the accuracy, beyond the paired intervals of all steps together."""
    curves: dict[str, list[Measured]] = {}
    for m in pairing.measured:
        if m.setting.keep is not None:
            curves.setdefault(curve_of(m.setting), []).append(m)
    steps, draws = [], []
    for curve in curves.values():
        ordered = sorted(curve, key=lambda m: -m.average("tokens_kept"))
        for more, fewer in itertools.pairwise(ordered):
            difference = pairing.difference(fewer, more)
            if difference is not None:
                steps.append((more, fewer))
                draws.append(difference)
    for (more, fewer), rise in zip(steps, holm(draws), strict=True):
        if rise.side() != "better":
            continue
        counts = [m.average("tokens_kept") for m in (fewer, more)]
        text = (
            f"answers better on {counts[0]:.0f} tokens than on {counts[1]:.0f} (keep {fewer.setting.keep} and "
            f"{more.setting.keep}), by {as_points(rise.value)} [{as_points(rise.low)}, {as_points(rise.high)}] points"
        )
        numbers = {"rise": rise.value, "low": rise.low, "high": rise.high, "fewer": counts[0], "more": counts[1]}
        yield Finding("warning", "curve", more.method, text, numbers)


def check_leads(pairing: Pairing, summary: Summary) -> Iterator[Finding]:
    """Leads that a table seems to show and the paired intervals do not: of the best, and over the references."""
    for section in summary.sections:
        rivals = [e for e in section.entries if e.measured.method not in REFERENCES and e.accuracy is not None]
        if len(rivals) > 1:
            yield from _check_first(pairing, section.title, rivals)
        for reference, name in ((FULL, "the full model"), (DOWNSAMPLE, "down-sampled pictures")):
            inside = [(e.measured.label, d) for e in rivals if (d := e.against[reference]) and d.value > 0 >= d.low]
            if inside:
                most = max(d.value for _, d in inside)
                text = (
                    f"the lead of {list_names([n for n, _ in inside])} over {name} (up to {as_points(most)} points) is "
                    "inside the noise"
                )
                yield Finding("note", "noise", section.title, text, {"settings": len(inside), "most": most})


def _check_first(pairing: Pairing, where: str, rivals: Sequence[Entry]) -> Iterator[Finding]:
    ordered = sorted(rivals, key=lambda e: -(e.accuracy.value if e.accuracy else 0.0))
    first, *others = (e.measured for e in ordered)
    leads = [(m, d.estimate()) for m in others if (d := pairing.difference(first, m)) is not None]
    close = [(m, lead) for m, lead in leads if lead.side() == "="]
    if not close:
        return
    widest = max(lead.value for _, lead in close)
    text = (
        f"{first.label} is first, but its lead over {list_names([m.label for m, _ in close])} "
        f"(up to {as_points(widest)} points) is inside the noise"
    )
    yield Finding("note", "noise", where, text, {"settings": len(close), "lead": widest})


def curve_of(setting: Setting) -> str:
    """What the points of one curve have in common: everything but the budget."""
    return json.dumps([setting.method, {k: v for k, v in setting.details.items() if k != "methods"}], sort_keys=True)
