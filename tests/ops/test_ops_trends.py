"""Trends along a raster: recovered from noisy scores, read at other lengths, never rising when divided out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessella.core.layout import Block, Layout
from tessella.ops.trends import falling_weights, fit_trend, raster_share, read_curve, trend

PLACES = torch.arange(576, dtype=torch.float64)
RELEASED = (3.0152e-3, -1.4598e-5, 2.5691e-8)  # the cubic of FastV


@pytest.mark.parametrize("b", [4.0506e-3, 3.1467e-3, 1.7148e-3])
def test_an_exponent_is_recovered_from_500_noisy_samples(b: float) -> None:
    noise = torch.randn(500, 576, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean = ((0.05 * noise).exp() * trend("exp", (b,), PLACES) * 1e-3).mean(dim=0)
    assert fit_trend("exp", mean)[0] == pytest.approx(b, rel=1e-3)


def test_a_cubic_is_recovered() -> None:
    fitted = fit_trend("cubic", 2e-3 * trend("cubic", RELEASED, PLACES))
    assert fitted == pytest.approx(RELEASED, rel=1e-8)


def test_places_without_a_score_say_nothing() -> None:
    mean = trend("exp", (0.01,), torch.arange(40, dtype=torch.float64))
    mean[[3, 17]] = math.nan
    mean[5] = 0  # no logarithm
    assert fit_trend("exp", mean)[0] == pytest.approx(0.01, rel=1e-9)
    cubic = trend("cubic", RELEASED, PLACES)
    cubic[[0, 40]] = math.nan
    assert fit_trend("cubic", cubic) == pytest.approx(RELEASED, rel=1e-7)


def test_falling_scores_have_no_exponent() -> None:
    assert fit_trend("exp", trend("exp", (-0.01,), PLACES)) == (0.0,)


@pytest.mark.parametrize(
    ("form", "mean", "message"),
    [
        ("cubic", torch.tensor([1.0, 2.0, 3.0]), "3 places with a score; the form 'cubic' needs 4"),
        ("exp", torch.zeros(9), "0 places with a score; the form 'exp' needs 2"),
        ("cubic", torch.linspace(1, -1, 9), "the cubic through the mean scores is not above 0 at every place"),
    ],
)
def test_what_cannot_be_fitted_is_named(form: str, mean: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_trend(form, mean)


@given(first=st.floats(-0.01, 0.05), second=st.floats(-1e-4, 1e-3), length=st.integers(1, 60))
def test_weights_never_rise(first: float, second: float, length: int) -> None:
    weights = falling_weights("cubic", (first, second, 0.0), length)
    assert float(weights[0]) == 1.0
    assert bool((weights.diff() <= 0).all())


def test_weights_are_the_trend_turned_over_where_it_rises() -> None:
    torch.testing.assert_close(falling_weights("exp", (0.004,), 576), (-0.004 * PLACES).exp())
    torch.testing.assert_close(falling_weights("cubic", RELEASED, 576) * trend("cubic", RELEASED, PLACES), PLACES**0)


@pytest.mark.parametrize("length", [1, 2, 196, 576, 1000])
def test_a_curve_is_read_at_the_relative_index(length: int) -> None:
    curve = PLACES**2
    got = read_curve(curve, torch.arange(length, dtype=torch.float64) / max(length - 1, 1))
    for i in range(length):
        place = i * 575 / max(length - 1, 1)
        low = int(place)
        want = low**2 + (place - low) * (min(low + 1, 575) ** 2 - low**2)
        assert float(got[i]) == pytest.approx(want, abs=1e-6)


def test_each_grid_has_its_own_raster() -> None:
    blocks = [Block(0, 2, 3, newlines=True), Block(0, 1, 2, tile=1), Block(1, 1, 1)]
    layout = Layout.build([range(11)], [blocks])
    assert raster_share(layout)[0].tolist() == pytest.approx([0, 0.2, 0.4, -1, 0.6, 0.8, 1, -1, 0, 1, 0], abs=1e-12)


def test_what_is_left_keeps_its_place_and_padding_has_none() -> None:
    layout = Layout.single(2, 3, 3).gather(torch.tensor([[1, 4, 8], [6, -1, -1]]), (0, 1))
    assert raster_share(layout).tolist() == [[0.125, 0.5, 1.0], [0.75, -1.0, -1.0]]


def test_a_lone_newline_does_not_hide_the_grid_in_front_of_it() -> None:
    layout = Layout.build([range(5)], [[Block(0, 2, 2), Block(0, 1, 0, newlines=True)]])
    assert raster_share(layout)[0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, -1])
