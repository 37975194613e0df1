"""How many tokens to keep: the only place where a keep becomes a count."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from .errors import BudgetError
from .layout import Layout, Unit, Units

Scope = Literal["image", "tile", "frame", "prompt", "layer-mean"]
SCOPES: tuple[Scope, ...] = ("image", "tile", "frame", "prompt", "layer-mean")
Rounding = Literal["nearest", "floor", "ceil"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "floor", "ceil")

_LONG_EXPONENT = re.compile(r"e[+-]?[\d_]{4}", re.I)
_ALLOWED = "keep must be an int >= 1, a fraction in (0, 1] or 'a/b'"


@dataclass(frozen=True, init=False)
class Budget:
    """What the user asks: `keep` tokens (int) or a share of them (Fraction), counted over `scope`.

    `keep` is read by `parse_keep`; `scope=None` leaves the scope to the method's card. `capped`, for budgets that one
    method works out for another: where fewer tokens are there, all of them. Raises BudgetError.
    """

    keep: int | Fraction
    scope: Scope | None = None
    capped: bool = False

    def __init__(self, keep: object, scope: str | None = None, capped: bool = False) -> None:
        if scope is not None and scope not in SCOPES:
            raise BudgetError(f"no scope {scope!r}; allowed: {', '.join(SCOPES)}.")
        object.__setattr__(self, "keep", parse_keep(keep))
        object.__setattr__(self, "scope", scope)
        object.__setattr__(self, "capped", capped)

    @property
    def is_everything(self) -> bool:
        """True for the fraction 1.0, which keeps every token."""
        return isinstance(self.keep, Fraction) and self.keep == 1

    def __str__(self) -> str:
        return format_keep(self.keep) + (f" per {self.scope}" if self.scope else "")


@dataclass(frozen=True)
class Counts:
    """A budget resolved for the items a method decides on: `num_keep[u]` of `num_tokens[u]` tokens of item u.

    `asked` is False where the user gave no keep, so that an adaptive method is free in its number. `num_first` are the
    tokens of each item in front of the method's first cut, where this is a later one.
    """

    num_keep: tuple[int, ...]
    num_tokens: tuple[int, ...]
    asked: bool = True
    num_first: tuple[int, ...] | None = None

    @property
    def most(self) -> int:
        """The largest number kept by one item: the width K of padded results."""
        return max(self.num_keep, default=0)

    @property
    def is_everything(self) -> bool:
        return self.num_keep == self.num_tokens

    @property
    def originally(self) -> tuple[int, ...]:
        """Tokens of each item in front of the method's first cut, which may be this one."""
        return self.num_tokens if self.num_first is None else self.num_first


def on_device(numbers: Sequence[int], device: torch.device) -> Int[Tensor, " B"]:
    """Numbers known to the host as a tensor, without waiting for what the device is doing.

    >>> on_device((3, 1), torch.device("cpu"))
    tensor([3, 1])
    """
    return torch.tensor(numbers, dtype=torch.long).to(device, non_blocking=True)


def parse_keep(keep: object) -> int | Fraction:
    """Read an int, a float, a Fraction, 'a/b' or a number in text. Raises BudgetError with the allowed forms.

    >>> parse_keep("1/9"), parse_keep(0.3), parse_keep("64")
    (Fraction(1, 9), Fraction(3, 10), 64)
    """
    value = keep
    if isinstance(value, str):
        text = value.strip()
        if _LONG_EXPONENT.search(text):  # written out it would fill the memory
            raise BudgetError(f"{_ALLOWED}; got {keep!r}.")
        if text.endswith("%"):
            raise BudgetError(f"{_ALLOWED}; got {keep!r}.{_percent_hint(text)}")
        try:
            value = int(text) if text.lstrip("+-").isdigit() else Fraction(text)
        except (ValueError, ZeroDivisionError):
            raise BudgetError(f"{_ALLOWED}; got {keep!r}.") from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BudgetError(f"{_ALLOWED}; got {keep!r}.")
        value = Fraction(repr(float(value)))  # the decimal that was written, so that 0.3 of 10 is 3
    elif isinstance(value, Integral) and not isinstance(value, bool):
        value = int(value)  # numpy's integers too
    if isinstance(value, bool) or not isinstance(value, int | Fraction):
        raise BudgetError(f"{_ALLOWED}; got {keep!r}.")
    if isinstance(value, int):
        if value < 1:
            raise BudgetError(f"{_ALLOWED}; got {keep!r}.")
        return value
    if not 0 < value <= 1:
        hint = f" For {int(value)} tokens write {int(value)}." if value > 1 and value.denominator == 1 else ""
        raise BudgetError(f"{_ALLOWED}; got {keep!r}.{hint}")
    return value


def format_keep(keep: int | Fraction) -> str:
    """The shortest text that `parse_keep` reads back to the same value.

    >>> format_keep(64), format_keep(Fraction(1, 2)), format_keep(Fraction(1, 9)), format_keep(Fraction(1))
    ('64', '0.5', '1/9', '1.0')
    """
    if isinstance(keep, int):
        return str(keep)
    text = repr(float(keep))
    return text if "e" not in text and Fraction(text) == keep else f"{keep.numerator}/{keep.denominator}"


def round_count(value: Fraction, rounding: Rounding) -> int:
    """A count from an exact share; 'nearest' takes the even neighbour at one half, as Python's round does."""
    if rounding == "nearest":
        return round(value)
    return math.floor(value) if rounding == "floor" else math.ceil(value)


def divide(total: int, sizes: Sequence[int]) -> list[int]:
    """Split `total` over groups in proportion to their sizes by largest remainder; ties go to the earlier group.

    No group gets more than its size when `total <= sum(sizes)`.

    >>> divide(10, [4, 4, 2])
    [4, 4, 2]
    >>> divide(4, [3, 3, 3])
    [2, 1, 1]
    """
    whole = sum(sizes)
    if whole == 0:
        return [0] * len(sizes)
    shares = [Fraction(total * s, whole) for s in sizes]
    out = [math.floor(s) for s in shares]
    order = sorted(range(len(sizes)), key=lambda i: (out[i] - shares[i], i))
    for i in order[: total - sum(out)]:
        out[i] += 1
    return out


def decision_unit(scope: Scope, unit: Unit) -> Unit:
    """The groups among which tokens compete: the scope, or the method's finer unit inside an image."""
    if scope == "layer-mean":
        return unit
    if scope == "image":
        return unit if unit in ("tile", "frame") else "image"
    return scope


def resolve_counts(
    budget: Budget, layout: Layout, units: Units, *, scope: Scope, rounding: Rounding, min_keep: int
) -> Counts:
    """Counts for each unit. Raises BudgetError when more is asked than there is, unless the budget is capped.

    Only tokens that compete in `units` are counted. A fraction is rounded by `rounding` and is at least `min_keep` (or
    everything, if a group has fewer tokens).
    """
    keep = budget.keep
    groups = layout.split(_counted_over(scope, units.unit), units.without)
    asked = []
    for g, available in enumerate(groups.num_tokens):
        if isinstance(keep, int):
            images = groups.layout.num_images[g] if scope == "prompt" else 1
            want = min(keep * images, available) if budget.capped else keep * images
            if want > available:
                raise BudgetError(
                    f"keep={keep} asks for {want} visual tokens per {scope}, but only {available} are there; "
                    f"allowed: 1 to {available // images}, or a fraction in (0, 1]."
                )
            if want < min(min_keep, available):
                raise BudgetError(
                    f"keep={keep} asks for {want} visual token(s) per {scope}; this method leaves at least {min_keep}."
                )
        else:
            want = min(max(round_count(keep * available, rounding), min_keep), available)
        asked.append(want)
    members: list[list[int]] = [[] for _ in asked]
    for u, g in enumerate(_owners(units, groups, layout)):
        members[g].append(u)
    num_keep = [0] * len(units)
    for want, inside in zip(asked, members, strict=True):
        for u, share in zip(inside, divide(want, [units.num_tokens[u] for u in inside]), strict=True):
            num_keep[u] = share
    return Counts(tuple(num_keep), units.num_tokens)


def _counted_over(scope: Scope, unit: Unit) -> Unit:
    return unit if scope == "layer-mean" else scope


def _owners(units: Units, groups: Units, layout: Layout) -> list[int]:
    """The group that holds each unit."""
    owner = torch.full_like(layout.slot, -1)
    for g, count in enumerate(groups.num_tokens):
        owner[groups.source_row[g], groups.index[g, :count]] = g
    return [int(owner[row, units.index[u, 0]]) for u, row in enumerate(units.source_row)]


def _percent_hint(text: str) -> str:
    try:
        share = Fraction(text[:-1].strip()) / 100
    except (ValueError, ZeroDivisionError):
        return ""
    if not 0 < share <= 1:
        return ""
    if share == Fraction(1, 4):
        return " For a quarter write 0.25 or 1/4."
    return f" Write {format_keep(share)}."
