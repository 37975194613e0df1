"""What a run did: tokens before and after, cache, time. Summed over all prompts of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.layout import CLASS, NEWLINE, ROLES, THUMBNAIL, Layout


@dataclass(frozen=True)
class RoleCount:
    """Of the tokens of one role, how many were kept."""

    kept: int
    of: int

    def __add__(self, other: RoleCount) -> RoleCount:
        return RoleCount(self.kept + other.kept, self.of + other.of)

    def __str__(self) -> str:
        return f"{self.kept} of {self.of}"


@dataclass(frozen=True)
class PromptRecord:
    """One prefill: per batch row a list of counts per image; `layers` sums rows, per decoder layer.

    `mean_keep_ratios` has for each row the average over decoder layers of the share of visual tokens that they see.
    `roles` has the tokens that are no patches, by role, where there are any.
    """

    tokens_in: tuple[tuple[int, ...], ...]
    tokens_kept: tuple[tuple[int, ...], ...]
    layers: tuple[int, ...]
    mean_keep_ratios: tuple[float, ...]
    cache_lengths: tuple[int, ...]
    cache_bytes: int
    full_cache_bytes: int
    roles: dict[str, RoleCount] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a run did so far. Counts are sums over prompts; `last` is the latest prompt alone.

    `keep_ratio` is kept / all visual tokens after the last cut; `mean_keep_ratio` the average over decoder layers.
    `roles` says how many of `tokens_in` and `tokens_kept` are newlines, thumbnails, ...; what is left are patches.
    """

    pipeline: str
    positions: str
    requested: str
    prompts: int
    tokens_in: int
    tokens_kept: int
    keep_ratio: float
    mean_keep_ratio: float
    layers: tuple[int, ...]
    cache_bytes: int
    full_cache_bytes: int
    decoded_tokens: int
    ms: dict[str, float]
    notes: tuple[str, ...] = ()
    last: PromptRecord | None = None
    roles: dict[str, RoleCount] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.prompts:
            return f"{self.pipeline}: no prompt yet"
        lines = [
            f"{self.pipeline} (positions {self.positions}, asked {self.requested}): {self.prompts} prompt(s)",
            f"  visual tokens  {self.tokens_kept} of {self.tokens_in} kept ({self.keep_ratio:.1%}); "
            f"{self.mean_keep_ratio:.1%} on the mean over layers",
            *([f"  among them     {describe_roles(self.roles)}"] if self.roles else []),
            f"  cache          {_size(self.cache_bytes)} of {_size(self.full_cache_bytes)}",
            "  time           " + ", ".join(f"{k} {v:.1f} ms" for k, v in self.ms.items() if v),
        ]
        return "\n".join(lines + [f"  note           {n}" for n in self.notes])


@dataclass
class Totals:
    """Running sums behind a report."""

    prompts: int = 0
    tokens_in: int = 0
    tokens_kept: int = 0
    cache_bytes: int = 0
    full_cache_bytes: int = 0
    decoded_tokens: int = 0
    layers: list[int] = field(default_factory=list)
    last: PromptRecord | None = None
    roles: dict[str, RoleCount] = field(default_factory=dict)

    def add(self, record: PromptRecord) -> None:
        self.prompts += 1
        self.tokens_in += sum(map(sum, record.tokens_in))
        self.tokens_kept += sum(map(sum, record.tokens_kept))
        self.cache_bytes += record.cache_bytes
        self.full_cache_bytes += record.full_cache_bytes
        self.layers = [a + b for a, b in zip(self.layers or [0] * len(record.layers), record.layers, strict=True)]
        for role, count in record.roles.items():
            self.roles[role] = self.roles.get(role, RoleCount(0, 0)) + count
        self.last = record


def count_roles(before: Layout, after: Layout) -> dict[str, RoleCount]:
    """How many of the tokens of each role but patches are left; roles that do not occur are left out."""
    counts = {
        ROLES[role]: RoleCount(int((after.role == role).sum()), int((before.role == role).sum()))
        for role in (NEWLINE, THUMBNAIL, CLASS)
    }
    return {name: count for name, count in counts.items() if count.of}


def describe_roles(roles: Mapping[str, RoleCount]) -> str:
    """In words: 'newline 12 of 24, thumbnail 30 of 576'."""
    return ", ".join(f"{name} {count}" for name, count in roles.items())


def _size(num_bytes: int) -> str:
    value, unit = float(num_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
