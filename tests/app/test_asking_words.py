"""Words for methods that read them, where the caller has the processor and nothing is remembered of the model."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

import tessella
from spying import Spy
from tessella import mini
from tessella.app.answering import ask, ask_many
from tessella.app.demo import bundled
from tessella.core.errors import UnsupportedError

QUESTION = "what color is the star?"


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """The embedded model as transformers loads it."""
    return AutoModelForImageTextToText.from_pretrained(mini.path()).eval(), AutoProcessor.from_pretrained(mini.path())


def test_asking_gives_the_run_its_processor(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    picture, spy = bundled()[0].image, Spy(lambda v: v.words())
    ask(model, processor, picture, QUESTION, spy, 0.5, max_new_tokens=1)
    ask_many(model, processor, [picture, picture], [QUESTION, "where is it?"], spy, 0.5, max_new_tokens=1)
    assert spy.seen == [[QUESTION], [QUESTION, "where is it?"]]


def test_a_run_by_hand_is_told_how_to_get_words(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    inputs = processor(text=[f"<image>{QUESTION}"], images=[bundled()[0].image], return_tensors="pt")
    with (
        tessella.reduce(model, Spy(lambda v: v.words()), 0.5),
        pytest.raises(UnsupportedError, match="pass processor="),
    ):
        model(**inputs)
