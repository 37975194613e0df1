"""What is shown of a prompt: which pictures, and what became of their tokens cut by cut."""

from __future__ import annotations

import pytest
import torch

import tessella
from tessella.app.answering import ask
from tessella.app.demo import bundled
from tessella.app.prompting import prepare
from tessella.app.showing import shown_of


@pytest.fixture(scope="module")
def mini():
    return tessella.load("mini", device="cpu")


def test_each_row_of_a_batch_shows_its_own_picture_and_cuts(mini):
    examples = bundled()[:2]
    inputs = prepare(*mini, [(e.image,) for e in examples], [e.question for e in examples], 1)
    with tessella.reduce(mini[0], "divprune:0.5 | fastv@1:9") as run, torch.inference_mode():
        mini[0](**inputs)
    for row, example in enumerate(examples):
        shown = shown_of(run, mini[1], [example.image], row)
        alone = ask(*mini, example.image, example.question, "divprune:0.5 | fastv@1:9", max_new_tokens=1).shown
        assert [cut.at_layer for cut in shown.cuts] == [0, 1]
        assert [len(cut.kept[0]) for cut in shown.cuts] == [98, 9]
        assert shown.cuts == alone.cuts
        assert shown.images[0].tobytes() == example.image.tobytes()
        assert (shown.kept, shown.merged, shown.seen) == (shown.cuts[-1].kept, shown.cuts[-1].merged, "")


def test_where_nothing_is_cut_everything_is_kept(mini):
    example = bundled()[0]
    shown = ask(*mini, example.image, example.question, max_new_tokens=1).shown
    [cut] = shown.cuts
    assert (cut.at_layer, cut.kept, cut.merged) == (0, (tuple(range(196)),), (tuple(range(196)),))


def test_smaller_pictures_are_shown_as_the_model_saw_them(mini):
    example = bundled()[0]
    shown = ask(*mini, example.image, example.question, "downsample:0.25", max_new_tokens=1).shown
    [[seen]] = shown.images
    assert (seen.size, shown.seen) == ((56, 56), "read as a picture of 56 x 56 pixels")
    assert shown.kept == (tuple(range(49)),)
