"""A task's generation_kwargs become arguments of generate, or are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from tessella.core.errors import InputError
from tessella.integrations.decoding import Decoding, read_decoding

GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, {**GREEDY, "max_new_tokens": 1024}),
        ({"max_new_tokens": 16, "temperature": 0, "top_p": 0.9}, {**GREEDY, "max_new_tokens": 16}),
        ({"max_new_tokens": 16, "temperature": 0.7, "do_sample": False}, {**GREEDY, "max_new_tokens": 16}),
        ({"max_new_tokens": 16, "do_sample": True, "temperature": 0}, {**GREEDY, "max_new_tokens": 16}),
        (
            {"max_new_tokens": 16, "temperature": 0.7, "top_p": 0.9, "num_beams": 2, "repetition_penalty": 1.1},
            {
                "max_new_tokens": 16,
                "do_sample": True,
                "num_beams": 2,
                "temperature": 0.7,
                "top_p": 0.9,
                "top_k": None,
                "repetition_penalty": 1.1,
            },
        ),
        (
            {"max_new_tokens": 16, "do_sample": True},
            {**GREEDY, "max_new_tokens": 16, "do_sample": True, "temperature": 1.0},
        ),
        ({"max_new_tokens": 16, "image_aspect_ratio": "original", "top_p": None}, {**GREEDY, "max_new_tokens": 16}),
    ],
)
def test_arguments_of_generate(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read_decoding(given).options == expected


@pytest.mark.parametrize(
    "given, message",
    [
        ({"max_new_token": 4}, "generation_kwargs has 'max_new_token'; honoured are .* Closest: 'max_new_tokens'"),
        ({"num_samples": 4}, "generation_kwargs has 'num_samples'; honoured are"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number from 1 on; got 0"),
        ({"temperature": -1}, "temperature must be a number from 0 on; got -1"),
        ({"temperature": "hot"}, "temperature must be a number from 0 on; got 'hot'"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_decoding(given)


def test_answers_end_at_the_first_of_the_ends() -> None:
    decoding = read_decoding({"until": ["Q:", "ASSISTANT:", "\n\n"]})
    assert decoding.until == ("Q:", "ASSISTANT:")
    assert decoding.cut(" a red\n\nstar ASSISTANT: Q:") == "a red\n\nstar"
    assert decoding.cut(" no end ") == "no end"
    assert read_decoding({"until": "</s>"}).cut("red</s> blue") == "red"
    assert Decoding({}).cut(" red ") == "red"
