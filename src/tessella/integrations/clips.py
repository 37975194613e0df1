"""Frames of a video file, taken evenly, with what a processor must know to tell the time of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.errors import InputError


@dataclass(frozen=True)
class Frames:
    """Some frames of a clip: `pictures[i]` is frame `indices[i]` of `total`, of which `fps` are a second."""

    pictures: tuple[Image.Image, ...]
    indices: tuple[int, ...]
    total: int
    fps: float

    @property
    def facts(self) -> dict[str, Any]:
        """The `video_metadata` of a processor."""
        return {"total_num_frames": self.total, "fps": self.fps, "frames_indices": list(self.indices)}


def read_frames(path: str, most: int) -> Frames:
    """At most `most` frames of a file, the first and the last among them where there are two.

    Raises InputError for a file that is missing or holds no video.
    """
    import av  # comes with lmms-eval

    if not Path(path).is_file():
        raise InputError(f"there is no video {path!r}.")
    try:
        with av.open(path) as container:
            rate = container.streams.video[0].average_rate
            total = sum(1 for _ in container.decode(video=0))  # headers lie, and some say nothing
            container.seek(0)
            indices = choose_frames(total, most)
            chosen = set(indices)
            pictures = [f.to_image() for i, f in enumerate(container.decode(video=0)) if i in chosen]
    except (OSError, IndexError, ValueError) as error:  # of av: each is one of these too
        raise InputError(f"the video {path!r} cannot be read: {error}.") from error
    return Frames(tuple(pictures), indices, total, float(rate or 1))


def choose_frames(total: int, most: int) -> tuple[int, ...]:
    """Indices of at most `most` of `total` frames at equal distances.

    >>> choose_frames(10, 4), choose_frames(3, 8)
    ((0, 3, 6, 9), (0, 1, 2))
    """
    if total < 1:
        raise ValueError("it holds no frames")
    return tuple(int(i) for i in np.linspace(0, total - 1, min(total, most)).round())
