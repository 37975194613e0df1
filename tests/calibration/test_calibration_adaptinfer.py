"""The fitter of adaptinfer: knots of known curves, attention against a model run by hand, and what is refused."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tessella
from tessella.calibration import adaptinfer
from tessella.calibration.adaptinfer import fitted_knots, text_to_image
from tessella.calibration.fitting import calibrate
from tessella.core.errors import InputError, UnsupportedError
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.samples import Sample
from tessella.testing.random_view import Item, random_view
from tessella.testing.tiny import tiny_llava


def bent(num_layers: int, knots: tuple[int, ...], slopes: tuple[float, ...]) -> np.ndarray:
    """A curve that starts at 0.3 and changes its slope behind each knot."""
    steps = [slopes[sum(layer >= knot for knot in knots)] for layer in range(num_layers - 1)]
    return np.cumsum([0.3, *steps])


@pytest.mark.parametrize("num_layers", [5, 8, 32, 80])
def test_known_knots_are_recovered(num_layers: int) -> None:
    knots = (1, num_layers // 3 + 1, num_layers - 2)
    curve = bent(num_layers, knots, (0.7, 0.2, 0.05, 0.3))
    assert fitted_knots(curve, 3) == knots
    noise = 1e-4 * np.random.default_rng(0).standard_normal(num_layers)
    assert fitted_knots(curve + noise, 3) == knots


def test_the_papers_layers() -> None:
    """Dense shifts behind layers 1, 10 and 20 of 32 lead to cuts in front of 2, 11 and 21."""
    assert fitted_knots(bent(32, (1, 10, 20), (0.6, 0.1, 0.25, 0.08)), 3) == (1, 10, 20)
    assert tuple(map(int, make("adaptinfer").layers)) == (2, 11, 21)  # type: ignore[attr-defined]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=9), st.integers(1, 3))
def test_no_other_knots_fit_better(mass: list[float], num_knots: int) -> None:
    curve = np.cumsum(mass)
    x = np.arange(len(curve))

    def misfit(knots: tuple[int, ...]) -> float:
        design = np.stack([np.ones(len(x)), x, *(np.maximum(x - k, 0) for k in knots)], axis=1)
        return float(((curve - design @ np.linalg.lstsq(design, curve, rcond=None)[0]) ** 2).sum())

    found = fitted_knots(curve, num_knots)
    least = min(misfit(knots) for knots in combinations(range(1, len(x) - 1), num_knots))
    assert misfit(found) <= least + 1e-6 * (curve @ curve) + 1e-12


def test_a_line_has_its_knots_first() -> None:
    assert fitted_knots(np.arange(6.0), 2) == (1, 2)


def test_attention_of_text_behind_the_picture() -> None:
    view = random_view([Item(4, 5, seed=1), Item(2, 3, seed=2)], Captures(decoder=(4,)))
    rows = view.attention_rows(4, "text")
    for b, count in enumerate((20, 6)):
        want = rows[b, :, 3:, :count].sum(dim=2).mean()  # three tokens of text in front of the picture
        torch.testing.assert_close(text_to_image(view, 4)[b], want)
    bare = random_view([Item(4, 5, seed=1)], Captures(decoder=(4,)))
    bare.places = lambda of: torch.tensor([[30]] if of == "visual" else [[0, 1, -1, -1, -1, -1, -1, -1]])  # type: ignore[method-assign]
    assert text_to_image(bare, 4).tolist() == [-1.0]


def samples(count: int, pictures: int = 1) -> list[Sample]:
    generator = np.random.default_rng(0)
    drawn = [Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]
    return [Sample((image,) * pictures, f"what color is shape {n}?") for n, image in enumerate(drawn)]


def test_fitted_to_the_embedded_model() -> None:
    """The recipe holds the attention of every layer, and its layers are those behind the knots."""
    model, processor = tessella.load("mini")
    seen: list[tuple[int, int]] = []
    recipe = calibrate(
        model, processor, "adaptinfer", samples(17), advance=lambda done, of: seen.append((done, of)), batch=4
    )
    mass, knots = recipe.evidence["text_to_image"], recipe.evidence["knots"]
    assert len(mass) == 8
    assert all(0 < m < 1 for m in mass)
    assert tuple(knots) == fitted_knots(np.cumsum(mass), 3)
    assert recipe.settings == {"layers": tuple(k + 1 for k in knots)}
    assert seen == [(4, 17), (8, 17), (12, 17), (16, 17), (17, 17)]
    alone = calibrate(model, processor, "adaptinfer", samples(17), batch=17)
    np.testing.assert_allclose(alone.evidence["text_to_image"], mass, atol=1e-5)
    fitted: Any = make("adaptinfer", **recipe.settings)
    with tessella.reduce(model, fitted, keep=16) as run:
        assert run.pipeline.parts[0].method.layers == recipe.settings["layers"]


def test_as_many_knots_as_the_method_has_cuts() -> None:
    model, processor = tessella.load("mini")
    method = make("adaptinfer", layers=(2, 5), ratios=(0.5, 0.1))
    recipe = calibrate(model, processor, method, samples(16))
    assert len(recipe.settings["layers"]) == 2
    assert recipe.settings["ratios"] == (0.5, 0.1)


def test_what_is_refused() -> None:
    model, processor = tessella.load("mini")
    assert adaptinfer.MIN_SAMPLES == 16
    with pytest.raises(InputError, match="needs at least 16 samples; got 15"):
        calibrate(model, processor, "adaptinfer", samples(15))
    with pytest.raises(InputError, match="none of the 16 samples has both"):
        calibrate(model, processor, "adaptinfer", [dataclasses.replace(s, images=()) for s in samples(16)])
    with pytest.raises(UnsupportedError, match="3 knots inside a curve need 5 layers; this model has 4"):
        calibrate(tiny_llava(num_layers=4), processor, "adaptinfer", samples(16))
