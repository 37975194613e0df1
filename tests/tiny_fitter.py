"""A fitter of fastv's layer that reads every sample and fits nothing, for tests of what is around fitters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import tessella.calibration

SOURCE = """
from tessella.calibration.job import Fit
from tessella.samples import batches

MIN_SAMPLES = 4
OPTIONS = ("layer", "package", "stop_at")
USES_KEEP = {uses_keep}


def fit(method, job):
    if "package" in job.options:
        __import__(job.options["package"])
    rows = []
    for number, (some, inputs) in enumerate(batches(job.model, job.processor, job.samples, job.batch)):
        if number == job.options.get("stop_at"):
            raise KeyboardInterrupt
        rows.append(len(inputs["input_ids"]))
        job.advance(sum(rows), len(job.samples))
    layer = job.options.get("layer", int(method.at_layer))
    return Fit({{"at_layer": layer}}, {{"rows": rows, "mean": 0.1 + 0.2}}, job.budget)
"""


def install_tiny_fitter(monkeypatch: pytest.MonkeyPatch, folder: Path, uses_keep: bool = False) -> None:
    """Put the fitter beside the others until the test ends."""
    place = folder / f"fitters_{uses_keep}"
    place.mkdir()
    (place / "fastv.py").write_text(SOURCE.format(uses_keep=uses_keep))
    package = tessella.calibration
    monkeypatch.setattr(package, "__path__", [str(place), *package.__path__])
    monkeypatch.setattr(package, "fastv", None, raising=False)  # the import sets it; forgotten with the test
    monkeypatch.setitem(sys.modules, "tessella.calibration.fastv", None)
    del sys.modules["tessella.calibration.fastv"]
