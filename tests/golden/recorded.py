"""Recorded arrays of one file, and what a driver needs to hold a method against them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tessella.core.budget import Counts, round_count
from tessella.testing import ArrayView


class Golden:
    """The arrays of one file, which of them were read, and which were compared with what a method gave."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.read: set[str] = set()
        self.compared: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise AssertionError(f"required array '{name}' is missing")
        self.read.add(name)
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def number(self, name: str) -> Any:
        return self[name].item()

    def compare(self, name: str, got: Any, *, optional: bool = False) -> None:
        """Hold what the method gave against the recorded array `name`, which must be there unless optional."""
        if optional and name not in self.arrays:
            return
        want, given = self[name], np.asarray(got.detach().cpu() if isinstance(got, Tensor) else got)
        assert given.shape == want.shape, f"{name}: shape {given.shape}, recorded {want.shape}"
        if want.dtype.kind == "f":
            close = np.isclose(given, want, rtol=1e-4, atol=1e-5 * max(np.abs(want).max(initial=0), 1e-30))
        else:
            close = given == want
        assert close.all(), f"{name}: {(~close).sum()} of {close.size} values differ"
        self.compared.append(name)

    def compare_keep(self, keep: Tensor) -> None:
        """Compare a mask [B, V] with `keep_indices` and `keep_mask`, recorded with or without the axis B."""
        kept = [row.nonzero()[:, 0] for row in keep]
        batched = self["keep_indices"].ndim == 2
        if batched:
            assert len({len(k) for k in kept}) == 1, f"keep_indices: counts {[len(k) for k in kept]} differ"
        self.compare("keep_indices", torch.stack(kept) if batched else kept[0])
        self.compare("keep_mask", keep if batched else keep[0], optional=True)

    def compare_count(self, ratio: str, num_tokens: int, rounding: str, count: int) -> None:
        """The count that our budget makes of a recorded ratio, unless a decimal half leaves it open."""
        if ratio in self.arrays:
            exact = Fraction(repr(self.number(ratio))) * num_tokens
            if abs(exact % 1 - Fraction(1, 2)) > Fraction(1, 10**9):
                ours = round_count(exact, rounding)  # type: ignore[arg-type]
                assert ours == count, f"{ratio}: our count {ours}, recorded {count}"


def every(count: int, view: ArrayView) -> Counts:
    """The same count for each item of a view."""
    return Counts((count,) * len(view.layout.num_tokens), view.layout.num_tokens)


def negated(function: Callable[..., Any]) -> Callable[..., Any]:
    """A score with the sign flipped, in the place of one that a driver's `FLIPS` names."""
    return lambda *args, **kwargs: -function(*args, **kwargs)
