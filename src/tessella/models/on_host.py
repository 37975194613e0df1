"""Values of a tensor on the host, read without draining the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class _Copy:
    """A tensor's values and the version of it that they are."""

    values: Tensor
    version: int


_copies: WeakIdKeyDictionary = WeakIdKeyDictionary()


def on_host(tensor: Tensor) -> Tensor:
    """The values of a tensor on the CPU; the tensor itself if it is there. Copies are kept as long as the tensor.

    On a CUDA device the host waits for this copy alone, not for work that is queued behind it. Prompts, masks and grids
    are read where a forward begins, when nothing but their making is queued.

    >>> ids = torch.tensor([1, 2])
    >>> on_host(ids) is ids
    True
    """
    if tensor.device.type == "cpu":
        return tensor
    tracked = not tensor.is_inference()  # others have no version
    known = _copies.get(tensor) if tracked else None
    if known is not None and known.version == tensor._version:
        return known.values
    values = _copied(tensor)
    if tracked:
        _copies[tensor] = _Copy(values, tensor._version)
    return values


def _copied(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.cpu()
    values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    values.copy_(tensor.detach(), non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(tensor.device))
    event.synchronize()
    return values
