"""One method's answer as it grows, and how it agrees with the full model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..contract import Closing, Reading

PARTS = ("encode", "score", "select", "prefill", "decode", "queue")  # in the order in which they are shown


@dataclass
class Column:
    """What is known so far: `view` (markup) are the patches that were kept, `error` says why there is no answer."""

    name: str
    view: str = ""
    reading: Reading | None = None
    answer: str = ""
    closing: Closing | None = None
    error: str = ""

    @property
    def is_over(self) -> bool:
        return self.closing is not None or bool(self.error)

    @property
    def ms(self) -> dict[str, float]:
        """Milliseconds of each part, as far as they are known."""
        if self.reading is None:
            return {}
        ms = self.reading.ms if self.closing is None else {**self.reading.ms, "decode": self.closing.decode_ms}
        return {part: ms[part] for part in PARTS if part in ms}


def agreements(columns: Sequence[Column]) -> dict[int, bool]:
    """For columns whose answer is complete, whether it is the first one's, once that is complete too."""
    full, *others = columns
    if full.closing is None:
        return {}
    return {
        number: column.answer.strip() == full.answer.strip()
        for number, column in enumerate(others, start=1)
        if column.closing is not None
    }
