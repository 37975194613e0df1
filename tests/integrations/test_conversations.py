"""Conversations become chat texts with their pictures and clips in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tessella
from tessella.core.errors import InputError
from tessella.integrations import conversations
from tessella.integrations.clips import Frames
from tessella.integrations.conversations import Prompt, Writer
from tessella.testing.families import tiny_family

RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
CLIP = Frames((RED, BLUE), (0, 9), total=10, fps=5.0)


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(tessella.load("mini", device="cpu")[1], max_num_frames=4)


def text(what: str) -> dict[str, Any]:
    return {"type": "text", "text": what}


def picture(what: Any) -> dict[str, Any]:
    return {"type": "image", "url": what}


def test_pictures_stand_where_the_task_puts_them(writer: Writer, tmp_path: Path) -> None:
    BLUE.save(tmp_path / "blue.png")
    content = [text("one "), picture(RED), text(" two "), picture(str(tmp_path / "blue.png")), text(" three?")]
    prompt = writer.write([{"role": "user", "content": content}])
    assert prompt.text == "<s><user>one <image> two <image> three?<assistant>"
    assert [p.getpixel((0, 0)) for p in prompt.pictures] == [(255, 0, 0), (0, 0, 255)]


def test_turns_and_the_system_prompt_come_in_their_order() -> None:
    writer = Writer(tiny_family("qwen2_5_vl").processor(), 4, system_prompt="is it so")
    turns = [
        {"role": "user", "content": [picture(RED), text("what color")]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "and then"},
    ]
    assert " ".join(writer.write(turns).text.split()) == (
        "system : is it so user : <|vision_start|><|image_pad|><|vision_end|> what color "
        "assistant : red user : and then assistant :"
    )


def test_clips_are_clips_or_the_pictures_of_their_frames(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whether the processor takes clips. The reading of files alone is replaced."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(conversations, "read_frames", lambda path, most: asked.append((path, most)) or CLIP)
    messages = [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}, text("what")]}]
    prompt = writer.write(messages)
    assert prompt == Prompt("<s><user><image><image>what<assistant>", (RED, BLUE), ())
    prompt = Writer(tiny_family("qwen2_5_vl").processor(), 2).write(messages)
    assert prompt.clips == (CLIP,)
    assert prompt.pictures == ()
    assert prompt.text.count("<|video_pad|>") == 1
    assert asked == [("a.mp4", 4), ("a.mp4", 2)]


@pytest.mark.parametrize(
    "part, message",
    [
        ({"type": "audio", "url": "a.wav"}, "a prompt holds 'audio'; the model reads text, pictures and clips"),
        (
            text("what is <image>?"),
            "a prompt's text holds the placeholder '<image>', which stands for",
        ),
        (picture(7), "a picture must be a Pillow image or a path; got int"),
        (picture("nowhere.png"), "nowhere.png"),
        ({"type": "video", "url": {"path": "a.mp4"}}, "a clip must be the path of a video file; got dict"),
    ],
)
def test_parts_that_are_refused(writer: Writer, part: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        writer.write([{"role": "user", "content": [part]}])


def test_a_processor_without_a_template_reads_one_message() -> None:
    processor = tiny_family("llava").processor()
    processor.chat_template = None
    writer = Writer(processor, 4)
    prompt = writer.write([{"role": "user", "content": [picture(RED), text("what color?")]}])
    assert prompt.text == "USER: <image>\nwhat color? ASSISTANT:"
    with pytest.raises(InputError, match=r"has no chat template, so it reads one message .* got 2 messages of text"):
        writer.write([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
