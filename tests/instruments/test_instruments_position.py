"""Position bias: against eager attention matrices, and on curves made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from instrument_samples import noise_samples
from tessella.core.errors import InputError
from tessella.instruments import position
from tessella.instruments.position import (
    default_layers,
    draw_position,
    end_over_start,
    explain_position,
    measure_position,
    on_one_grid,
    smooth,
)
from tessella.samples import Sample, batches
from tessella.testing.families import tiny_family


def test_the_last_layer_of_a_model_with_two_kinds_of_positions_can_be_watched():
    family = tiny_family("gemma3")
    measured = measure_position(family.model(), family.processor(), noise_samples(2, family.sizes), layers=(3,))
    assert [(b.layer, b.queries, len(b.curve)) for b in measured.biases] == [(3, "last", 16), (3, "text", 16)]


def test_a_window_that_does_not_reach_the_picture():
    nothing, end = np.zeros(8), np.zeros(8)
    end[-1] = 0.5
    for curve, shown in ((nothing, (0,) * 8), (end, (0,) * 7 + (8,))):
        bias = position._summarise(1, "last", rows_of([curve, curve]), [np.zeros(8, dtype=bool)] * 2, seed=0)
        assert bias.end_over_start is None
        assert bias.curve == shown
        assert (bias.sinks, bias.num_sinks) == (0, 0)
        measured = position.Position(2, 1, 1, 0, (bias,))
        assert "the first quarter of the picture gets none; 0.0 sinks" in explain_position(measured).seen


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_curves_are_rows_of_whole_attention_matrices(name):
    family = tiny_family(name)
    processor = family.processor()
    samples = noise_samples(3, family.sizes[:1])
    measured = measure_position(family.model(), processor, samples, layers=(2,), batch=2)
    eager = family.model(attention="eager")
    want: dict[str, list[np.ndarray]] = {"last": [], "text": []}
    visual, first = [], []
    for _, inputs in batches(eager, processor, samples, 1):
        with torch.no_grad():
            rows = eager(**inputs, output_attentions=True).attentions[2][0].mean(dim=0).double().numpy()
        is_visual = (inputs["input_ids"][0] == eager.config.image_token_id).numpy()
        end = np.flatnonzero(is_visual)[-1]
        want["last"].append(rows[-1, is_visual])
        want["text"].append(rows[end + 1 :, is_visual].mean(axis=0))
        visual.append(rows[-1, is_visual].sum())
        first.append(rows[-1, 0])
    for bias in measured.biases:
        shown = np.mean(want[bias.queries][::2], axis=0)
        np.testing.assert_allclose(bias.curve, shown / shown.mean(), rtol=1e-4)
    last = next(b for b in measured.biases if b.queries == "last")
    assert last.visual == pytest.approx(np.mean(visual), rel=1e-4)
    assert last.first_token == pytest.approx(np.mean(first), rel=1e-4)
    assert (measured.num, measured.num_fitted, measured.num_shown, measured.num_padded) == (3, 1, 2, 0)


def rows_of(curves: list[np.ndarray]) -> position._Rows:
    return position._Rows(curves, [0.5] * len(curves), [float("nan")] * len(curves))


def test_a_curve_that_is_its_trend_is_flat_when_divided_by_it():
    places = np.arange(40)
    curves = [scale * np.exp(0.02 * places) for scale in (0.1, 0.2, 0.1, 0.2)]
    bias = position._summarise(1, "last", rows_of(curves), [np.zeros(40, dtype=bool)] * 4, seed=0)
    exp = next(c for c in bias.corrected if c.form == "exp")
    assert exp.coefficients == pytest.approx((0.02,))
    assert exp.curve == pytest.approx([1.0] * 40)
    assert exp.end_over_start == pytest.approx(1)
    assert bias.end_over_start == pytest.approx(np.exp(0.02 * 30))
    assert (bias.first_token, bias.padding) == (None, None)


def test_sinks_and_padding_are_shares_of_visual_attention():
    even, sink = np.full(20, 0.01), np.full(20, 0.01)
    sink[3] = 0.81
    padded = np.arange(20) < 5
    bias = position._summarise(1, "last", rows_of([even, sink]), [padded, np.zeros(20, dtype=bool)], seed=0)
    assert bias.num_sinks == 0.5
    assert bias.sinks == pytest.approx(0.81 / 2)
    assert (bias.padding, bias.padding_tokens) == (pytest.approx(0.25), 0.25)


def test_a_picture_that_was_padded_is_known_by_its_pixels():
    family = tiny_family("llava")
    processor = family.processor()
    mean = tuple(round(255 * m) for m in processor.image_processor.image_mean)
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    noise[:7] = mean
    samples = [Sample((Image.fromarray(noise),), "what is this ?"), noise_samples(1, ((28, 28),))[0]]
    measured = measure_position(family.model(), processor, samples)
    assert measured.num_padded == 1
    assert {b.padding_tokens for b in measured.biases} == {0.25}
    assert "1 of 2 pictures have padding" in explain_position(measured).seen
    assert "padding, 25% of the tokens, takes " in explain_position(measured).seen


def test_curves_of_other_lengths_meet_at_relative_places():
    on_grid = on_one_grid([np.array([1.0, 2.0]), np.array([1.0, 1.0, 1.0])])
    np.testing.assert_allclose(on_grid, [[2, 3, 4], [3, 3, 3]])
    assert end_over_start(np.array([1.0, 1.0, 1.0, 4.0])) == 4.0
    np.testing.assert_allclose(smooth([2.0] * 50), 2.0)
    assert (default_layers(8), default_layers(1)) == ((1, 4, 7), (0,))


def test_figure():
    family = tiny_family("llava")
    measured = measure_position(family.model(), family.processor(), noise_samples(2, ((28, 28),)), layers=(3, 1))
    figure = draw_position(measured)
    assert [a.get_title(loc="left") for a in figure.axes] == [
        "layer 1, last token",
        "layer 1, text behind the picture",
        "layer 3, last token",
        "layer 3, text behind the picture",
    ]


@pytest.mark.parametrize(
    ("count", "layers", "message"),
    [
        (1, None, "needs at least 2 samples"),
        (2, (4,), "there is no decoder layer 4; this model has 4: 0 to 3."),
        (2, (), "name at least one decoder layer; this model has 0 to 3."),
    ],
)
def test_bad_input(count, layers, message):
    family = tiny_family("llava")
    with pytest.raises(InputError, match=message):
        measure_position(family.model(), family.processor(), noise_samples(count, ((28, 28),)), layers=layers)
