"""Curves fitted to scores: recovered where they are known, and read from a model as its scorer sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import tessella
from tessella.calibration.attention_debias import MIN_SAMPLES, Onlooker, fit, mean_by_place, measured, told
from tessella.calibration.job import Job
from tessella.core.contracts import Scorer
from tessella.core.errors import InputError, MethodError
from tessella.core.pipeline import parse
from tessella.core.registry import make
from tessella.core.view import View
from tessella.models.adapter import find_adapter
from tessella.ops.trends import trend
from tessella.samples import Sample, load_samples
from tessella.testing.tiny import tiny_inputs, tiny_llava

STEEP = 0.01  # per place


@dataclass(frozen=True)
class Sloped(Scorer):
    """Scores that rise along the raster by a known trend, with noise of the prompt's own."""

    at_layer: int = 2

    card = make("fastv").card
    id = "sloped"

    def score(self, view: View) -> Float[Tensor, "B V"]:
        place = torch.arange(view.mask.shape[1], dtype=torch.float64)
        noise = (0.1 * view.uniforms(1).double()).exp()
        return (noise * trend("exp", (STEEP,), place)).float()


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(load_samples(f"mini:{MIN_SAMPLES}", None, 0))


def debias(model: Any, **settings: Any) -> Any:
    return make("attention_debias", **settings).fit(find_adapter(model).info)


def test_a_known_trend_is_recovered_in_a_model(mini: tuple[Any, Any], samples: list[Sample]) -> None:
    done: list[tuple[int, int]] = []
    job = Job(*mini, samples[:8], batch=3, advance=lambda *args: done.append(args))
    found = fit(debias(mini[0], scorer=Sloped()), job)
    assert set(found.settings) == {"form", "coefficients", "length"}
    assert (found.settings["form"], found.settings["length"]) == ("exp", 196)
    assert found.settings["coefficients"] == pytest.approx((STEEP,), rel=5e-3)
    assert done == [(3, 8), (6, 8), (8, 8)]
    (cut,) = found.evidence["cuts"]
    assert cut["last_over_first"] == pytest.approx(math.exp(STEEP * 195), rel=2e-2)
    assert cut["misfit"] < 0.05
    fitted = make("attention_debias", scorer=Sloped(), **found.settings)
    with torch.no_grad(), tessella.reduce(mini[0], fitted, keep=20) as run:
        mini[0](**mini[1](text="USER: <image>\nwhat? ASSISTANT:", images=samples[0].images[0], return_tensors="pt"))
    assert run.kept[0][0].max() < 190  # its scorer alone would keep the last twenty


@pytest.mark.parametrize("padding", ["left", "right"])
def test_scores_are_those_that_the_scorer_ranks_by(padding: Any) -> None:
    model, inputs = tiny_llava(), tiny_inputs((1, 1), padding=padding)
    method = debias(model, scorer=make("pyramiddrop", layers=(1, 2, 3)), cuts="all")
    seen: list[tuple[int, Tensor]] = []
    with torch.no_grad():
        whole = tiny_llava(attention="eager")(**inputs, output_attentions=True).attentions
        with tessella.reduce(model, Onlooker(method, lambda n, view, scores: seen.append((n, scores)))):
            logits = model(**inputs).logits
        assert torch.equal(logits, model(**inputs).logits)
    last = [int(mask.nonzero()[-1]) for mask in inputs["attention_mask"]]
    assert [number for number, _ in seen] == [0, 1, 2]
    for number, scores in seen:
        for row, place in enumerate(last):
            visual = inputs["input_ids"][row] == 5
            want = whole[number + 1][row, :, place, visual].mean(dim=0)
            torch.testing.assert_close(scores[row], want, atol=1e-6, rtol=1e-4)


def test_one_curve_for_each_corrected_cut(mini: tuple[Any, Any], samples: list[Sample]) -> None:
    job = Job(*mini, samples[:4])
    for cuts, count in (("first", 1), ("all", 3)):
        method = debias(mini[0], scorer=make("pyramiddrop"), form="cubic", cuts=cuts)
        found = fit(method, job)
        assert len(found.settings["coefficients"]) == 3 * count
        assert [cut["at_layer"] for cut in found.evidence["cuts"]] == [2, 4, 6][:count]
        assert found.evidence["scorer"] == "pyramiddrop(layers=(2, 4, 6))"
        remade = make("attention_debias", scorer=method.scorer, cuts=cuts, **found.settings)
        with torch.no_grad(), tessella.reduce(mini[0], remade, keep=9):
            pass


def test_tokens_on_padding_do_not_count(mini: tuple[Any, Any], samples: list[Sample]) -> None:
    from PIL import Image

    grey = Image.new("RGB", (112, 112), (102, 102, 102))  # the mean colour of its processor
    grey.paste(samples[0].images[0].resize((112, 56)), (0, 0))
    job = Job(*mini, [Sample((grey,), "what color is the star?")])
    for threshold, counted in ((0.5, 98), (None, 196)):
        (mean,) = measured(debias(mini[0], pad_threshold=threshold), job)
        assert int(mean.isfinite().sum()) == counted
        assert bool(mean[:98].isfinite().all())


def test_pictures_of_two_sizes_share_their_places() -> None:
    share = torch.tensor([0, 0.5, 1, 0, 1 / 3, 2 / 3, 1], dtype=torch.float64)
    got = mean_by_place(share, torch.tensor([3.0, 6, 9, 1, 2, 4, 5]).double(), 4)
    assert got.tolist() == [2.0, 2.0, 5.0, 7.0]  # the middle of three is nearest to the third of four


def test_evidence_is_plain_and_says_how_well_it_fits() -> None:
    place = torch.arange(8, dtype=torch.float64)
    mean = 3 * trend("exp", (0.1,), place)
    cut = told("exp", mean, (0.1,))
    assert cut["misfit"] == pytest.approx(0, abs=1e-12)
    assert cut["last_over_first"] == pytest.approx(math.exp(0.7))
    assert cut["mean_scores"] == pytest.approx((mean / mean.mean()).tolist())
    assert told("exp", mean, (0.0,))["misfit"] == pytest.approx(float((mean / mean.mean()).std(correction=0)))


def test_what_cannot_be_fitted_is_named(mini: tuple[Any, Any], samples: list[Sample]) -> None:
    job = Job(*mini, samples[:2])
    with pytest.raises(MethodError, match="form must be one of exp, cubic to be fitted; got 'none'"):
        fit(debias(mini[0], form="none"), job)
    with pytest.raises(InputError, match="attention_debias: none of the samples has a picture"):
        fit(debias(mini[0]), Job(*mini, [Sample((), "what color is the star?")]))


def test_the_method_as_it_is_written_can_be_calibrated(mini: tuple[Any, Any], samples: list[Sample]) -> None:
    method = parse("attention_debias").parts[0].method.fit(find_adapter(mini[0]).info)
    found = fit(method, Job(*mini, samples[:2]))
    assert found.evidence["scorer"] == "fastv"
    assert found.settings["coefficients"][0] >= 0
