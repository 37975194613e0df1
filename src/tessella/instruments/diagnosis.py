"""All instruments on one model, with the words and figures of a page."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, TessellaError, UnsupportedError
from ..core.pipeline import Pipeline
from ..engine.apply import can_apply, reduce
from ..samples import Sample
from . import dominance, horizon, overlap, position, regions, spectrum
from .figures import Note
from .kept import KeptSets, read_kept
from .sampling import Advance, check_samples, silent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_METHODS = ("hiprune", "divprune", "fastv", "feather", "uniform", "random")
STEPS = 100  # of progress, for each instrument


@dataclass(frozen=True)
class Subject:
    """What is looked at, and how. `advance` belongs to the instrument at work."""

    model: Any
    processor: Any
    samples: Sequence[Sample]
    pipelines: Sequence[Pipeline]
    batch: int
    seed: int

    @cached_property
    def kept(self) -> KeptSets:
        """What the pipelines keep: read once for all instruments that ask."""
        return read_kept(self.model, self.processor, self.samples, self.pipelines, batch=self.batch)

    @property
    def basics(self) -> tuple[Any, Any, Sequence[Sample]]:
        return self.model, self.processor, self.samples


@dataclass(frozen=True)
class Instrument:
    """How something is measured, drawn and put into words."""

    measure: Callable[[Subject, Advance], Any]
    draw: Callable[[Any], Figure]
    explain: Callable[[Any], Note]


def _horizon(subject: Subject, advance: Advance) -> horizon.Horizon:
    return horizon.measure_horizon(*subject.basics, batch=subject.batch, seed=subject.seed, advance=advance)


def _position(subject: Subject, advance: Advance) -> position.Position:
    return position.measure_position(*subject.basics, batch=subject.batch, seed=subject.seed, advance=advance)


def _dominance(subject: Subject, advance: Advance) -> dominance.Dominance:
    return dominance.measure_dominance(
        *subject.basics, subject.pipelines, batch=subject.batch, seed=subject.seed, advance=advance
    )


def _spectrum(subject: Subject, advance: Advance) -> spectrum.Spectrum:
    return spectrum.spectrum_of(subject.kept, *subject.basics, batch=subject.batch, seed=subject.seed, advance=advance)


INSTRUMENTS: dict[str, Instrument] = {
    "horizon": Instrument(_horizon, horizon.draw_horizon, horizon.explain_horizon),
    "position": Instrument(_position, position.draw_position, position.explain_position),
    "dominance": Instrument(_dominance, dominance.draw_dominance, dominance.explain_dominance),
    "spectrum": Instrument(_spectrum, spectrum.draw_spectrum, spectrum.explain_spectrum),
    "overlap": Instrument(lambda s, _: overlap.overlap_of(s.kept), overlap.draw_overlap, overlap.explain_overlap),
    "regions": Instrument(lambda s, _: regions.regions_of(s.kept), regions.draw_regions, regions.explain_regions),
}


@dataclass(frozen=True)
class Finding:
    """What one instrument found, and the words that go with it."""

    instrument: str
    measured: Any
    note: Note

    def draw(self) -> Figure:
        return INSTRUMENTS[self.instrument].draw(self.measured)


@dataclass(frozen=True)
class Diagnosis:
    """All findings; `left_out` says why an instrument or a default method has none."""

    num_samples: int
    methods: tuple[str, ...]
    findings: tuple[Finding, ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "samples": self.num_samples,
            "methods": list(self.methods),
            "left_out": self.left_out,
            "instruments": {f.instrument: {"note": asdict(f.note), **f.measured.to_dict()} for f in self.findings},
        }


def read_instruments(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names of instruments from a text with commas; None stays None. Raises InputError with the closest one."""
    if names is None:
        return None
    wanted = [n.strip() for n in (names.split(",") if isinstance(names, str) else names)]
    for name in wanted:
        if name not in INSTRUMENTS:
            close = difflib.get_close_matches(name, INSTRUMENTS, n=1, cutoff=0.4)
            hint = f" Closest: {close[0]!r}." if close else ""
            raise InputError(f"no instrument {name!r}; allowed: {', '.join(INSTRUMENTS)}.{hint}")
        if wanted.count(name) > 1:
            raise InputError(f"instruments names {name!r} twice.")
    return tuple(name for name in INSTRUMENTS if name in wanted)


def default_methods(model: Any) -> tuple[str, ...]:
    """Those of the methods looked at by default that a model can carry."""
    return tuple(name for name in DEFAULT_METHODS if can_apply(model, name))


def diagnose(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    pipelines: Sequence[Pipeline],
    instruments: Sequence[str] | None = None,
    *,
    batch: int = 8,
    seed: int = 0,
    advance: Advance = silent,
) -> Diagnosis:
    """Take the instruments, by default all, to a model.

    By default an instrument that these samples or methods do not suit is left out with the reason; one that is named
    raises. Raises UnsupportedError for a method that the model cannot carry, InputError for samples without pictures.
    """
    check_samples(samples)
    if batch < 1:
        raise InputError(f"batch must be at least 1; got {batch}.")
    for pipeline in pipelines:
        reduce(model, pipeline, processor=processor)  # refuses here what the model cannot carry
    names = read_instruments(instruments)
    chosen = tuple(INSTRUMENTS) if names is None else names
    subject = Subject(model, processor, samples, tuple(pipelines), batch, seed)
    findings: list[Finding] = []
    left_out: dict[str, str] = {}
    for number, name in enumerate(chosen):
        start = number * STEPS

        def within(done: int, of: int, start: int = start) -> None:
            advance(start + STEPS * done // of, STEPS * len(chosen))

        try:
            measured = INSTRUMENTS[name].measure(subject, within)
        except (InputError, UnsupportedError) as error:
            if names is not None:
                raise
            left_out[name] = str(error)
            continue
        findings.append(Finding(name, measured, INSTRUMENTS[name].explain(measured)))
        advance(start + STEPS, STEPS * len(chosen))
    if not findings:
        raise _nothing(left_out)
    return Diagnosis(len(samples), tuple(str(p) for p in pipelines), tuple(findings), left_out)


def _nothing(left_out: dict[str, str]) -> TessellaError:
    name, reason = next(iter(left_out.items()))
    return InputError(f"no instrument can be used here; {name}: {reason}")
