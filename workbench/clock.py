"""Time as a device keeps it. Imports nothing of the project."""

from __future__ import annotations

import time

import torch


def now(device: torch.device) -> float:
    """Seconds by a clock that only goes forward, once everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
