"""What a GPU says of the energy that it has used."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def read_joules(device: torch.device) -> float | None:
    """Joules that a GPU has used since its driver was loaded; None for a CPU and where nobody reports it."""
    if device.type != "cuda":
        return None
    with contextlib.suppress(Exception):  # no NVML, or a GPU without the counter
        import pynvml

        torch.cuda.synchronize(device)
        return _handle(pynvml, device) / 1000
    return None


def _handle(nvml: Any, device: torch.device) -> float:
    nvml.nvmlInit()
    uuid = torch.cuda.get_device_properties(device).uuid
    return float(nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())))
