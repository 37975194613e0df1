"""Turns become the text that a processor reads, or are refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

import tessella
from tessella.app.conversations import check_words, write_turns
from tessella.core.errors import InputError


@pytest.fixture
def processor() -> Any:
    return tessella.load("mini", device="cpu")[1]


def turn(role: str, *parts: str | None) -> dict[str, Any]:
    content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": content}


def test_turns_in_their_order(processor: Any) -> None:
    turns = [turn("user", None, "what?"), turn("assistant", "red"), turn("user", "and?")]
    assert write_turns(processor, turns) == "<s><user><image>what?<assistant>red</s><user>and?<assistant>"


def test_what_a_template_refuses_is_told(processor: Any) -> None:
    processor.chat_template = "{{ raise_exception('roles must alternate.') }}"
    with pytest.raises(
        InputError, match=r"^the model's chat template refuses this conversation: roles must alternate\.$"
    ):
        write_turns(processor, [turn("user", "a"), turn("user", "b")])


@pytest.mark.parametrize("text, message", [("a\ud800", "not UTF-8"), ("a <image>", "holds the placeholder '<image>'")])
def test_words_that_cannot_be_written(processor: Any, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_words(processor, text)
    assert check_words(processor, "a \N{SNOWMAN}") == "a \N{SNOWMAN}"
