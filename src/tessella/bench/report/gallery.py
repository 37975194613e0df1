"""Questions on which methods disagree at one keep, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from ..records import FULL, Record
from ..statistics import Question
from ..summary import REFERENCES, RIGHT, Measured, Section
from .boards import Board

SIDE = 2  # methods shown of those that are right, and of those that are wrong


@dataclass(frozen=True)
class Disagreement:
    """A question at one keep: how many methods answered it, how many correctly, and the few that are shown."""

    question: Question
    section: Section
    num_right: int
    num_asked: int
    shown: tuple[Measured, ...]
    full: Record | None


@dataclass(frozen=True)
class Exhibit:
    """A disagreement to look at: the question and the truth in words, and the figures (markup) of its methods."""

    disagreement: Disagreement
    asked: str
    truth: str
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Exhibits of a board, or the reason why there are none."""

    exhibits: tuple[Exhibit, ...] = ()
    left_out: str = ""


def find_disagreements(board: Board, number: int) -> list[Disagreement]:
    """At most `number`: types and keeps take turns, and of each the most even split comes first.

    Questions that the full model answers correctly come before others, then those of the lowest number.
    """
    sections = [s for s in reversed(board.summary.sections) if s.keep is not None and len(_rivals(s)) > 1]
    kinds = board.summary.kinds
    full = next((line.measured for line in board.lines if line.measured.method == FULL), None)
    queues = {(n, kind): _splits(s, kind, full) for n, s in enumerate(sections) for kind in kinds}
    turns = [((k + start) % len(sections), kind) for start in range(len(sections)) for k, kind in enumerate(kinds)]
    out: dict[Question, Disagreement] = {}
    while any(queues.values()) and len(out) < number:
        for queue in (queues[turn] for turn in turns):
            if queue and len(out) < number:
                found = queue.pop(0)
                out.setdefault(found.question, found)
    return list(out.values())


def gallery_markup(gallery: Gallery) -> str:
    """The exhibits, or the line that says why they are left out."""
    if not gallery.exhibits:
        return f'<p class="about">{escape(gallery.left_out)}</p>'
    return "\n".join(_exhibit(exhibit) for exhibit in gallery.exhibits)


def _splits(section: Section, kind: str, full: Measured | None) -> list[Disagreement]:
    """The questions of a type on which the methods of a section disagree, the most telling first."""
    rivals = _rivals(section)
    out = []
    for question in sorted(q for q in rivals[0].records if q[0] == kind and all(q in m.records for m in rivals)):
        right = [m for m in rivals if m.records[question].score >= RIGHT]
        wrong = [m for m in rivals if m.records[question].score < RIGHT]
        if right and wrong:
            record = None if full is None else full.records.get(question)
            shown = (*right[:SIDE], *wrong[:SIDE])
            out.append(Disagreement(question, section, len(right), len(rivals), shown, record))

    def rank(found: Disagreement) -> tuple[bool, float, int]:
        is_right = found.full is not None and found.full.score >= RIGHT
        return not is_right, abs(found.num_right / found.num_asked - 0.5), found.question[1]

    return sorted(out, key=rank)


def _rivals(section: Section) -> list[Measured]:
    """What is no reference and was asked everything, the most accurate first."""
    asked = [e for e in section.entries if e.measured.method not in REFERENCES and e.accuracy is not None]
    return [e.measured for e in sorted(asked, key=lambda e: -e.accuracy.value if e.accuracy else 0.0)]


def _exhibit(exhibit: Exhibit) -> str:
    found = exhibit.disagreement
    full = "" if found.full is None else f" The full model says {found.full.answer!r}."
    words = (
        f"{found.section.title}: {found.num_right} of {found.num_asked} methods are right. "
        f"The truth is {exhibit.truth!r}.{full}"
    )
    panels = "\n".join(exhibit.figures)
    return (
        f'<article><h4>{escape(exhibit.asked)}</h4><p class="about">{escape(words)}</p>'
        f'<div class="panels kept">{panels}</div></article>'
    )
