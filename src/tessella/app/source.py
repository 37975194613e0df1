"""Which model a command is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """Which model to load and how; see `tessella.load`."""

    name: str = "mini"
    dtype: str | None = None
    device: str | None = None

    def load(self) -> tuple[Any, Any]:
        from ..loading import load

        return load(self.name, self.dtype, self.device)
