"""Causal attention, forward and backward: blocks of queries written out against torch's fused kernel.

    python tests/bench/attention_time.py [--threads N] [--turns N] [--json FILE]

The two take turns in one process; the best time of each counts. ``workbench.attention`` chooses the written-out
form where this table says so: on a processor, in bfloat16.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from tests.bench.printing import print_table, write
from workbench.attention import BlockAttention
from workbench.cores import available_cores

SHAPES = ((4, 4, 63, 32), (16, 4, 63, 64), (8, 4, 255, 32), (4, 4, 511, 64), (1, 8, 2047, 64))
"""Sequences, heads, positions, width of a head."""


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def once(attention: Callable[..., Tensor], inputs: list[Tensor]) -> float:
    """Seconds of a forward and a backward pass."""
    start = time.perf_counter()
    out = attention(*inputs)
    torch.autograd.grad(out, inputs, torch.ones_like(out))
    return time.perf_counter() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=available_cores())
    options.add_argument("--turns", type=int, default=20)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = []
    for sequences, heads, positions, width in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            shape = (sequences, positions, heads, width)
            inputs = [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]
            best = [float("inf"), float("inf")]
            for _ in range(chosen.turns):
                for i, attention in enumerate((BlockAttention.apply, fused)):
                    best[i] = min(best[i], once(attention, inputs))
            rows.append(
                {
                    "B, H, P, E": f"{sequences}, {heads}, {positions}, {width}",
                    "dtype": str(dtype).removeprefix("torch."),
                    "written out, ms": f"{1e3 * best[0]:.2f}",
                    "fused, ms": f"{1e3 * best[1]:.2f}",
                    "fused / written out": f"{best[1] / best[0]:.2f}",
                }
            )
    columns = list(rows[0])
    print_table(f"causal attention, {chosen.threads} thread(s)", columns, [[r[c] for c in columns] for r in rows])
    write(chosen.json, chosen, rows)


if __name__ == "__main__":
    main()
