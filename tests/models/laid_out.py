"""Layouts as plain lists, and inputs that do not fit their pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tessella.models.adapter import find_adapter
from tessella.models.placing import layout_of


def places(model: Any, inputs: Mapping[str, Tensor], *names: str) -> list[list[tuple[int, ...]]]:
    """For each row of a batch these columns of the layout of its visual tokens."""
    layout = layout_of(find_adapter(model), inputs)
    assert layout is not None
    columns = torch.stack([getattr(layout, name) for name in names], dim=2).tolist()
    return [[tuple(t) for t in row[:count]] for row, count in zip(columns, layout.num_tokens, strict=True)]


def without_two_placeholders(inputs: Mapping[str, Tensor], token: int) -> dict[str, Tensor]:
    """Inputs of one row, of whose placeholders the last two are cut out."""
    keep = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    keep[(inputs["input_ids"][0] == token).nonzero()[-2:, 0]] = False
    length = len(keep)
    return {k: v[:, keep] if v.ndim == 2 and v.shape == (1, length) else v for k, v in inputs.items()}
