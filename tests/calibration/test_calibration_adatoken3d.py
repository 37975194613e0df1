"""adatoken3d's schedule from data: sums of attention by brute force, contributions, the curve, and a model's recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.calibration.adatoken3d import END, MIN_SAMPLES, contribution, decay, fit, fitted_rate, flows
from tessella.calibration.job import Job
from tessella.core.errors import InputError, MethodError
from tessella.core.registry import make
from tessella.core.watching import Watch
from tessella.samples import Sample, batches, load_samples
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

LAYERS = (0, 1, 2, 3)


def watched(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The two sums of each row in each layer, `[L, 2, B]`."""
    found: list[Tensor] = []
    watch = Watch(lambda view, n: found.append(torch.stack(flows(view, n))), LAYERS)
    with torch.no_grad(), tessella.reduce(model, watch):
        model(**inputs)
    return torch.stack(found)


def by_brute_force(eager: Any, inputs: dict[str, Tensor], image_token: int = IMAGE_TOKEN) -> Tensor:
    """The same summed up in float64 from whole attention maps, one pair of tokens after the other."""
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    out = torch.zeros(len(maps), 2, len(inputs["input_ids"]), dtype=torch.float64)
    for layer, attention in enumerate(maps):
        for row, (ids, real) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)):
            weights = attention[row].double().mean(dim=0)[real][:, real].tolist()
            is_visual = (ids[real] == image_token).tolist()
            for q in range(len(weights)):
                for k in range(q):
                    if is_visual[q] and is_visual[k]:
                        out[layer, 0, row] += weights[q][k] * (q // 10 != k // 10)
                    elif is_visual[q] != is_visual[k]:
                        out[layer, 1, row] += weights[q][k] * (0.7 if is_visual[q] else 0.3)
    return out


@pytest.mark.parametrize("padding", ["left", "right"])
def test_sums_of_attention_equal_those_of_whole_maps(padding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures with text between them, and a row that is padded; a query at a time gives the same."""
    inputs = tiny_inputs((1, 2), padding=padding, seed=2)
    want = by_brute_force(tiny_llava(attention="eager"), inputs)
    assert float(want.min()) > 0.3
    torch.testing.assert_close(watched(tiny_llava(), inputs).double(), want, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("tessella.ops.attention.BLOCK_ELEMENTS", 1)
    torch.testing.assert_close(watched(tiny_llava(), inputs).double(), want, rtol=1e-5, atol=1e-6)


def test_a_picture_that_attends_to_itself_both_ways_counts_where_the_query_is_behind() -> None:
    """Gemma 3, whose layers are of two kinds, with the last one watched too."""
    family = tiny_family("gemma3")
    inputs = family.inputs([list(family.sizes[:1])])
    model, eager = family.model(), family.model(attention="eager")
    want = by_brute_force(eager, inputs, model.config.image_token_id)
    torch.testing.assert_close(watched(model, inputs).double(), want, rtol=1e-5, atol=1e-6)


def test_the_average_over_squares_times_100_is_the_plain_sum() -> None:
    """A prompt whose pictures begin and end with squares: the authors' sums over the pooled map, and ours."""
    maps = torch.rand(60, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tril()
    pooled = torch.nn.functional.avg_pool2d(maps[None], 10, stride=10)[0]
    blocks = range(2, 5)  # visual tokens 20 to 49
    theirs = sum(100 * float(pooled[q, k]) for q in blocks for k in blocks if q > k)
    ours = sum(float(maps[q, k]) for q in range(20, 50) for k in range(20, 50) if q // 10 > k // 10)
    assert theirs == pytest.approx(ours)
    across = sum(70 * float(pooled[q, k]) for q in blocks for k in range(2)) + sum(
        30 * float(pooled[5, k]) for k in blocks
    )
    assert across == pytest.approx(0.7 * float(maps[20:50, :20].sum()) + 0.3 * float(maps[50:, 20:50].sum()))


def test_contributions_are_the_formula() -> None:
    intra, inter = np.array([3.0, 1.0, 4.0, 1.0]), np.array([2.0, 7.0, 1.0, 8.0])
    running, slow = 0.0, []
    for i, (one, other) in enumerate(zip(intra, inter, strict=True)):
        running = one if i == 0 else running + 0.73 * one
        slow.append(0.4 * one + 0.3 * other + 0.3 * running)
    want = [100 * (s - min(slow)) / (max(slow) - min(slow)) for s in slow]
    np.testing.assert_allclose(contribution(intra, inter), want)
    assert (min(want), max(want)) == (0, 100)
    with pytest.raises(MethodError, match="adatoken3d: all 3 layers contribute 0, to which no schedule can be fitted"):
        contribution(np.zeros(3), np.zeros(3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=80), st.floats(0.5, 99))
def test_the_curve_meets_both_ends_and_never_grows(share: list[float], end: float) -> None:
    curve = decay(len(share), fitted_rate(np.array(share), end), end)
    assert abs(curve[0] - 100) < 1e-3
    assert abs(curve[-1] - end) < 1e-3
    assert (np.diff(curve) <= 1e-9).all()


@pytest.mark.parametrize("rate", [0.3, 0.1, 0.02, -0.05, -0.2])
def test_a_curve_of_the_family_is_found_again(rate: float) -> None:
    assert fitted_rate(decay(32, rate, END), END) == pytest.approx(rate, abs=1e-3)
    x = np.arange(1, 33)
    shape = np.exp(-rate * (x - 1))
    scale = 90 / (shape[0] - shape[-1])  # A, and D = 100 - A
    np.testing.assert_allclose(decay(32, rate, END), scale * shape + 100 - scale)


def apart(values: np.ndarray, rate: float) -> float:
    """What the fit makes least."""
    curve = decay(len(values), rate, END)
    return float(((curve - values) ** 2).sum() + ((np.gradient(curve) - np.gradient(values)) ** 2).sum())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=4, max_size=40), st.booleans())
def test_no_curve_is_nearer_by_values_and_differences(share: list[float], falls: bool) -> None:
    """Of falling contributions; of any, the fit is no worse than where it began."""
    values = np.sort(share)[::-1] if falls else np.array(share)
    rates = np.linspace(-30, 30, 1501) / (len(values) - 1) if falls else [0.1, -0.1]
    assert apart(values, fitted_rate(values, END)) <= min(apart(values, r) for r in rates) * (1 + 1e-4) + 1e-3


def test_contributions_that_rise_are_met_from_either_side() -> None:
    """From the authors' start alone the search ends at 0.06, which is farther off."""
    values = np.linspace(0, 100, 40)
    best = min(apart(values, r) for r in np.linspace(-30, 30, 1501) / 39)
    assert apart(values, fitted_rate(values, END)) <= best * (1 + 1e-6) < 0.95 * apart(values, 0.06)


# -- on a model ------------------------------------------------------------------------------------------------------


def job(samples: list[Sample], **changes: Any) -> Job:
    model, processor = tessella.load("mini")
    return Job(model, processor, samples, **changes)


def test_a_models_schedule() -> None:
    told: list[tuple[int, int]] = []
    samples = load_samples(f"mini:{MIN_SAMPLES + 2}")
    given_job = job(samples, batch=4, advance=lambda done, of: told.append((done, of)))
    found = fit(make("adatoken3d"), given_job)
    assert told == [(4, 6), (6, 6)]
    settings, evidence = found.settings, found.evidence
    assert settings["layers"] == (2, 4, 6)
    assert [len(evidence[n]) for n in ("intra", "inter", "contribution", "curve")] == [8] * 4
    assert settings["ratios"] == tuple(round(evidence["curve"][n] / 5) * 5 / 100 for n in (2, 4, 6))
    assert list(settings["ratios"]) == sorted(settings["ratios"], reverse=True)
    assert (evidence["curve"][0], evidence["curve"][-1]) == (100, 10)
    np.testing.assert_allclose(
        evidence["contribution"], contribution(np.array(evidence["intra"]), np.array(evidence["inter"])), atol=0.01
    )
    again = fit(make("adatoken3d"), job(samples, batch=1))
    np.testing.assert_allclose(again.evidence["intra"], evidence["intra"], rtol=1e-3)
    assert again.settings == settings
    each = [fit(make("adatoken3d"), job([sample])).evidence["inter"] for sample in samples]
    np.testing.assert_allclose(np.mean(each, axis=0), evidence["inter"], rtol=1e-3)
    with torch.no_grad(), tessella.reduce(given_job.model, make("adatoken3d", **settings)) as run:
        given_job.model(**next(inputs for _, inputs in batches(given_job.model, given_job.processor, samples, 1)))
    assert run.report.last is not None
    assert [run.report.last.layers[n] for n in (2, 4, 6)] == [int(196 * r) for r in settings["ratios"]]


def test_layers_and_the_last_percentage_can_be_named() -> None:
    samples = load_samples("mini:2")
    found = fit(make("adatoken3d"), job(samples, options={"layers": (1, 2, 5, 7), "end": 50}))
    assert found.settings["layers"] == (1, 2, 5, 7)
    assert found.settings["ratios"][-1] == 0.5  # in front of the last layer
    assert fit(make("adatoken3d", layers=(3, 7)), job(samples)).settings["layers"] == (3, 7)
    for options, message in (
        ({"end": 0}, "end must be a percentage between 0 and 100; got 0"),
        ({"end": 100}, "end must be a percentage"),
        ({"end": True}, "end must be a percentage"),
        ({"layers": (2, 8)}, r"layers must be a tuple of numbers that ascend, from 1 to 7 here; got \(2, 8\)"),
        ({"layers": (4, 2)}, "numbers that ascend"),
        ({"layers": (0, 2)}, "numbers that ascend"),
        ({"layers": ()}, "numbers that ascend"),
        ({"layers": 3}, "must be a tuple of numbers"),
        ({"layers": (1.5,)}, "must be a tuple of numbers"),
    ):
        with pytest.raises(MethodError, match=message):
            fit(make("adatoken3d"), job(samples, options=options))


def test_samples_without_pictures_are_refused() -> None:
    samples = [Sample((), "what is this?")] * MIN_SAMPLES
    with pytest.raises(InputError, match="adatoken3d measures attention to pictures; none of the 4 samples has one"):
        fit(make("adatoken3d"), job(samples))
