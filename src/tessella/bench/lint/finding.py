"""One finding, and how settings are named in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..summary import Measured

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")  # the first make tables wrong, the last less telling
NAMED = 6  # names in one sentence


@dataclass(frozen=True)
class Finding:
    """One thing that was found: how bad, by which rule, where, in words, and the numbers behind the words."""

    level: Level
    rule: str
    where: str
    text: str
    numbers: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.text}"

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def name_setting(measured: Measured) -> str:
    """The label with the keep."""
    keep = measured.setting.keep
    return measured.label if keep is None or keep in measured.label else f"{measured.label}:{keep}"


def list_names(names: Sequence[str]) -> str:
    """Names with commas, of many the first few and the number of the rest."""
    shown = names if len(names) <= NAMED else names[: NAMED - 1]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def as_points(share: float) -> str:
    """A share as percentage points with one digit."""
    return f"{100 * share:.1f}"
