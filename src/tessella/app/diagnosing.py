"""The whole job of `tessella diagnose`: check, read the samples, load the model, measure, write page and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.budget import Budget, parse_keep
from ..core.errors import InputError
from ..core.pipeline import Pipeline
from ..instruments.diagnosis import DEFAULT_METHODS, Diagnosis, default_methods, diagnose, read_instruments
from ..instruments.figures import check_matplotlib
from ..instruments.page import diagnosis_page
from ..pictures.saving import check_target, save_bytes
from ..samples import load_samples, name_data
from .answering import read_methods
from .jobs import to_json
from .source import Source

KEEP = "1/4"


@dataclass(frozen=True)
class Request:
    """What to look at, on which samples; see `instruments.diagnosis.diagnose`. Without `methods` a few usual ones."""

    data: str
    methods: str | None = None
    keep: str = KEEP
    instruments: str | None = None
    limit: int | None = None
    seed: int = 0
    batch: int = 8

    def check(self) -> list[Pipeline] | None:
        """Everything that can be checked without the model; the pipelines that are named."""
        read_instruments(self.instruments)
        Budget(parse_keep(self.keep))
        if self.batch < 1:
            raise InputError(f"batch must be at least 1; got {self.batch}.")
        return None if self.methods is None else read_methods(self.methods, self.keep)


@dataclass(frozen=True)
class Report:
    """A diagnosis and what it is of."""

    diagnosis: Diagnosis
    model: str
    data: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        from .. import __version__

        about = {"tessella": __version__, "model": self.model, "data": self.data, "seed": self.seed}
        return about | self.diagnosis.to_dict()

    def save(self, page: Path) -> None:
        """Write the page, and the numbers beside it; each whole or not at all."""
        facts = {
            "data": f"{self.data}, {self.diagnosis.num_samples} samples",
            "seed": str(self.seed),
            "methods": ", ".join(self.diagnosis.methods),
        }
        numbers = numbers_beside(page)
        text = diagnosis_page(self.diagnosis, f"Diagnosis of {self.model}", facts, numbers.name)
        save_bytes(to_json(self.to_dict()).encode("utf-8"), numbers)
        save_bytes(text.encode("utf-8"), page)


def numbers_beside(page: str | Path) -> Path:
    """The file of numbers that belongs to a page."""
    return Path(page).with_suffix(".json")


def run_diagnosis(
    request: Request, source: Source, html: str | Path | None, advance: Callable[[int, int], None]
) -> Report:
    """Take the instruments to a model and, with `html`, write the page and the numbers beside it.

    Nothing is written before everything is measured. Ctrl-C raises KeyboardInterrupt that says so.
    """
    pipelines = request.check()
    page = None if html is None else check_target(html, (".html", ".htm"))
    if page is not None:
        check_target(numbers_beside(page))
        check_matplotlib()
    samples = load_samples(request.data, request.limit, request.seed)
    model, processor = source.load()
    try:
        if pipelines is None:
            pipelines = usual_pipelines(model, request.keep)
        names = read_instruments(request.instruments)
        diagnosis = diagnose(
            model, processor, samples, pipelines, names, batch=request.batch, seed=request.seed, advance=advance
        )
        report = Report(diagnosis, name_model(source.name), name_data(request.data), request.seed)
        if page is not None:
            report.save(page)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written") from None
    return report


def usual_pipelines(model: Any, keep: str) -> list[Pipeline]:
    """The methods that are looked at by default, as far as the model can carry them."""
    usual = default_methods(model)
    if not usual:
        raise InputError(f"this model can carry none of {', '.join(DEFAULT_METHODS)}; name methods.")
    return read_methods(",".join(usual), keep)


def name_model(name: str) -> str:
    """What to call a model in a page: its last name, which says nothing of a machine's folders; hub ids in full."""
    place = Path(name).expanduser()
    return place.absolute().name if place.exists() else name
