"""What each cut of a prompt has left, cut by cut."""

from __future__ import annotations

import pytest
import torch

import tessella
from tessella.app.demo import bundled
from tessella.app.prompting import prepare
from tessella.core.errors import UnsupportedError


@pytest.fixture(scope="module")
def mini():
    return tessella.load("mini", device="cpu")


@pytest.fixture(scope="module")
def inputs(mini):
    examples = bundled()[:2]
    rows = [(e.image,) for e in examples]
    return prepare(*mini, rows, [e.question for e in examples], 1)


def _cuts(mini, inputs, pipeline):
    with tessella.reduce(mini[0], pipeline) as run, torch.inference_mode():
        mini[0](**inputs)
    return run


def test_a_method_that_cuts_in_steps_says_what_each_step_left(mini, inputs):
    run = _cuts(mini, inputs, "pyramiddrop")
    layers = [cut.at_layer for cut in run.cuts]
    assert len(layers) == run.num_cuts > 1
    assert layers == sorted(set(layers))
    for row in range(2):
        before = set(range(196))
        for cut in run.cuts:
            [kept] = cut.kept[row]
            assert set(kept.tolist()) < before
            before = set(kept.tolist())
            [merged] = cut.merged[row]
            assert [i for i, p in enumerate(merged.tolist()) if p == i] == kept.tolist()
        assert run.cuts[-1].kept[row][0].tolist() == run.kept[row][0].tolist()
        assert run.cuts[-1].merged[row][0].tolist() == run.merged[row][0].tolist()


def test_the_first_of_two_methods_is_seen_as_if_it_were_alone(mini, inputs):
    both, alone = (_cuts(mini, inputs, text) for text in ("divprune:0.5 | fastv@1:0.5", "divprune:0.5"))
    assert [cut.at_layer for cut in both.cuts] == [0, 1]
    assert [len(cut.kept[0][0]) for cut in both.cuts] == [98, 49]
    for row in range(2):
        assert both.cuts[0].kept[row][0].tolist() == alone.kept[row][0].tolist()
        assert both.cuts[0].merged[row][0].tolist() == alone.merged[row][0].tolist()


def test_what_was_merged_in_front_of_a_second_cut_follows_its_holder(mini, inputs):
    run = _cuts(mini, inputs, "visionzip:0.5 | fastv@1:0.5")
    first, last = (cut.merged[0][0].tolist() for cut in run.cuts)
    survivors = set(run.kept[0][0].tolist())
    assert any(p not in (i, -1) for i, p in enumerate(first))
    assert first != last == [p if p in survivors else -1 for p in first]


def test_the_full_model_cuts_nothing_and_a_smaller_picture_alone_is_no_cut(mini, inputs):
    [cut] = _cuts(mini, inputs, "none").cuts
    assert [k.tolist() for [k] in cut.kept] == [list(range(196))] * 2
    assert _cuts(mini, inputs, "downsample:0.25").cuts == []
    with tessella.reduce(mini[0], "uniform", keep=9) as run, pytest.raises(UnsupportedError, match="no prompt"):
        _ = run.cuts


def test_a_smaller_picture_is_counted_through_its_own_grid(mini, inputs):
    run = _cuts(mini, inputs, "downsample:0.25 | uniform:0.5")
    [cut] = run.cuts
    assert (len(cut.merged[0][0]), len(cut.kept[0][0])) == (49, 24)
