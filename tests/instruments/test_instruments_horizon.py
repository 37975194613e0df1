"""The information horizon: against a prompt of text alone, and by its rule on numbers made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from instrument_samples import noise_samples
from tessella.core.errors import InputError
from tessella.instruments.horizon import draw_horizon, explain_horizon, first_lasting, measure_horizon, summarise
from tessella.samples import Sample, batches
from tessella.testing.families import tiny_family


@pytest.fixture(scope="module")
def llava():
    family = tiny_family("llava")
    return family.model(), family.processor()


def test_layer_0_is_the_text_alone_in_its_place(llava):
    model, processor = llava
    samples = noise_samples(1, ((28, 28),))
    ((_, inputs),) = batches(model, processor, samples)
    with torch.no_grad():
        full = model(**inputs).logits[0, -1].softmax(dim=0)
        text = (inputs["input_ids"][0] != model.config.image_token_id).nonzero()[:, 0]
        assert len(text) == len(inputs["input_ids"][0]) - 16
        alone = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(inputs["input_ids"][:, text]),
            position_ids=text[None],
            attention_mask=torch.ones(1, len(text)),  # else gaps pass for packed prompts
        )
        without = model.lm_head(alone.last_hidden_state)[0, -1].softmax(dim=0)
    token = full.argmax()
    horizon = measure_horizon(model, processor, samples)
    assert horizon.overall.change[0] == pytest.approx(float(without[token] - full[token]), abs=1e-6)
    assert horizon.overall.probability_full == pytest.approx(float(full[token]), abs=1e-6)
    assert (horizon.num_own, horizon.num_layers, horizon.kinds) == (1, 4, ())
    assert abs(horizon.overall.change[0]) > 1e-3


def test_answers_that_are_given_are_looked_at(llava):
    model, processor = llava
    samples = noise_samples(1, ((28, 28),), answer="dog")
    ((_, inputs),) = batches(model, processor, samples)
    with torch.no_grad():
        full = model(**inputs).logits[0, -1].softmax(dim=0)
    horizon = measure_horizon(model, processor, samples)
    dog = processor.tokenizer("dog", add_special_tokens=False)["input_ids"][0]
    assert horizon.overall.probability_full == pytest.approx(float(full[dog]), abs=1e-6)
    assert (horizon.num_own, horizon.overall.right_full) == (0, 0.0)
    unknown = measure_horizon(model, processor, noise_samples(1, ((28, 28),), answer="zebra"))
    assert (unknown.num_own, unknown.overall.right_full) == (1, 1.0)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_sample_counts_the_same_alone_and_in_a_batch(name):
    family = tiny_family(name)
    model, processor = family.model(), family.processor()
    samples = noise_samples(3, family.sizes)
    together = measure_horizon(model, processor, samples, batch=3)
    apart = measure_horizon(model, processor, samples, batch=1)
    np.testing.assert_allclose(together.overall.change, apart.overall.change, atol=1e-5)
    assert [(k.kind, k.num) for k in together.kinds] == [("even", 2), ("odd", 1)]
    one = measure_horizon(model, processor, samples[1:2])
    np.testing.assert_allclose(one.overall.change, together.kinds[1].change, atol=1e-5)


def test_the_horizon_needs_a_small_mean_and_a_small_deviation():
    change = np.array([[-0.5, 0.009, 0.05, 0.0], [-0.5, -0.009, -0.05, 0.001]])
    right = np.array([[False, True, False, True], [False, True, True, True]])
    kind = summarise("all", change, right, np.array([0.9, 0.7]), np.array([True, True]), eps=0.01)
    assert kind.change == pytest.approx((-0.5, 0.0, 0.0, 0.0005))
    assert kind.size == pytest.approx((0.5, 0.009, 0.05, 0.0005))
    assert kind.std == pytest.approx((0.0, 0.009, 0.05, 0.0005))
    assert (kind.horizon, kind.answer_horizon, kind.right) == (3, 3, (0.0, 1.0, 0.5, 1.0))
    assert kind.probability_full == pytest.approx(0.8)
    assert all(a <= m <= b for a, m, b in zip(kind.low, kind.change, kind.high, strict=True))
    assert kind.low[2] == pytest.approx(-0.05)


def test_few_samples_that_still_change_are_no_horizon():
    change = np.zeros((100, 2))
    change[0] = (0.0, 0.5)  # a mean of 0.005 with a deviation of 0.05
    ones = np.ones((100, 2), dtype=bool)
    kind = summarise("all", change, ones, np.ones(100), ones[:, 0], eps=0.01)
    assert (kind.size[1], kind.horizon, kind.answer_horizon) == (pytest.approx(0.005), 2, 0)


def test_a_last_layer_that_matters_is_no_horizon():
    assert first_lasting(np.array([True, True, False])) == 3
    assert first_lasting(np.array([True, True])) == 0


def test_figure_and_words(llava):
    model, processor = llava
    horizon = measure_horizon(model, processor, noise_samples(2, ((28, 28),)))
    figure = draw_horizon(horizon)
    assert [a.get_title(loc="left").split(":")[0] for a in figure.axes if a.get_visible()] == [
        "all (n = 2)",
        "even (n = 1)",
        "odd (n = 1)",
    ]
    line = next(x for x in figure.axes[0].lines if x.get_label() == "mean change")
    np.testing.assert_allclose(line.get_ydata(), horizon.overall.change)
    note = explain_horizon(horizon)
    assert f"changes it by {horizon.overall.change[0]:+.2f}" in note.seen
    assert "For 2 samples that was the model's own answer." in note.how


@pytest.mark.parametrize(
    ("samples", "eps", "message"),
    [
        ([], 0.01, "there are no samples"),
        ([Sample((), "what ?")], 0.01, "sample 0 has no picture"),
        (noise_samples(1, ((28, 28),)), 0.0, "eps must be above 0, such as 0.01; got 0.0."),
    ],
)
def test_bad_input(llava, samples, eps, message):
    with pytest.raises(InputError, match=message):
        measure_horizon(*llava, samples, eps=eps)
