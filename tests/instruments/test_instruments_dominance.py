"""Modality dominance: the indices on numbers made up, and what is read against eager attention matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tessella
from instrument_samples import noise_samples
from tessella.core.errors import InputError
from tessella.instruments.answer_attention import AnswerAttention
from tessella.instruments.dominance import (
    dominance_index,
    draw_dominance,
    efficiency_index,
    explain_dominance,
    layer_groups,
    measure_dominance,
)
from tessella.samples import batches
from tessella.testing.families import tiny_family

rng = np.random.default_rng(0)


def test_uniform_attention_is_balanced():
    text, visual = np.array([1, 5, 30]), np.array([7, 5, 576])
    share_text, share_visual = text / (text + visual), visual / (text + visual)
    assert dominance_index(share_text, share_visual, text, visual) == pytest.approx(1)
    assert efficiency_index(share_text, share_visual, text, visual) == pytest.approx(1)
    assert efficiency_index(share_visual, share_text, visual, text) == pytest.approx(1)


def test_dominance_is_the_ratio_of_efficiencies_and_doubles_with_the_text():
    text, visual = rng.random(20), rng.random(20)
    num_text, num_visual = rng.integers(1, 40, 20), rng.integers(1, 600, 20)
    mdi = dominance_index(text, visual, num_text, num_visual)
    ratio = efficiency_index(text, visual, num_text, num_visual) / efficiency_index(visual, text, num_visual, num_text)
    np.testing.assert_allclose(mdi, ratio, rtol=1e-6)
    whole = 2 * text + visual
    np.testing.assert_allclose(dominance_index(2 * text / whole, visual / whole, num_text, num_visual), 2 * mdi)


def test_without_visual_tokens_there_is_no_index():
    assert np.isnan(dominance_index(np.array([1.0]), np.array([0.0]), np.array([3]), np.array([0])))


def test_groups_of_layers():
    assert layer_groups(8) == {"early": (0, 1), "middle": (3, 4), "late": (6, 7)}
    assert layer_groups(2) == {"early": (0, 1), "middle": (0, 1), "late": (0, 1)}
    assert layer_groups(1) == {"early": (0,), "middle": (0,), "late": (0,)}


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_masses_are_those_of_whole_attention_matrices(name):
    family = tiny_family(name)
    model, processor = family.model(), family.processor()
    ((_, inputs),) = batches(model, processor, noise_samples(2, family.sizes))
    with tessella.reduce(model, "none") as run, AnswerAttention(model, (0, 3)) as watch:
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    masses = watch.masses(inputs, out, run.layout)
    eager = family.model(attention="eager")
    told = eager.generate(
        **inputs, max_new_tokens=4, do_sample=False, output_attentions=True, return_dict_in_generate=True
    )
    assert torch.equal(told.sequences, out)
    length = inputs["input_ids"].shape[1]
    is_visual = inputs["input_ids"] == model.config.image_token_id
    real = inputs["attention_mask"].bool()
    first = real.long().argmax(dim=1)
    for column, layer in enumerate((0, 3)):
        held = [step[layer].mean(dim=1)[:, 0] for step in told.attentions[1:]]  # a sliding layer holds the end
        wide = [torch.nn.functional.pad(r, (length + n - r.shape[1], 0)) for n, r in enumerate(held, start=1)]
        rows = sum(r[:, :length] for r in wide)  # [B, S]
        seen = wide[0][:, :length] > 0
        text, visual = (rows * (real & ~is_visual)).sum(dim=1), (rows * is_visual).sum(dim=1)
        np.testing.assert_allclose(masses.text[:, column], (text / (text + visual)).numpy(), atol=1e-5)
        np.testing.assert_allclose(masses.visual[:, column], (visual / (text + visual)).numpy(), atol=1e-5)
        without = text - rows.gather(1, first[:, None])[:, 0]
        np.testing.assert_allclose(masses.text_without_first[:, column], (without / (text + visual)).numpy(), atol=1e-5)
        assert masses.num_text[:, column].tolist() == (seen & ~is_visual).sum(dim=1).tolist()
        assert masses.num_visual[:, column].tolist() == (seen & is_visual).sum(dim=1).tolist()
        there = seen.gather(1, first[:, None])[:, 0].long()
        assert (masses.num_text - masses.num_text_without_first)[:, column].tolist() == there.tolist()
    assert masses.num_rows.tolist() == [3, 3]


def test_rows_end_with_the_answer():
    family = tiny_family("llava")
    model, processor = family.model(), family.processor()
    ((_, inputs),) = batches(model, processor, noise_samples(2, family.sizes))
    length = inputs["input_ids"].shape[1]
    first, second = model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, length:].tolist()
    end = next(token for token in first[1:] if token not in second)
    model.generation_config.eos_token_id = end
    with tessella.reduce(model, "none") as run, AnswerAttention(model, (0,)) as watch:
        out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert watch.masses(inputs, out, run.layout).num_rows.tolist() == [first.index(end), 4]


def test_each_layer_counts_the_tokens_that_it_holds():
    family = tiny_family("llava")
    model, processor = family.model(), family.processor()
    measured = measure_dominance(
        model, processor, noise_samples(3, family.sizes), ["fastv@2:4", "blind"], batch=2, max_new_tokens=3
    )
    full, fastv, blind = measured.methods
    assert (full.method, fastv.method, blind.method) == ("none", "fastv@2:4", "blind")
    assert {n: i.num_visual for n, i in full.layers.items()} == {0: 16, 1: 16, 2: 16, 3: 16}
    assert {n: i.num_visual for n, i in fastv.layers.items()} == {0: 16, 1: 16, 2: 4, 3: 4}
    assert blind.overall.mdi is None
    assert blind.overall.visual_share == 0
    assert full.overall.aei_text is not None
    assert full.overall.low <= full.overall.mdi <= full.overall.high
    note = explain_dominance(measured)
    assert "MDI falls by itself when visual tokens are removed" in note.limits
    assert "Under blind: no number of times (no visual token is left)" in note.seen
    figure = draw_dominance(measured)
    late = next(line for line in figure.axes[0].lines if line.get_label() == "late layers")
    np.testing.assert_allclose(late.get_xdata(), [full.groups["late"].mdi, fastv.groups["late"].mdi])


def test_methods_that_read_other_pictures_are_left_out():
    model, processor = tessella.load("mini")
    from tessella.samples import load_samples

    measured = measure_dominance(model, processor, load_samples("mini:2"), ["downsample:49"])
    assert [m.method for m in measured.methods] == ["none"]
    assert measured.left_out == {"downsample:49": "it reads other pictures than the prompt's"}


def test_answers_without_rows_are_refused():
    family = tiny_family("llava")
    with pytest.raises(InputError, match="no answer is longer than its last token"):
        measure_dominance(family.model(), family.processor(), noise_samples(1, family.sizes), max_new_tokens=1)
