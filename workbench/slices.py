"""How many rows go through a network at a time where no gradient is kept. Imports nothing of the project."""

from __future__ import annotations

import torch

CPU_ELEMENTS, OTHER_ELEMENTS = 2**20, 2**24
"""Floats of the widest tensor of a slice. On a CPU 4 MB: with 32 MB, which no cache holds, decoding takes twice as
long (K = 1 ... 8, width 128); elsewhere 64 MB, a bound of the memory only."""
LEAST_ROWS = 64
"""Fewer would read the weights too often, however wide a row is."""


def rows_at_once(elements: int, device: torch.device) -> int:
    """Rows of a slice whose widest tensor has so many floats in a row."""
    return max(LEAST_ROWS, (CPU_ELEMENTS if device.type == "cpu" else OTHER_ELEMENTS) // elements)
