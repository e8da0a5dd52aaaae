"""Time and memory of the energy loss, forward and backward: ours against the direct form.

    python tests/bench/energy_loss_time.py [--dtypes float32,bfloat16] [--parts compare,growth] [--json FILE]

``compare``: N = 8 samples, M = 100 targets, n = 4,096 positions, latent 128. The direct form makes the targets
mean + std * eps and all N x M differences (1.7 GB a tensor in float32); drawing eps is in neither time. Both take
turns, each in a process of its own; memory is the peak beyond what the imports take, the loss's inputs included.
``growth``: M, N and n varied alone, smaller sizes, for both forms; with the exponents of time and of peak memory
beyond the imports, fitted in logarithms.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from tests.bench.printing import (
    DTYPES,
    choice,
    conditions,
    measured,
    megabytes,
    ms,
    parser,
    print_table,
    say,
    write,
)
from tests.bench.turns import Form, Measured, Pace, processor_ratio, ratio, slope, spread

LEAST_SPEED, MOST_MEMORY = 10, 1 / 20
"""Wanted of ours against the direct form."""
PARTS = ("compare", "growth")
IMPORTS = ("torch", "tests.bench.direct_energy", "workbench.energy_score")


@dataclass(frozen=True)
class Size:
    """Of one loss."""

    num_samples: int = 8
    num_targets: int = 100
    positions: int = 4096
    latent_dim: int = 128
    dtype: str = "float32"


GROWTH_DEFAULT = Size(positions=1024, latent_dim=64)
GROWTH: dict[str, tuple[int, ...]] = {
    "num_targets": (25, 50, 100, 200),
    "num_samples": (4, 8, 16, 32),
    "positions": (512, 1024, 2048, 4096),
}
LETTERS = {"num_targets": "M", "num_samples": "N", "positions": "n"}


def loss_work(pace: Pace, *, size: Size, direct: bool) -> None:
    """One repetition is the mean loss and its gradient to the samples."""
    import torch

    from tests.bench.direct_energy import direct_energy_loss
    from workbench.energy_score import PowerDistance, energy_loss
    from workbench.posterior import Posterior

    rng = torch.Generator().manual_seed(0)
    dtype: torch.dtype = getattr(torch, size.dtype)
    rows = (size.positions, size.latent_dim)
    samples = torch.randn((size.num_samples, *rows), generator=rng).to(dtype).requires_grad_()
    target = Posterior(torch.randn(rows, generator=rng), torch.randn(rows, generator=rng) - 1)
    eps = torch.randn((size.num_targets, size.latent_dim), generator=rng)
    while True:
        samples.grad = None
        if direct:
            explicit = (target.mean + target.std * eps.unsqueeze(1)).to(dtype)  # (M, n, L)
            loss = direct_energy_loss(samples, explicit)
        else:
            loss = energy_loss(samples, target, eps, distance=PowerDistance())
        loss.float().mean().backward()
        del loss
        pace()


def forms(size: Size) -> list[Form]:
    return [
        Form(name, loss_work, {"size": size, "direct": name == "direct"}, IMPORTS) for name in ("ours", "direct")
    ]


def compare(dtypes: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours against direct at full size; prints the table."""
    rows, found = [], []
    for dtype in dtypes:
        say(f"compare, {dtype}")
        size = Size(dtype=dtype)
        ours, direct = measured(forms(size), options)
        memory = direct.growth_bytes / ours.growth_bytes
        for form in (ours, direct):
            row = [f"{dtype}: {form.name}", ms(form.seconds), spread(form), megabytes(form.growth_bytes)]
            row += [megabytes(form.imports_bytes)]
            more = [str(ratio(direct, ours)), str(processor_ratio(direct, ours)), f"{memory:.1f}"]
            rows.append(row + (more if form is ours else [""] * 3))
        found.append(
            {
                "part": "compare",
                **asdict(size),
                "speed_ratio": asdict(ratio(direct, ours)),
                "processor_ratio": asdict(processor_ratio(direct, ours)),
                "memory_ratio": memory,
                "forms": [ours.as_json(), direct.as_json()],
            }
        )
    heads = ["", "ms", "turns", "memory, MB", "imports, MB", "times faster", "by processor s", "times less memory"]
    note = f"Wanted: {LEAST_SPEED} times faster, {1 / MOST_MEMORY:.0f} times less memory."
    print_table(f"Energy loss, N = 8, M = 100, n = 4,096, L = 128, {conditions(options)}", heads, rows, note=note)
    return found


def growth(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each of M, N, n varied alone; prints a table of times and one of exponents."""
    rows, found = [], []
    for name, values in GROWTH.items():
        say(f"growth in {LETTERS[name]}")
        wanted = [form for value in values for form in forms(Size(**{**asdict(GROWTH_DEFAULT), name: value}))]
        results = measured(wanted, options)
        for kind in ("ours", "direct"):
            own = [result for result in results if result.name == kind]
            rows.append(_growth_row(f"{LETTERS[name]} = {', '.join(map(str, values))}: {kind}", values, own))
            found.append(
                {
                    "part": "growth",
                    "varied": name,
                    "values": values,
                    "form": kind,
                    "results": [m.as_json() for m in own],
                }
            )
    heads = ["", "ms", "exponent", "memory, MB", "exponent"]
    default = f"N = 8, M = 100, n = {GROWTH_DEFAULT.positions:,}, L = 64"
    title = f"Growth of the energy loss around {default}, float32, {conditions(options)}"
    print_table(title, heads, rows)
    return found


def _growth_row(label: str, values: tuple[int, ...], results: list[Measured]) -> list[str]:
    seconds, memory = [m.seconds for m in results], [m.growth_bytes for m in results]
    return [
        label,
        ", ".join(map(ms, seconds)),
        f"{slope(values, seconds):.2f}",
        ", ".join(map(megabytes, memory)),
        f"{slope(values, memory):.2f}",
    ]


def main() -> None:
    made = parser(__doc__, seconds=1.0, turns=5)
    made.add_argument("--dtypes", default=",".join(DTYPES), help="of %(default)s, for compare")
    made.add_argument("--parts", default=",".join(PARTS), help="of %(default)s")
    options = made.parse_args()
    parts = choice(options.parts, PARTS, "--parts")
    found: list[dict[str, Any]] = []
    if "compare" in parts:
        dtypes = choice(options.dtypes, DTYPES, "--dtypes")
        found += compare(dtypes, options)
        write(options.json, options, found)
    if "growth" in parts:
        found += growth(options)
        write(options.json, options, found)


if __name__ == "__main__":
    main()
