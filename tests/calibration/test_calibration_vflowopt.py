"""The fitter of vflowopt: budgets that are met, likeness to the untouched model, a search that can be cut short."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from fractions import Fraction
from typing import Any

import pytest
import torch

import tessella
from tessella.calibration import vflowopt
from tessella.calibration.fitting import calibrate, find_fitter
from tessella.calibration.job import Fit, Job
from tessella.calibration.vflowopt import Space, encoded, last_hidden, lengths_of, similarity, start_of
from tessella.core.budget import Budget
from tessella.core.errors import BudgetError, InputError, MethodError
from tessella.core.registry import make
from tessella.models.adapter import find_adapter
from tessella.samples import Sample, batches, load_samples

PAPER = Space(0.25, (9, 9, 10))


@pytest.fixture(scope="module")
def asked() -> tuple[Any, Any, list[Sample]]:
    """The embedded model and four questions."""
    model, processor = tessella.load("mini")
    return model, processor, load_samples("mini:4")


def job_of(asked: tuple[Any, Any, list[Sample]], **settings: Any) -> Job:
    model, processor, samples = asked
    return Job(model, processor, samples, **{"batch": 3, **settings})


def fitted(asked: tuple[Any, Any, list[Sample]], **settings: Any) -> Fit:
    job = job_of(asked, **settings)
    with torch.no_grad():
        return vflowopt.fit(make("vflowopt").fit(find_adapter(job.model).info), job)


def test_the_box_of_the_paper() -> None:
    assert {name: tuple(round(end, 3) for end in ends) for name, ends in PAPER.bounds.items()} == {
        "first": (0.25, 0.375),
        "second": (0.533, 1.0),
        "threshold": (0.0, 50.0),
        "side": (3.0, 24.0),
        "alpha": (-1.0, 1.0),
    }
    released = {"first": 0.2651, "second": 0.98334, "threshold": 34.76, "side": 15.581, "alpha": 0.0}
    assert PAPER.settings(released)["ratios"] == pytest.approx((0.2651, 0.98334, 0.87), abs=1e-5)
    assert start_of(make("vflowopt"), PAPER) == pytest.approx(released, abs=1e-3)


@pytest.mark.parametrize("mean", [0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("lengths", [(9, 9, 10), (1, 2, 1), (2, 3, 3), (20, 1, 3)])
def test_the_last_ratio_meets_the_keep_or_is_1(mean: float, lengths: tuple[int, int, int]) -> None:
    space = Space(mean, lengths)
    ends = [space.bounds[name] for name in ("first", "second")]
    for first, second in itertools.product(*[(low, (low + high) / 2, high) for low, high in ends]):
        values = {"first": first, "second": second, "threshold": 1.0, "side": 3.0, "alpha": 0.0}
        ratios = space.settings(values)["ratios"]
        assert all(0 < r <= 1 for r in ratios)
        if ratios[2] < 1:
            assert space.mean_of(ratios) == pytest.approx(mean, abs=1e-4)
        else:
            assert space.mean_of(ratios) <= mean + 1e-4
        make("vflowopt", ratios=ratios)  # is not refused


def test_the_search_ends_with_the_best_of_what_it_tried(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[dict[str, float], float]] = []
    search = vflowopt.search
    monkeypatch.setattr(vflowopt, "search", lambda *args: tried.extend(search(*args)) or tried)
    told: list[tuple[int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fitted(asked, options={"trials": 5}, advance=lambda done, of: told.append((done, of)))
    monkeypatch.undo()
    assert told == [(n, 5) for n in range(1, 6)]
    assert len(tried) == 5
    space = Space(0.25, lengths_of(make("vflowopt").fit(find_adapter(asked[0]).info), 8))
    best = max(value for _, value in tried)
    assert fit.settings == space.settings(next(values for values, value in tried if value == best))
    assert tried[0][0] == pytest.approx(start_of(make("vflowopt"), space), abs=1e-9)
    assert fit.evidence["mean_cosine"] == round(best / 4, 6)
    assert fit.evidence["mean_cosine_at_start"] == round(tried[0][1] / 4, 6)
    assert fit.evidence["mean_cosine"] >= fit.evidence["mean_cosine_at_start"]
    assert fit.evidence["mean_keep_ratio"] <= 0.2501
    assert (fit.evidence["trials"], fit.evidence["trials_wanted"]) == (5, 5)
    assert fitted(asked, options={"trials": 5}) == fit


def test_another_seed_tries_other_settings_from_the_same_start(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[dict[str, float], float]] = []
    search = vflowopt.search
    monkeypatch.setattr(vflowopt, "search", lambda *args: tried.extend(found := search(*args)) or found)
    for seed in (0, 1):
        fitted(asked, options={"trials": 5}, seed=seed)
    first, second = tried[:5], tried[5:]
    assert first[0] == second[0]
    assert first[-1][0] != second[-1][0]


def test_likeness_is_the_cosine_of_what_the_last_token_ends_as(asked: Any) -> None:
    """Of features that were encoded once, as of pictures that are encoded anew."""
    model, processor, samples = asked
    adapter, it = find_adapter(model), make("vflowopt", ratios=(0.3, 0.9, 0.5), side=4.0, alpha=0.4)
    it = it.fit(adapter.info)
    with torch.no_grad():
        prompts = list(encoded(it, job_of(asked), adapter))
        assert [len(p["input_ids"]) for p in prompts] == [3, 1]
        assert all("pixel_values" not in p for p in prompts)
        whole = last_hidden(model, adapter, prompts)
        with tessella.reduce(model, it):
            pruned = last_hidden(model, adapter, prompts)
        want: list[list[torch.Tensor]] = [[], []]
        for _, inputs in batches(model, processor, samples, 1):
            want[0].append(model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1])
            with tessella.reduce(model, it):
                want[1].append(model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1])
    torch.testing.assert_close(whole, torch.stack(want[0]), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(pruned, torch.stack(want[1]), atol=1e-3, rtol=1e-3)
    cosines = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(*want, strict=True)]
    assert similarity(whole, pruned) == pytest.approx(sum(cosines), abs=1e-4)
    assert similarity(whole, whole) == pytest.approx(4)
    assert not adapter.language_model._forward_hooks


def test_what_is_not_a_number_counts_as_0() -> None:
    whole = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    pruned = torch.tensor([[torch.nan, 0.0], [4.0, 3.0]])
    assert similarity(whole, pruned) == pytest.approx(0.96)


def test_an_interrupt_ends_with_the_best_so_far(asked: Any) -> None:
    def stop(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    fit = fitted(asked, options={"trials": 5}, advance=stop)
    assert (fit.evidence["trials"], fit.evidence["trials_wanted"]) == (2, 5)
    assert make("vflowopt", **fit.settings).ratios == fit.settings["ratios"]


def test_an_interrupt_of_the_first_trial_is_none_of_ours(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(vflowopt, "similarity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(asked, options={"trials": 2})
    assert tessella.current_run(asked[0]) is None


def test_a_recipe_runs_without_a_keep(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor, samples = asked
    monkeypatch.setattr(vflowopt, "MIN_SAMPLES", 4)
    recipe = calibrate(model, processor, "vflowopt", samples, keep=0.4, options={"trials": 1}, batch=4)
    assert set(recipe.settings) == {"ratios", "threshold", "side", "alpha"}
    it = make("vflowopt", **recipe.settings)
    (_, inputs) = next(iter(batches(model, processor, samples, 4)))
    with torch.no_grad(), tessella.reduce(model, it) as run:
        model(**inputs)
    assert run.report.mean_keep_ratio == pytest.approx(0.4, abs=0.03)


def test_thirty_samples_are_needed(asked: Any) -> None:
    fitter = find_fitter("vflowopt")
    assert (fitter.min_samples, fitter.options, fitter.uses_keep) == (30, ("trials",), True)
    with pytest.raises(InputError, match="calibrating vflowopt needs at least 30 samples; got 4"):
        calibrate(*asked[:2], "vflowopt", asked[2])


@pytest.mark.parametrize("budget", [Budget(64), Budget(0.5, "image"), Budget(1.0), Budget(8, "layer-mean")])
def test_keeps_that_are_no_share_over_layers_are_refused(asked: Any, budget: Budget) -> None:
    with pytest.raises(BudgetError, match="under a share of the tokens in the mean over layers"):
        fitted(asked, budget=budget)
    assert vflowopt.read_mean(None) == Fraction(1, 4)
    assert vflowopt.read_mean(Budget("1/3", "layer-mean")) == Fraction(1, 3)


@pytest.mark.parametrize("trials", [0, -1, 2.5, True, "10"])
def test_trials_that_are_no_count_are_refused(asked: Any, trials: Any) -> None:
    with pytest.raises(InputError, match="trials must be an int >= 1"):
        fitted(asked, options={"trials": trials})


def test_other_cuts_and_samples_without_pictures_are_refused(asked: Any) -> None:
    job = job_of(asked)
    with pytest.raises(MethodError, match=r"searched with two layers to cut at; got \(2,\)"):
        vflowopt.fit(make("vflowopt", layers=(2,), ratios=(0.5, 0.5)), job)
    bare = [*asked[2][:2], dataclasses.replace(asked[2][0], images=())]
    with pytest.raises(InputError, match="a sample has none"):
        fitted((*asked[:2], bare), options={"trials": 1})
