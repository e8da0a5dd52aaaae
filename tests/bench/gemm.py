"""The machine's rate of matrix products: what a model's FLOPs a second are measured against."""

from __future__ import annotations

import torch

from tests.bench.turns import Form, Measured, Pace

SIZES = (512, 1024, 2048)


def gemm_work(pace: Pace, *, dtype: str) -> None:
    """One repetition is a square product of every size; its parts are their seconds, the size being the name."""
    kind: torch.dtype = getattr(torch, dtype)
    pairs = {n: (torch.randn(n, n).to(kind), torch.randn(n, n).to(kind)) for n in SIZES}
    while True:
        parts = {}
        for n, (left, right) in pairs.items():
            start = pace.now()
            torch.mm(left, right)
            parts[str(n)] = pace.now() - start
        pace(parts)


def gemm_form(dtype: str) -> Form:
    return Form("matrix product", gemm_work, {"dtype": dtype}, ("torch", "tests.bench.gemm"))


def gemm_rate(measured: Measured) -> float:
    """FLOPs a second of the fastest size at its median time."""
    return max(2 * int(n) ** 3 / seconds for n, seconds in measured.part_seconds().items())
