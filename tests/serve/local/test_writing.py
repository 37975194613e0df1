"""Text comes in whole characters and ends in front of a stop."""

from __future__ import annotations

import pytest

from tessella.serve.local.writing import Text


class Bytes:
    """A tokenizer whose tokens are bytes, 0 being a special one."""

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(t for t in tokens if t).decode("utf-8", errors="replace")


def pieces(text: str, *stops: str) -> tuple[list[str], bool]:
    """What each byte adds, and the rest; whether a stop was met."""
    writer = Text(Bytes(), stops)
    out = []
    for byte in text.encode("utf-8"):
        out.append(writer.add(byte))
        if writer.is_stopped:
            break
    return [*out, writer.end()], writer.is_stopped


def test_a_character_waits_for_its_last_byte() -> None:
    assert pieces("aé€🙂b") == (["a", "", "é", "", "", "€", "", "", "", "🙂", "b", ""], False)


def test_text_that_is_long_is_the_same_as_all_at_once() -> None:
    text = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 🙂🙃 " * 3
    parts, stopped = pieces(text)
    assert "".join(parts) == text
    assert not stopped


def test_a_character_that_never_ends_is_told_at_the_end() -> None:
    writer = Text(Bytes(), ())
    assert [writer.add(b) for b in b"a\xe2\x82"] == ["a", "", ""]
    assert writer.end() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "told"),
    [
        ("one, two", (",",), "one"),
        ("one two", ("two", "e t"), "on"),
        ("abcabd", ("abd",), "abc"),
        ("aab", ("ab",), "a"),
        ("end?", ("??",), "end?"),
        ("x", ("x",), ""),
    ],
)
def test_an_answer_ends_in_front_of_a_stop(text: str, stops: tuple[str, ...], told: str) -> None:
    parts, stopped = pieces(text, *stops)
    assert "".join(parts) == told
    assert stopped == any(stop in text for stop in stops)


def test_the_beginning_of_a_stop_is_held_back_and_told_if_none_comes() -> None:
    writer = Text(Bytes(), ("abc",))
    assert [writer.add(b) for b in b"xab"] == ["x", "", ""]
    assert writer.add(ord("d")) == "abd"
    assert writer.end() == ""


def test_spaces_in_front_of_the_first_word_are_left_out() -> None:
    assert "".join(pieces("  a  b ")[0]) == "a  b "


def test_special_tokens_have_no_text() -> None:
    writer = Text(Bytes(), ())
    assert [writer.add(t) for t in (ord("a"), 0, ord("b"))] == ["a", "", "b"]
