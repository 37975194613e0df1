"""Questions about pictures, from the user's own file or drawn by the project, and the inputs that a model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Sample:
    """A question about one or several pictures; the answer and the kind of question where they are known."""

    images: tuple[Image.Image, ...]
    question: str
    answer: str | None = None
    kind: str | None = None


def batches(model: Any, processor: Any, samples: Sequence[Sample], size: int = 8) -> Iterator[tuple[list[Sample], Any]]:
    """Samples in order, `size` at a time, each time with the inputs for `model(...)` and `generate` on its device."""
    from .app.prompting import prepare

    for start in range(0, len(samples), size):
        some = list(samples[start : start + size])
        yield some, prepare(model, processor, [s.images for s in some], [s.question for s in some], max_new_tokens=1)
