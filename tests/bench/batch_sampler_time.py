"""Time of the batch sampler's choice at a temperature: ours at all places at once against loops over places.

    python tests/bench/batch_sampler_time.py [--temperatures 0.5,0.4] [--num-samples 200] [--places 64]

At hand are N = 200 samples of chunks of four bytes at each of 64 places, from nearly certain to open ones; drawing
them is in no time. Both loops count with a ``Counter``, place by place: ``tensors`` makes a tuple of every chunk's
tensor, as the published sampler does, ``lists`` turns all samples of a place into lists first. The forms take
turns, each in a process of its own. What they choose, given the samples, is tested against its law.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from tests.bench.printing import conditions, measured, ms, parser, print_table, say, write
from tests.bench.turns import Form, Pace, processor_ratio, ratio, spread

if TYPE_CHECKING:
    from torch import Tensor

LEAST_SPEED = 20
"""Wanted of ours against the loop over tensors."""
LOOPS = ("tensors", "lists")
IMPORTS = ("torch", "numpy", "workbench.temperature")
NUM_CHUNKS, CHUNK_SIZE, NUM_BYTES = 2000, 4, 256
REPEATS = {"ours": 4000, "tensors": 100, "lists": 400}
"""Choices of every place that are tested."""


@dataclass(frozen=True)
class Size:
    num_samples: int
    places: int
    temperature: float


def samples(size: Size) -> Tensor:
    """(N, n, K): of every place so many chunks with Zipf's law, its exponent from 0.8 to 2.4."""
    import torch

    rng = torch.Generator().manual_seed(0)
    exponent = torch.linspace(0.8, 2.4, size.places).unsqueeze(1)
    weights = torch.arange(1.0, NUM_CHUNKS + 1).pow(-exponent)
    chunks = torch.randint(0, NUM_BYTES, (size.places, NUM_CHUNKS, CHUNK_SIZE), generator=rng)
    which = torch.multinomial(weights, size.num_samples, replacement=True, generator=rng)  # (n, N)
    return chunks[torch.arange(size.places).unsqueeze(1), which].transpose(0, 1).contiguous()


def candidates(counts: Counter[tuple[int, ...]], temperature: float) -> tuple[list[tuple[int, ...]], list[float]]:
    """The chunks that may be chosen, and their weights (METHOD section 6)."""
    inverse = 1 / temperature
    whole = math.floor(inverse)
    least = math.ceil(inverse)
    if least > whole and (often := {x: c for x, c in counts.items() if c >= least}):
        logs = [math.lgamma(c + 1) - math.lgamma(c + 1 - inverse) for c in often.values()]
        return list(often), [math.exp(log - max(logs)) for log in logs]
    for level in range(whole, 0, -1):
        if often := {x: c for x, c in counts.items() if c >= level}:
            return list(often), [float(math.comb(c, level)) for c in often.values()]
    raise AssertionError("every place has samples")


def count(chunks: Tensor, loop: str) -> Counter[tuple[int, ...]]:
    """Of one place's chunks (N, K)."""
    if loop == "tensors":
        return Counter([tuple(chunk.tolist()) for chunk in chunks])
    return Counter(map(tuple, chunks.tolist()))


def chooser(size: Size, name: str) -> Callable[[], Tensor]:
    """A function that chooses once at every place, (n, K)."""
    import torch

    from workbench.temperature import Draws, batch

    draws = Draws(samples(size))
    rng = torch.Generator().manual_seed(1)
    plain = random.Random(1)

    class Known:
        num_places, device = size.places, torch.device("cpu")

        def draw(self, places: Tensor, num_samples: int, *, rng: torch.Generator) -> Draws:
            return draws

    def ours() -> Tensor:
        return batch(Known(), temperature=size.temperature, batch_size=size.num_samples, rng=rng).chunks

    def loop() -> Tensor:
        chosen = []
        for chunks in draws.chunks.unbind(1):
            values, weights = candidates(count(chunks, name), size.temperature)
            chosen.append(plain.choices(values, weights)[0])
        return torch.tensor(chosen)

    return ours if name == "ours" else loop


def work(pace: Pace, *, size: Size, name: str) -> None:
    """One repetition is one choice at every place."""
    choose = chooser(size, name)
    while True:
        choose()
        pace()


def law_p_value(size: Size, name: str) -> float:
    """Chi-square, over all places, of what a form chooses against its law given the samples. Candidates that are
    expected less than five times are one."""
    import numpy as np
    from scipy import stats

    choose, repeats = chooser(size, name), REPEATS[name]
    chosen = np.stack([choose().numpy() for _ in range(repeats)], axis=1)  # (n, repeats, K)
    square, freedom = 0.0, 0
    for chunks, found in zip(samples(size).unbind(1), chosen, strict=True):
        values, weights = candidates(count(chunks, "lists"), size.temperature)
        seen = Counter(map(tuple, found.tolist()))
        assert set(seen) <= set(values), "chosen without being a candidate"
        expected = repeats * np.array(weights) / sum(weights)
        observed = np.array([seen[x] for x in values])
        common = expected >= 5
        cells = [*zip(expected[common], observed[common], strict=True)]
        if expected[~common].sum() > 0:
            cells.append((expected[~common].sum(), observed[~common].sum()))
        square += sum((got - wanted) ** 2 / wanted for wanted, got in cells)
        freedom += len(cells) - 1
    return float(stats.chi2.sf(square, freedom))


def compare(size: Size, options: argparse.Namespace) -> tuple[list[list[str]], dict[str, Any]]:
    """Rows of the table, and all that was found."""
    say(f"temperature {size.temperature:g}")
    names = ("ours", *LOOPS)
    forms = measured([Form(name, work, {"size": size, "name": name}, IMPORTS) for name in names], options)
    p = {name: law_p_value(size, name) for name in names}
    rows = []
    for form in forms:
        more = ["", ""] if form is forms[0] else [str(ratio(form, forms[0])), str(processor_ratio(form, forms[0]))]
        rows.append(
            [f"{size.temperature:g}: {form.name}", ms(form.seconds), spread(form), *more, f"{p[form.name]:.2g}"]
        )
    found = {
        **asdict(size),
        "speed_ratio": {form.name: asdict(ratio(form, forms[0])) for form in forms[1:]},
        "processor_ratio": {form.name: asdict(processor_ratio(form, forms[0])) for form in forms[1:]},
        "p_value_of_law": p,
        "forms": [form.as_json() for form in forms],
    }
    return rows, found


def main() -> None:
    made = parser(__doc__, seconds=1.0, turns=7)
    made.add_argument("--temperatures", default="0.5,0.4", help="comma-separated (%(default)s)")
    made.add_argument("--num-samples", type=int, default=200, help="N (%(default)s)")
    made.add_argument("--places", type=int, default=64, help="positions of texts (%(default)s)")
    options = made.parse_args()
    rows, results = [], []
    for value in map(float, options.temperatures.split(",")):
        more, found = compare(Size(options.num_samples, options.places, value), options)
        rows += more
        results.append(found)
    heads = ["temperature", "ms", "turns", "times ours", "by processor s", "p of its law"]
    title = f"Batch sampler, N = {options.num_samples}, {options.places} places, K = {CHUNK_SIZE}"
    note = f"Wanted: tensors takes at least {LEAST_SPEED} times as long as ours, and no p-value is near 0."
    print_table(f"{title}, {conditions(options)}", heads, rows, note=note)
    write(options.json, options, results)


if __name__ == "__main__":
    main()
