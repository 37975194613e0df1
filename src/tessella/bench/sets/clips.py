"""What sets of videos share: files in a folder, and frames spread evenly over each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from ...core.errors import InputError
from ..task import Clip, Part
from .loading import HubSet, Row

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")


@dataclass(frozen=True)
class VideoSet(HubSet):
    """A public set of questions on videos. How many frames are shown is a model's choice and part of the setting.

    The hub holds the videos in archives: they are unpacked by hand, and `videos` is their folder. A file is known by
    its name, in whatever folder below.
    """

    videos: str | Path | None = None  # by default the folder of `data`
    num_frames: int = 32

    pictures = ()
    video_column: ClassVar[str]  # holds the name of the file, with or without its suffix

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise InputError(f"{self.title}: num_frames must be at least 1; got {self.num_frames}.")

    def look(self, row: Row) -> tuple[Part, ...] | None:
        file = self._files.get(Path(row[self.video_column]).stem)
        clip = None if file is None else read_clip(file, self.num_frames)
        return None if clip is None else (clip,)

    def facts(self) -> dict[str, Any]:
        """Those of every set, without the place of the videos."""
        return {**super().facts(), "options": {"num_frames": self.num_frames}}

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Video files by name without suffix. Raises InputError where there is none."""
        place = self.folder if self.videos is None else Path(self.videos)
        files = [] if place is None else [f for f in sorted(place.rglob("*")) if f.suffix.lower() in SUFFIXES]
        if not files:
            where = "" if place is None else f" There is none below {str(place)!r}."
            raise InputError(
                f"{self.title} needs its video files: unpack the archives of {self.repository} and give videos: their "
                f"folder.{where}"
            )
        return {file.stem: file for file in files}


def check_decoder() -> None:
    """Raise InputError where videos cannot be decoded."""
    try:
        import av  # noqa: F401
    except ImportError:
        raise InputError(
            "videos are decoded with PyAV, which is not installed; install the extra: pip install 'tessella[sets]'"
        ) from None


def even_indices(num_frames: int, num_wanted: int) -> list[int]:
    """Places of frames in a video of `num_frames`: the first, the last and others evenly between, rounded down.

    A video with fewer frames than are wanted gives some of them more than once.

    >>> even_indices(100, 4), even_indices(2, 4)
    ([0, 33, 66, 99], [0, 0, 0, 1])
    """
    return [int(i) for i in np.linspace(0, num_frames - 1, num_wanted, dtype=int)]


def read_clip(path: Path, num_frames: int) -> Clip | None:
    """Frames of a video as RGB pictures; None where it cannot be decoded. Raises InputError without a decoder.

    The packets are read once to know when each frame is shown; then only what leads to a wanted frame is decoded.
    """
    check_decoder()
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [
                (p.pts, p.pts if p.dts is None else p.dts, p.is_keyframe)  # Matroska files lack the first ones' dts
                for p in container.demux(stream)
                if p.pts is not None
            ]
            times = sorted(shown for shown, _, _ in packets)
            wanted = [times[i] for i in even_indices(len(times), num_frames)]
            keys = {shown: decoded for shown, decoded, is_key in packets if is_key}
            frames = _decode(container, stream, wanted, keys)
    except (av.FFmpegError, IndexError):
        return None
    return Clip(tuple(frames[time] for time in wanted)) if set(wanted) <= set(frames) else None


def _decode(
    container: InputContainer, stream: VideoStream, wanted: Sequence[int], keys: Mapping[int, int]
) -> dict[int, Image.Image]:
    """The frames shown at the wanted times, which ascend.

    `keys` are the times at which key frames are shown, where decoding can start anew, and those at which they are
    decoded, by which a file is searched.
    """
    frames: dict[int, Image.Image] = {}
    at: float = -math.inf  # the time up to which frames are decoded
    decoded: Iterator[VideoFrame] = iter(())
    for time in wanted:
        key = max((key for key in keys if key <= time), default=-math.inf)
        if key > at:
            container.seek(keys[int(key)], stream=stream)
            decoded = container.decode(stream)
        while at < time and (frame := next(decoded, None)) is not None:
            if frame.pts is not None:
                at = frame.pts
                if frame.pts in wanted:
                    frames[frame.pts] = frame.to_image().convert("RGB")
    return frames
