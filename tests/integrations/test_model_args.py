"""What stands behind --model_args is read before a model is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from tessella.core.errors import BudgetError, InputError, UnknownMethodError
from tessella.integrations.model_args import read_model_args


def test_what_is_not_given_is_everything_one_by_one() -> None:
    args = read_model_args({"pretrained": "mini", "device": None})
    assert (args.pipeline, args.keep, args.batch_size, args.max_num_frames) == ("none", None, 1, 8)
    assert str(args.resolved()) == "none"


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"pipeline": "hiprune:1/9"}, "hiprune:1/9"),
        ({"pipeline": "hiprune", "keep": "1/9"}, "hiprune:1/9"),
        ({"pipeline": "hiprune", "keep": 64}, "hiprune:64"),
        ({"pipeline": "hiprune", "keep": 0.5, "scope": "prompt"}, "hiprune:0.5 per prompt"),
        ({"pipeline": "'divprune:0.5 | fastv@2:0.5'"}, "divprune:0.5 | fastv@2:0.5"),
        ({"pipeline": '"hiprune(alpha=0.2):64"'}, "hiprune(alpha=0.2):64"),
    ],
)
def test_pipelines(given: dict[str, Any], expected: str) -> None:
    assert str(read_model_args({"pretrained": "mini", **given}).resolved()) == expected


def test_batch_size_may_be_a_text() -> None:
    """As lmms-eval's --batch_size is."""
    assert read_model_args({"pretrained": "mini", "batch_size": "16"}).batch_size == 16


@pytest.mark.parametrize(
    "given, message",
    [
        ({"pipelin": "none"}, "model_args has no 'pipelin'; allowed: pretrained, pipeline, .* Closest: 'pipeline'"),
        ({"pipeline": "hiprune(alpha=0.2", "layer": "3):64"}, "pipeline='hiprune.alpha=0.2' was cut at a comma; quote"),
        ({"pipeline": 0.5}, "pipeline must be a text; got 0.5"),
        ({"batch_size": "auto"}, "batch_size must be a whole number from 1 on; got 'auto'"),
        ({"max_num_frames": 0}, "max_num_frames must be a whole number from 1 on; got 0"),
        ({"max_batch_size": 8}, "max_batch_size is for batch sizes that are searched for; give batch_size"),
        ({"attn_implementation": "fast"}, "attn_implementation must be one of eager, .*; got 'fast'"),
    ],
)
def test_arguments_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_model_args({"pretrained": "mini", **given})


def test_a_model_must_be_named() -> None:
    with pytest.raises(InputError, match=r"model_args must say pretrained=...: 'mini', a folder, or a hub id"):
        read_model_args({"pipeline": "none"})


def test_budgets_and_methods_are_those_of_the_library() -> None:
    with pytest.raises(BudgetError, match=r"keep must be an int >= 1, a fraction .* got '25%'"):
        read_model_args({"pretrained": "mini", "pipeline": "hiprune", "keep": "25%"})
    with pytest.raises(BudgetError, match="hiprune needs a keep"):
        read_model_args({"pretrained": "mini", "pipeline": "hiprune"})
    with pytest.raises(UnknownMethodError, match="Closest: 'hiprune'"):
        read_model_args({"pretrained": "mini", "pipeline": "hi_prune:64"})
