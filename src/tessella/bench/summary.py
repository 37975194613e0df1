"""From rows to tables: for each keep every setting beside the full model, no picture and down-sampled pictures.

A setting is compared on the questions that it and these three references all have. Where they are fewer than there are,
its row says how many, and a note names it; an overall value needs every type.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import InputError
from .records import BLIND, DOWNSAMPLE, FULL, Record, Setting
from .statistics import LEVEL, Bootstrap, Draws, Estimate, Question, Subset, hard_subset, mcnemar, on_subset
from .tables import Table, number, percent, points, to_markdown

REFERENCES = (FULL, BLIND, DOWNSAMPLE)
# details of settings whose answers can be compared
MUST_AGREE = ("model", "weights", "revision", "task", "pictures", "split", "prompt", "decoding")
RIGHT = 0.5  # a score from which on an answer counts as right, where scores are no yes or no
NOT_NOTED = ("model_class", "model_files", "prompt", "methods")


@dataclass(frozen=True)
class Measured:
    """All records of one setting."""

    setting: Setting
    label: str
    records: dict[Question, Record]

    @property
    def method(self) -> str:
        return self.setting.method

    def median(self, *parts: str) -> float | None:
        """Median milliseconds a sample of the sum of parts; None where one was not measured."""
        if any(p not in r.ms for p in parts for r in self.records.values()):
            return None
        return float(np.median([sum(r.ms[p] for p in parts) for r in self.records.values()]))

    def average(self, name: str) -> float:
        return float(np.mean([getattr(r, name) for r in self.records.values()]))


@dataclass(frozen=True)
class Entry:
    """One setting read at one keep. What cannot be said is None: a missing reference, a missing type.

    `num_common` questions of `num_there` were compared. `against` and `mcnemar_p` have one entry per reference.
    """

    measured: Measured
    num_common: int
    num_there: int
    accuracy: Estimate | None
    by_type: dict[str, Estimate]
    contribution: dict[str, Estimate]  # accuracy minus blind, by type
    over_downsample: dict[str, Estimate]  # accuracy minus that of the down-sampled picture, by type
    against: dict[str, Estimate | None]
    mcnemar_p: dict[str, float | None]
    retention: Estimate | None
    hard: Subset | None

    @property
    def name(self) -> str:
        """The label, with the number of questions where not all were compared."""
        label = self.measured.label
        return label if self.num_common == self.num_there else f"{label} * ({self.num_common} of {self.num_there})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        setting, measured = self.measured.setting, self.measured
        return {
            "pipeline": setting.pipeline,
            "method": setting.method,
            "keep": setting.keep,
            "setting": setting.key,
            "num_common": self.num_common,
            "num_there": self.num_there,
            "tokens_in": measured.average("tokens_in"),
            "tokens_kept": measured.average("tokens_kept"),
            "mean_keep_ratio": measured.average("mean_keep_ratio"),
            "accuracy": _plain(self.accuracy),
            "by_type": {k: e.to_dict() for k, e in self.by_type.items()},
            "image_contribution": {k: e.to_dict() for k, e in self.contribution.items()},
            "over_downsample": {k: e.to_dict() for k, e in self.over_downsample.items()},
            "against": {k: _plain(e) for k, e in self.against.items()},
            "mcnemar_p": self.mcnemar_p,
            "retention": _plain(self.retention),
            "hard_subset": None if self.hard is None else self.hard.to_dict(),
            "prefill_ms": measured.median("prefill"),
            "score_and_select_ms": measured.median("score", "select"),
        }


@dataclass(frozen=True)
class Section:
    """All entries at one keep; None: pipelines with budgets of their own."""

    keep: str | None
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        return "own budgets" if self.keep is None else f"keep {self.keep}"


@dataclass(frozen=True)
class Summary:
    """The result of a bench: sections by keep, and notes that say what the numbers mean."""

    sections: tuple[Section, ...]
    kinds: tuple[str, ...]
    notes: tuple[str, ...]
    seed: int
    resamples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not defined is None."""
        return {
            "types": list(self.kinds),
            "bootstrap": {"seed": self.seed, "resamples": self.resamples, "level": LEVEL},
            "keeps": [{"keep": s.keep, "settings": [e.to_dict() for e in s.entries]} for s in self.sections],
            "notes": list(self.notes),
        }

    def tables(self) -> list[Table]:
        """For each keep: the comparison, accuracy by type, what the picture adds and what the method adds by type."""
        out = []
        for section in self.sections:
            out += [_main_table(section), _type_table(section, self.kinds)]
            for title, differences in _DIFFERENCES.items():
                if any(getattr(entry, differences) for entry in section.entries):
                    out.append(_difference_table(section, self.kinds, title, differences))
        return out

    def to_markdown(self) -> str:
        """Tables and notes."""
        return to_markdown(self.tables(), self.notes)


def summarize(rows: Sequence[tuple[Setting, Record]], seed: int = 0, resamples: int = 2000) -> Summary:
    """Compare all settings of `rows`. Raises InputError for no rows, for settings that cannot be compared (other models
    or tasks), for two records of one question under one setting, and for two settings of one reference.
    """
    measured = collect(rows)
    check_comparable([m.setting for m in measured])
    comparer = _Comparer(measured, seed, resamples)
    sections = tuple(comparer.section(keep) for keep in _keeps(measured))
    notes = (*_notes(measured, comparer), *_notes_on(sections))
    return Summary(sections, comparer.kinds, notes, seed, resamples)


def collect(rows: Sequence[tuple[Setting, Record]]) -> list[Measured]:
    """Records by setting, in the order of their labels."""
    settings: dict[str, Setting] = {}
    records: dict[str, dict[Question, Record]] = {}
    keys: dict[int, str] = {}  # of the setting objects: hashing the same one for each record would take long
    for setting, record in rows:
        key = keys.get(id(setting)) or keys.setdefault(id(setting), setting.key)
        settings.setdefault(key, setting)
        if (record.kind, record.number) in records.setdefault(key, {}):
            raise InputError(f"{setting.pipeline} has two records of question {record.kind} {record.number}.")
        records[key][record.kind, record.number] = record
    if not settings:
        raise InputError("there are no records to summarise.")
    labels = _labels(settings)
    return [Measured(settings[k], labels[k], records[k]) for k in sorted(settings, key=lambda k: (labels[k], k))]


def check_comparable(settings: Sequence[Setting]) -> None:
    """Raise InputError where a detail that decides what an answer means differs between settings."""
    for name in MUST_AGREE:
        values = _values(settings, name)
        if len(values) > 1:
            raise InputError(f"settings with different {name} cannot be compared: {', '.join(values)}.")


class _Comparer:
    """Makes entries; settings with the same questions share one bootstrap."""

    def __init__(self, measured: Sequence[Measured], seed: int, resamples: int) -> None:
        self.measured, self.seed, self.resamples = measured, seed, resamples
        self.there = frozenset(q for m in measured for q in m.records)
        self.kinds = tuple(sorted({kind for kind, _ in self.there}))
        self._bootstraps: dict[frozenset[Question], tuple[Bootstrap, dict[str, int]]] = {}

    def section(self, keep: str | None) -> Section:
        references = {m: self._only(m, keep if m == DOWNSAMPLE else None) for m in REFERENCES}
        beside = [references[m] for m in REFERENCES]
        others = [m for m in self.measured if m.setting.keep == keep and m.method not in REFERENCES]
        shown = [m for m in (*beside, *others) if m is not None]
        return Section(keep, tuple(self.entry(m, references) for m in shown))

    def entry(self, this: Measured, references: dict[str, Measured | None]) -> Entry:
        others = {name: m for name, m in references.items() if m is not None}
        common = frozenset(this.records).intersection(*(m.records for m in others.values()))
        absent: dict[str, Any] = dict.fromkeys(REFERENCES)
        if not common:
            return Entry(this, 0, len(self.there), None, {}, {}, {}, absent, dict(absent), None, None)
        bootstrap, place = self._bootstrap(common)
        me = place[this.setting.key]
        at = {name: place[m.setting.key] for name, m in others.items()}
        whole = bootstrap.kinds == self.kinds  # an overall value over fewer types would be another quantity
        against, p = dict(absent), dict(absent)
        for name, other in at.items():
            if other != me:
                against[name] = bootstrap.difference(me, other).estimate() if whole else None
                p[name] = mcnemar(*bootstrap.discordant(me, other)) if bootstrap.values.dtype == bool else None
        return Entry(
            this,
            len(common),
            len(self.there),
            bootstrap.mean(me).estimate() if whole else None,
            {k: bootstrap.mean(me, [k]).estimate() for k in bootstrap.kinds},
            _over(bootstrap, me, at.get(BLIND)),
            _over(bootstrap, me, at.get(DOWNSAMPLE)),
            against,
            p,
            _retention(bootstrap, me, at) if whole else None,
            _hard(bootstrap, me, at),
        )

    def _bootstrap(self, common: frozenset[Question]) -> tuple[Bootstrap, dict[str, int]]:
        if common not in self._bootstraps:
            questions = sorted(common)
            having = [m for m in self.measured if common <= m.records.keys()]
            values = np.array([[m.records[q].score for q in questions] for m in having])
            if np.isin(values, (0, 1)).all():
                values = values.astype(bool)
            place = {m.setting.key: n for n, m in enumerate(having)}
            self._bootstraps[common] = Bootstrap(values, questions, self.seed, self.resamples), place
        return self._bootstraps[common]

    def _only(self, method: str, keep: str | None) -> Measured | None:
        if method == DOWNSAMPLE and keep is None:
            return None
        found = [m for m in self.measured if m.method == method and m.setting.keep == keep]
        if len(found) > 1:
            keys = ", ".join(m.setting.key for m in found)
            raise InputError(f"{method} is there under {len(found)} settings ({keys}); one is needed to compare with.")
        return found[0] if found else None


def _over(bootstrap: Bootstrap, me: int, reference: int | None) -> dict[str, Estimate]:
    """Accuracy minus that of a reference, by type."""
    if reference is None or reference == me:
        return {}
    return {k: bootstrap.difference(me, reference, [k]).estimate() for k in bootstrap.kinds}


def _retention(bootstrap: Bootstrap, me: int, at: dict[str, int]) -> Estimate | None:
    if FULL not in at or BLIND not in at:
        return None
    draws: Draws | None = bootstrap.retention(me, at[FULL], at[BLIND])
    return None if draws is None else draws.estimate()


def _hard(bootstrap: Bootstrap, me: int, at: dict[str, int]) -> Subset | None:
    """None for the two settings that define the subset."""
    if FULL not in at or DOWNSAMPLE not in at or me in (at[FULL], at[DOWNSAMPLE]):
        return None
    values = bootstrap.values >= RIGHT
    return on_subset(values[me], hard_subset(values[at[FULL]], values[at[DOWNSAMPLE]]))


def _keeps(measured: Sequence[Measured]) -> list[str | None]:
    """Keeps from most tokens to fewest; last the pipelines with budgets of their own."""
    tokens: dict[str, list[float]] = {}
    own = False
    for m in measured:
        if m.setting.keep is not None:
            tokens.setdefault(m.setting.keep, []).append(m.average("tokens_kept"))
        else:
            own = own or m.method not in REFERENCES
    keeps = sorted(tokens, key=lambda k: (-float(np.median(np.array(tokens[k]))), k))
    return [*keeps, *([None] if own or not keeps else [])]


def _labels(settings: dict[str, Setting]) -> dict[str, str]:
    """Method of each setting; where one name stands for several at one keep, the pipeline, and then the key too."""
    labels = {key: s.method for key, s in settings.items()}
    for better in (
        {k: s.pipeline for k, s in settings.items()},
        {k: f"{s.pipeline} #{k}" for k, s in settings.items()},
    ):
        places = [(labels[k], settings[k].keep) for k in settings]
        labels = {k: better[k] if places.count((labels[k], s.keep)) > 1 else labels[k] for k, s in settings.items()}
    return labels


def _values(settings: Sequence[Setting], name: str) -> list[str]:
    """Different values of a detail, as text."""
    return sorted({json.dumps(s.details[name], sort_keys=True) for s in settings if name in s.details})


# -- tables and notes --------------------------------------------------------------------------------------------------


def _main_table(section: Section) -> Table:
    heads = ("method", "tokens", "mean %", "accuracy %", "to full", "to downsample", "retention %", "hard %")
    rows = []
    for e in section.entries:
        m = e.measured
        kept, layers = number(m.average("tokens_kept")), number(100 * m.average("mean_keep_ratio"))
        compared = (percent(e.accuracy), points(e.against[FULL]), points(e.against[DOWNSAMPLE]))
        shares = (percent(e.retention, 0), percent(None if e.hard is None else e.hard.estimate, 0))
        times = (number(m.median("prefill"), 2), number(m.median("score", "select"), 2))
        rows.append((e.name, kept, layers, *compared, *shares, *times))
    return Table(f"Accuracy and time, {section.title}", (*heads, "prefill ms", "choose ms"), tuple(rows), (1, 2, 8, 9))


def _type_table(section: Section, kinds: tuple[str, ...]) -> Table:
    rows = [(e.name, *(percent(e.by_type.get(k), 0) for k in kinds)) for e in section.entries]
    return Table(f"Accuracy % by type, {section.title}", ("method", *kinds), tuple(rows))


_DIFFERENCES = {  # title of a table: the differences that it shows
    "What the picture adds: points over blind by type": "contribution",
    "Points over down-sampled pictures by type": "over_downsample",
}


def _difference_table(section: Section, kinds: tuple[str, ...], title: str, differences: str) -> Table:
    shown = [(e.name, getattr(e, differences)) for e in section.entries]
    cells = [(name, *(percent(d.get(k), 0) for k in kinds)) for name, d in shown if d]
    return Table(f"{title}, {section.title}", ("method", *kinds), tuple(cells))


def _notes(measured: Sequence[Measured], comparer: _Comparer) -> list[str]:
    """What was measured and what an interval means."""
    settings = [m.setting for m in measured]
    names = sorted({name for s in settings for name in s.details} - set(NOT_NOTED))
    shared = [f"{n} {_shortened(v[0])}" for n in names if len(v := _values(settings, n)) == 1]
    mixed = [n for n in names if len(_values(settings, n)) > 1]
    notes = [f"same for all settings: {', '.join(shared)}"] if shared else []
    if mixed:
        notes.append(f"different between settings: {', '.join(mixed)}")
    for kinds, numbers in _numbers_by_kinds(comparer).items():
        whole = len(numbers) == numbers[-1] - numbers[0] + 1
        span = f"numbers {numbers[0]} to {numbers[-1]}" + ("" if whole else ", with gaps")
        notes.append(f"{len(numbers)} questions a type of {', '.join(kinds)}; {span}")
    notes += [
        f"intervals: {LEVEL:.0%}, paired bootstrap of questions within their type ({comparer.resamples} resamples, "
        f"seed {comparer.seed}); they cover the choice of questions, not another training of the model; where all "
        "answers are alike they have no width and say little",
        "accuracy is the mean over types, of equal weight; differences are in points, 'better' or 'worse' where the "
        "interval of this one comparison excludes 0, else '='",
        "retention is (accuracy - blind) / (full - blind); hard is the accuracy on what the full model answers "
        "correctly and downsample at the same keep does not, all types together, with Wilson's interval",
        "tokens are those left after the last cut, mean % is their share on the mean over decoder layers, both "
        "averaged over samples; times are medians of milliseconds a sample: reading the prompt, scoring and selecting",
    ]
    return notes


def _notes_on(sections: Sequence[Section]) -> list[str]:
    """What is missing, and what therefore cannot be said."""
    notes: dict[str, None] = {}
    for section in sections:
        sizes = sorted({e.hard.asked for e in section.entries if e.hard is not None})
        if sizes:
            span = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
            notes[f"{section.title}: the hard subset has {span} questions"] = None
        there = {e.measured.method for e in section.entries}
        for name in REFERENCES:
            if name not in there and not (name == DOWNSAMPLE and section.keep is None):
                notes[f"{section.title}: {name} was not measured; nothing is compared with it"] = None
        for e in section.entries:
            if e.num_common < e.num_there:
                lacking = "" if e.accuracy else "; it lacks whole types, so nothing overall is given"
                counts = f"{len(e.measured.records)} records, {e.num_common} of {e.num_there} questions in common"
                notes[f"* {section.title}: {e.measured.label} has {counts} with the references{lacking}"] = None
        if {FULL, BLIND} <= there and any(e.retention is None and e.accuracy for e in section.entries):
            notes[f"{section.title}: no retention, as full is not above blind in every resample"] = None
    return list(notes)


def _numbers_by_kinds(comparer: _Comparer) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Types that share their numbers, with these."""
    numbers = {kind: tuple(sorted(n for k, n in comparer.there if k == kind)) for kind in comparer.kinds}
    return {tuple(k for k in comparer.kinds if numbers[k] == value): value for value in numbers.values()}


def _shortened(text: str) -> str:
    """A detail without quotes; of a digest the first 12 digits."""
    bare = text.strip('"')
    return bare[:12] if len(bare) >= 32 and not set(bare) - set("0123456789abcdef") else bare


def _plain(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else estimate.to_dict()


__all__ = ["Entry", "Section", "Summary", "Table", "collect", "summarize"]
