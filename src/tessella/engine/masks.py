"""Attention masks of shortened sequences.

At prefill the mask that a layer received is gathered; at decode a mask is built from what survived in that segment and
from the layer's own rule.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..models.adapter import MaskRule


def gather_mask(
    received: Tensor | None, places: Int[Tensor, "B S"], valid: Bool[Tensor, "B S"] | None
) -> Tensor | None:
    """Rows and columns `places` of the mask that a layer received for the whole prompt.

    None stays None unless `valid` marks padding that the engine added; then a causal mask is built. Two-dimensional
    masks (flash attention) lose columns only. Masks of padded columns are closed, except on the diagonal, so that no
    row is empty.
    """
    if received is None:
        return None if valid is None else causal_mask(valid)
    if received.ndim == 2:
        columns = received.expand(len(places), -1).gather(1, places)
        return columns if valid is None else columns * valid.to(columns.dtype)
    batch, size = places.shape
    full = received.expand(batch, *received.shape[1:])
    heads = full.shape[1]
    rows = full.gather(2, places[:, None, :, None].expand(batch, heads, size, full.shape[-1]))
    mask = rows.gather(3, places[:, None, None, :].expand(batch, heads, size, size))
    if valid is None:
        return mask
    open_ = valid[:, None, None, :] | torch.eye(size, dtype=torch.bool, device=mask.device)
    if mask.dtype == torch.bool:
        return (mask & open_) | (torch.eye(size, dtype=torch.bool, device=mask.device) & ~valid[:, None, None, :])
    return mask.masked_fill(~open_, torch.finfo(mask.dtype).min)


def causal_mask(valid: Bool[Tensor, "B S"]) -> Bool[Tensor, "B 1 S S"]:
    """Causal mask over valid columns; every row sees at least itself."""
    size = valid.shape[1]
    here = torch.arange(size, device=valid.device)
    causal = here[:, None] >= here[None, :]
    own = here[:, None] == here[None, :]
    return ((causal & valid[:, None, :]) | own)[:, None]


def decode_mask(
    past_valid: Bool[Tensor, "B P"] | None,
    new_valid: Bool[Tensor, "B Q"] | None,
    *,
    batch: int,
    num_past: int,
    num_new: int,
    device: torch.device,
    rule: MaskRule | None = None,
    past_places: Int[Tensor, "B P"] | None = None,
    new_places: Int[Tensor, "B Q"] | None = None,
) -> Bool[Tensor, "B 1 Q S"] | None:
    """Mask of new tokens over a segment's cache and themselves; None where everything may be seen."""
    if past_valid is None and new_valid is None and num_new == 1 and rule is None:
        return None
    past = past_valid if past_valid is not None else torch.ones(batch, num_past, dtype=torch.bool, device=device)
    new = new_valid if new_valid is not None else torch.ones(batch, num_new, dtype=torch.bool, device=device)
    here = torch.arange(num_new, device=device)
    own = here[:, None] == here[None, :]
    among = ((here[:, None] >= here[None, :]) & new[:, None, :]) | own
    mask = torch.cat([past[:, None, :].expand(batch, num_new, num_past), among.expand(batch, num_new, num_new)], dim=2)
    if rule is not None:
        assert past_places is not None
        assert new_places is not None
        keys = torch.cat([past_places, new_places], dim=1)
        mask = mask & rule(new_places[:, :, None], keys[:, None, :])
    return mask[:, None]


def as_implementation(mask: Tensor | None, implementation: str, dtype: torch.dtype) -> Tensor | None:
    """A boolean mask in the form that an attention implementation expects."""
    if mask is None or mask.dtype != torch.bool or mask.ndim == 2:
        return mask
    if "flash" in implementation:
        return mask[:, 0, -1]
    if implementation == "eager":
        zero = torch.zeros((), dtype=dtype, device=mask.device)
        return torch.where(mask, zero, torch.finfo(dtype).min)
    return mask
