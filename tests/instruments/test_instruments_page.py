"""A whole diagnosis: which instruments are taken, and the page that shows them."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from instrument_samples import noise_samples
from tessella.core.errors import InputError, UnsupportedError
from tessella.core.pipeline import as_pipeline
from tessella.instruments.diagnosis import INSTRUMENTS, default_methods, diagnose, read_instruments
from tessella.instruments.page import diagnosis_page
from tessella.instruments.sampling import mean_interval
from tessella.testing.families import tiny_family


@pytest.fixture(scope="module")
def llava():
    family = tiny_family("llava")
    return family.model(), family.processor()


@pytest.fixture(scope="module")
def diagnosis(llava):
    pipelines = [as_pipeline(t).with_budget(4) for t in ("fastv", "random")]
    steps = []
    done = diagnose(*llava, noise_samples(3, ((28, 28),)), pipelines, advance=lambda *step: steps.append(step))
    assert steps[-1] == (600, 600)
    assert [s for s, _ in steps] == sorted(s for s, _ in steps)
    return done


def test_by_default_all_instruments_are_taken(diagnosis):
    assert [f.instrument for f in diagnosis.findings] == list(INSTRUMENTS)
    assert (diagnosis.left_out, diagnosis.methods, diagnosis.num_samples) == ({}, ("fastv:4", "random:4"), 3)
    told = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert list(told["instruments"]) == list(INSTRUMENTS)
    assert told["instruments"]["horizon"]["overall"]["num"] == 3
    assert told["instruments"]["overlap"]["methods"] == ["fastv:4", "random:4"]
    assert told["instruments"]["regions"]["note"]["title"] == "Regions that are dropped"


def test_the_page_needs_nothing_from_elsewhere(diagnosis):
    page = diagnosis_page(diagnosis, "of <mine>", {"data": "a & b"}, "out.json")
    assert "<h1>of &lt;mine&gt;</h1>" in page
    assert "data: a &amp; b" in page
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,|#|out\.json")[^"]*"', page) == []
    written = re.sub(r"base64,[^\"]+", "", page)  # of a megabyte of letters any four may stand together
    assert not re.search("https?:", written)
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page
    figures = re.findall(r'<img width="(\d+)" height="(\d+)" alt="([^"]+)" src="data:image/png;base64,([^"]+)"', page)
    assert len(figures) == 6
    for width, height, alt, data in figures:
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert abs(picture.width - 2 * int(width)) <= 2
        assert abs(picture.height - 2 * int(height)) <= 2
        assert int(width) < 930
        assert len(alt) > 20
    for heading in ("What is seen", "How it was measured", "What it does not show"):
        assert page.count(f"<dt>{heading}</dt>") == 6
    assert page.count('<li><a href="#') == 6


def test_the_same_measurement_makes_the_same_page(diagnosis):
    assert diagnosis_page(diagnosis, "t", {}) == diagnosis_page(diagnosis, "t", {})


def test_what_does_not_fit_is_left_out_unless_it_is_named(llava):
    one = [as_pipeline("random:4")]
    done = diagnose(*llava, noise_samples(1, ((28, 28),)), one)
    assert set(done.left_out) == {"position", "overlap"}
    assert done.left_out["overlap"] == "an overlap is between two methods or more; got random:4."
    page = diagnosis_page(done, "t", {})
    assert "<h2>Left out</h2>" in page
    with pytest.raises(InputError, match="an overlap is between two methods"):
        diagnose(*llava, noise_samples(1, ((28, 28),)), one, ["overlap"])


def test_methods_that_the_model_cannot_carry_are_refused_first():
    family = tiny_family("qwen2_5_vl")
    model = family.model()
    assert set(default_methods(model)) == {"divprune", "fastv", "feather", "hiprune", "uniform", "random"}
    with pytest.raises(UnsupportedError, match="fastervlm needs a class token"):
        diagnose(model, family.processor(), noise_samples(1, family.sizes), [as_pipeline("fastervlm:4")])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("horizont", "no instrument 'horizont'; allowed: horizon, position, .* Closest: 'horizon'."),
        ("horizon,,", "no instrument ''"),
        ("overlap,overlap", "instruments names 'overlap' twice"),
    ],
)
def test_names_of_instruments(names, message):
    with pytest.raises(InputError, match=message):
        read_instruments(names)
    assert read_instruments("regions, horizon") == ("horizon", "regions")


def test_intervals_hold_the_mean_and_shrink_with_samples():
    values = np.random.default_rng(0).normal(loc=(0, 5), size=(400, 2))
    low, high = mean_interval(values)
    assert (low < values.mean(axis=0)).all()
    assert (high > values.mean(axis=0)).all()
    np.testing.assert_allclose(high - low, 2 * 1.96 / 20, rtol=0.15)
    np.testing.assert_allclose(mean_interval(np.full(5, 3.0)), 3.0)
