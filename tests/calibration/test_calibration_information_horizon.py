"""The fitted horizon: curves from readings by hand, the rule on made-up curves, evidence, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tessella
from tessella.calibration import information_horizon as fitter
from tessella.calibration.fitting import calibrate, fitters
from tessella.calibration.information_horizon import Curve, fit, measure
from tessella.calibration.job import Job
from tessella.calibration.withdrawing import answer_token
from tessella.core.errors import InputError
from tessella.core.pipeline import parse
from tessella.core.recipe import recipe_from_text
from tessella.samples import Sample, batches, load_samples
from tessella.testing.families import tiny_family

DEPTH = 8  # layers of the embedded model


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Two of each of the eight kinds."""
    return load_samples("mini:16", seed=3)


def horizon_of(method: str = "divprune") -> Any:
    return parse(f"information_horizon(method={method})").parts[0].method


def made_up(monkeypatch: pytest.MonkeyPatch, *by_layer: float, num: int = 4) -> None:
    """Let samples change by these probabilities, all by the same."""
    changes = torch.tensor(by_layer, dtype=torch.float64).expand(num, -1)
    monkeypatch.setattr(fitter, "measure", lambda job: (changes, 0))


# -- what is measured ------------------------------------------------------------------------------------------------


def masked_probabilities(model: Any, inputs: Any, start: int) -> Tensor:
    """Of the next token, in a model whose layers from `start` on see no visual token; one prompt."""
    ids, decoder = inputs["input_ids"][0], model.model.language_model
    visual = ids == model.config.image_token_id
    hidden = model.get_input_embeddings()(ids).clone()
    features = model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
    hidden[visual] = torch.cat(list(features))
    hidden, size = hidden[None], len(ids)
    closed = torch.finfo(hidden.dtype).min
    causal = torch.full((size, size), closed).triu(1)
    rotary = decoder.rotary_emb(hidden, torch.arange(size)[None])
    for number, layer in enumerate(decoder.layers):
        mask = causal.masked_fill(visual[None, :], closed) if number >= start else causal
        hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotary)
    return model.lm_head(decoder.norm(hidden))[0, -1].softmax(dim=0)


@torch.no_grad()
def test_changes_equal_those_of_a_model_that_masks_visual_tokens(mini: tuple[Any, Any], samples: list[Sample]) -> None:
    """One without an answer among them, which is then the model's own; in padded batches and one by one."""
    model, processor = mini
    some = [samples[0], replace(samples[6], answer=None), samples[5]]
    changes, num_own = measure(Job(model, processor, some, batch=2))
    assert changes.shape == (3, DEPTH)
    assert num_own == 1
    for row, (_, inputs) in enumerate(batches(model, processor, some, 1)):
        full = masked_probabilities(model, inputs, DEPTH)
        token = int(full.argmax())
        if some[row].answer is not None:
            token = answer_token(processor.tokenizer, some[row].answer, full)  # type: ignore[assignment]
            assert processor.tokenizer.decode([token]).strip().startswith(str(some[row].answer)[0])
        for layer in (0, 1, 4, 7):
            want = float(masked_probabilities(model, inputs, layer)[token] - full[token])
            assert float(changes[row, layer]) == pytest.approx(want, abs=1e-5)


def test_progress_is_told_layer_by_layer(mini: tuple[Any, Any], samples: list[Sample]) -> None:
    told: list[tuple[int, int]] = []
    measure(Job(*mini, samples[:3], batch=2, advance=lambda done, of: told.append((done, of))))
    assert told == [(n, 2 * DEPTH) for n in range(1, 2 * DEPTH + 1)]


def test_of_two_spellings_of_an_answer_the_likelier() -> None:
    tokens = {"red": [4, 7], " red": [3, 5, 7], "blue": [9], " blue": [3, 9], " ": [3], "": []}
    words = {3: " ", 4: "re", 5: "r", 7: "d", 9: "?"}

    class Spelling:
        unk_token_id = 9

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": tokens[text]}

        def decode(self, written: list[int]) -> str:
            return "".join(words[t] for t in written)

    likely = torch.zeros(10)
    likely[3], likely[5], likely[9] = 0.5, 0.2, 0.3
    assert answer_token(Spelling(), "red", likely) == 5  # the space alone is no answer
    likely[4] = 0.25
    assert answer_token(Spelling(), "red", likely) == 4
    assert answer_token(Spelling(), "blue", likely) is None  # unknown to the tokenizer
    assert answer_token(Spelling(), "", likely) is None
    assert answer_token(Spelling(), None, likely) is None


# -- the rule --------------------------------------------------------------------------------------------------------


def test_mean_and_deviation_both_stay_below() -> None:
    """Column by column: the mean is too large; its absolute value is; the deviation is; neither; neither."""
    moved = [[0.05, 0.02, 0.03, 0.0, 0.001], [0.05, -0.02, 0.0, 0.004, 0.0]]
    changes = torch.tensor([*moved, *[[0.05, 0.0, 0.0, 0.0, 0.0]] * 6])
    curve = Curve.of(changes)
    assert curve.size.tolist() == pytest.approx([0.05, 0.005, 0.00375, 0.0005, 0.000125])
    assert curve.std.tolist() == pytest.approx([0.0, 0.01, 0.0099216, 0.0013229, 0.00033072], rel=1e-4)
    assert [curve.horizon(eps) for eps in (0.06, 0.02, 0.0099, 0.001)] == [0, 1, 3, 4]
    assert Curve(torch.tensor([0.0, 0.5, 0.0, 0.5]), torch.zeros(4)).horizon(0.1) is None


def test_the_horizon_lies_behind_the_cuts_of_the_method(mini: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, 0.5, 0.5, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0)
    job = Job(*mini, load_samples("mini:4"))
    for base, layer in (("divprune", 2), ("fastv@1", 2), ("fastv@3", 4), ("pyramiddrop(layers=(2, 3, 5))", 6)):
        assert fit(horizon_of(base), job).settings == {"at_layer": layer}, base
    assert fit(horizon_of(), replace(job, options={"eps": 0.0005})).settings == {"at_layer": 3}


def test_a_recipe_of_the_embedded_model(mini: tuple[Any, Any], samples: list[Sample]) -> None:
    """Reading needs its pictures deeper than questions of existence; the recipe runs on the model that it is of."""
    assert "information_horizon" in fitters()
    recipe = calibrate(*mini, "information_horizon(method=divprune)", samples, options={"eps": 0.1})
    again = recipe_from_text(recipe.to_text())
    assert again == recipe
    evidence: Any = recipe.evidence
    assert evidence["eps"] == 0.1
    assert evidence["own_answers"] == 0
    kinds = evidence["kinds"]
    assert sorted(kinds) == sorted({s.kind for s in samples})
    assert all(len(k["mean"]) == len(k["std"]) == DEPTH and k["num"] == 2 for k in kinds.values())
    assert evidence["all"]["num"] == 16
    assert evidence["all"]["mean"] == pytest.approx(
        [sum(k["mean"][i] for k in kinds.values()) / len(kinds) for i in range(DEPTH)], rel=1e-9
    )
    assert kinds["existence"]["horizon"] < kinds["reading"]["horizon"]
    layer = evidence["all"]["horizon"]
    assert recipe.settings["at_layer"] == layer
    (_, inputs), *_ = batches(*mini, samples[:1], 1)
    with torch.no_grad(), tessella.reduce(mini[0], again, keep=20) as run:
        mini[0](**inputs)
    assert run.report.last is not None
    assert run.report.last.layers == (40,) * layer + (20,) * (DEPTH - layer)


# -- refusals --------------------------------------------------------------------------------------------------------


def test_questions_without_need_of_a_picture_and_answers_without_horizon(
    mini: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(*mini, load_samples("mini:4"))
    made_up(monkeypatch, 0.002, 0.0, 0.0)
    with pytest.raises(InputError, match=r"these 4 questions need no picture: .* change by 0\.002 on average"):
        fit(horizon_of(), job)
    made_up(monkeypatch, 0.5, 0.4, 0.02)
    with pytest.raises(InputError, match=r"no horizon for eps=0\.01: .* the last layer, 2, change .* by 0\.02 on aver"):
        fit(horizon_of(), job)


def test_wrong_data_and_options_are_refused(mini: tuple[Any, Any], samples: list[Sample]) -> None:
    method = "information_horizon(method=divprune)"
    with pytest.raises(InputError, match="calibrating information_horizon needs at least 16 samples; got 15"):
        calibrate(*mini, method, samples[:15])
    with pytest.raises(InputError, match="has no option 'epsilon'; allowed: eps"):
        calibrate(*mini, method, samples, options={"epsilon": 0.1})
    for eps in (0, 1.0, True, "0.1"):
        with pytest.raises(InputError, match=r"eps is a change of a probability in \(0, 1\)"):
            calibrate(*mini, method, samples, options={"eps": eps})
    with pytest.raises(InputError, match="sample 15 has no picture"):
        calibrate(*mini, method, [*samples[:15], replace(samples[15], images=())])


def test_positions_of_three_axes() -> None:
    """Qwen2.5-VL with random weights, on which every layer shows; in padded batches and one by one."""
    tiny = tiny_family("qwen2_5_vl")
    some = load_samples("mini:3")
    changes, num_own = measure(Job(tiny.model(), tiny.processor(), some, batch=2))
    alone, _ = measure(Job(tiny.model(), tiny.processor(), some, batch=1))
    assert changes.shape == (3, 4)
    assert float(changes.abs().amax(dim=0).min()) > 1e-4
    torch.testing.assert_close(changes, alone, atol=1e-5, rtol=1e-3)
    assert num_own <= 3
