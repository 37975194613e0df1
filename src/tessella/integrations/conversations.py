"""A conversation with pictures and clips as the text that a model's processor reads, and its media in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..app.conversations import check_words, write_turns
from ..core.errors import InputError
from ..pictures.opening import open_picture, to_rgb
from .clips import Frames, read_frames

Message = dict[str, Any]  # "role", and "content": a text or a list of parts, each with its "type" and "text" or "url"


@dataclass(frozen=True)
class Prompt:
    """A chat text with one placeholder for each of its pictures and clips, in their order."""

    text: str
    pictures: tuple[Image.Image, ...] = ()
    clips: tuple[Frames, ...] = ()


@dataclass(frozen=True)
class Writer:
    """Writes prompts for one processor: `max_num_frames` of each clip, `system_prompt` in front.

    A model whose processor takes no clips reads their frames as pictures.
    """

    processor: Any
    max_num_frames: int
    system_prompt: str | None = None

    def write(self, messages: Sequence[Message]) -> Prompt:
        """The prompt after which the model is to answer.

        Raises InputError for media that cannot be read or are neither picture nor clip, and for questions that hold a
        placeholder themselves.
        """
        pictures: list[Image.Image] = []
        clips: list[Frames] = []
        turns = []
        if self.system_prompt:
            turns.append({"role": "system", "content": [{"type": "text", "text": self.system_prompt}]})
        for message in messages:
            content = []
            for part in self._parts(message["content"]):
                if isinstance(part, str):
                    content.append({"type": "text", "text": part})
                elif isinstance(part, Frames):
                    clips.append(part)
                    content.append({"type": "video"})
                else:
                    pictures.append(part)
                    content.append({"type": "image"})
            turns.append({"role": message["role"], "content": content})
        return Prompt(write_turns(self.processor, turns), tuple(pictures), tuple(clips))

    def _parts(self, content: Any) -> Iterator[str | Image.Image | Frames]:
        """Texts, pictures and clips of a message, read."""
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                yield check_words(self.processor, part["text"])
            elif part["type"] == "image":
                yield read_image(part["url"])
            elif part["type"] == "video":
                clip = self._read_clip(part["url"])
                yield from (clip,) if getattr(self.processor, "video_processor", None) else clip.pictures
            else:
                raise InputError(f"a prompt holds {part['type']!r}; the model reads text, pictures and clips.")

    def _read_clip(self, what: Any) -> Frames:
        if not isinstance(what, str):
            raise InputError(f"a clip must be the path of a video file; got {type(what).__name__}.")
        return read_frames(what, self.max_num_frames)


def read_image(what: Any) -> Image.Image:
    """A picture, or the picture in a file, as RGB. Raises InputError for anything else."""
    if isinstance(what, Image.Image):
        return to_rgb(what)
    if isinstance(what, str):
        return open_picture(what)
    raise InputError(f"a picture must be a Pillow image or a path; got {type(what).__name__}.")
