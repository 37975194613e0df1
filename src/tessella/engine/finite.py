"""Refusing values that are not finite, without waiting for a device."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import InputError


class Finite:
    """Watches what methods read of one prompt; NaN and infinity make every choice arbitrary.

    On a CPU a bad value is refused where it is read. Elsewhere its mark is copied to the host in the background, and
    `poll` refuses it once it has arrived: at the next token, at the next prompt, or when the report is asked for.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[str, Tensor, torch.cuda.Event]] = []

    def check(self, what: str, values: Tensor) -> Tensor:
        """`values` themselves. Raises InputError, naming `what`, where one of them is NaN or infinite."""
        total = values.detach().sum(dtype=torch.float32)
        if total.device.type != "cuda":
            refuse(what, total)
            return values
        arrived = torch.empty((), pin_memory=True)
        arrived.copy_(total, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(total.device))
        self._pending.append((what, arrived, event))
        return values

    def poll(self, wait: bool = False) -> None:
        """Refuse what has turned out bad by now; with `wait`, everything that was read."""
        while self._pending and (wait or self._pending[0][2].query()):
            what, total, event = self._pending.pop(0)
            event.synchronize()
            refuse(what, total)


def refuse(what: str, total: Tensor) -> None:
    """Raise InputError where a sum is not finite, and so one of its terms."""
    if not bool(total.isfinite()):
        raise InputError(
            f"{what}: NaN or infinite values, so that no choice among tokens has a meaning. Check the pixels, and the "
            "dtype of the model: float16 overflows where bfloat16 does not."
        )
