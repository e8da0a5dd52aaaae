"""Time to a given standard error of BrierLM: the published two-sample estimator against ours.

    python tests/bench/brier_time.py --home BENCH [--kinds baseline,1,2,4,8] [--minutes 7] [--json FILE]

Small models at T = 512 are trained under ``--home``, or found there. Then every estimator scores the same windows
in turns, on one thread. An estimator that takes t seconds a window, and whose windows have variance v, needs
t * v / se^2 seconds for a standard error se of BrierLM, so estimators are compared by t * v.

* t is the median over repeats of processor seconds: other work on the machine is not charged.
* v is the delta method's, Var(sum_n b_n / mean_n) * BrierLM^2 / 16 with b_n a window's mean estimate of Brier-n.
  All estimators are linearised at the same point, the means of our estimates: on few windows the plain
  estimator's own means may be 0 or negative.
* Estimators of one law have one variance: the mean of what they measure. That is ``reread`` and ``cached`` (a test
  has them draw the same samples; the variance of the slow ``reread`` is that of ``cached``), and for K >= 4
  also ``batched`` and ours with S = 2. Their times are measured apart.
* Intervals (95 %) of the ratios: bootstrap over windows, and over repeats of the timing. The best S is chosen on
  the windows it is reported for, so its ratio is a little too good; all S are shown.

Letters: W windows, T tokens, n positions of a window, O = 4 orders, S samples.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from tests.bench.plain_brier import NUM_ORDERS, Variant, plain_brier
from workbench.baseline import TokenBaseline
from workbench.brier import distribution_brier, sampled_brier
from workbench.config_file import load_config
from workbench.home import Home, open_home
from workbench.model import Calm
from workbench.runner import Identity, execute, resolve
from workbench.saved_runs import SavedRun, load_run

KINDS = ("baseline", "1", "2", "4", "8")
"""The token baseline, or K."""
TARGETS = {"baseline": 100, "1": 100, "2": 30, "4": 3, "8": 3}
"""Wanted: so many times less time than the plain estimator with a loop over positions."""
TRAIN_FLOPS = {"1": 6e12, "4": 6e12, "8": 9e12}
"""Where 3e12 leave Brier-4 too near to 0."""
SAMPLES = (2, 4, 8, 16, 32)
WINDOW_LEN = 512
BATCH = 8
"""Windows of one call where an estimator takes several, as in a run's evaluation: about 4,096 tokens."""
WINDOWS_OF_TABLE = 96
SE_OF_TABLE = 0.1
LEAST_BATCHES = 4
NUM_REREAD = 6
"""Batches of which one window goes to ``reread``: enough for its time."""
NUM_BOOTSTRAP = 2000
PLAIN: tuple[Variant, ...] = ("reread", "cached", "batched")

Floats = npt.NDArray[np.float64]
Estimator = Callable[[Tensor, Tensor], Tensor]
"""Windows (B, T) and positions (n,) to estimates (B, n, O)."""


# ---- the models --------------------------------------------------------------------------------


def trained(kind: str, home: Home) -> SavedRun:
    """The run of a kind, trained unless ``home`` has it."""
    overrides: dict[str, Any] = {
        "train.train_flops": TRAIN_FLOPS.get(kind, 3e12),
        "train.block_len": WINDOW_LEN,
        "train.num_evaluations": 1,
        "eval.context_len": WINDOW_LEN,
        "runtime.threads": 1,
    }
    preset = "small-baseline"
    if kind != "baseline":
        preset = "small-calm"
        overrides |= {"model.chunk_size": int(kind), "autoencoder.latent_dim": max(16, 8 * int(kind))}
    config = resolve(load_config(preset, overrides), home)
    run_dir = home.single_runs() / f"bench-{kind}"
    say(f"{kind}: training, or found in {run_dir}")
    execute(config, run_dir, home=home, identity=Identity(name=run_dir.name))
    return load_run(run_dir, home)


def windows_of(run: SavedRun) -> tuple[Tensor, Tensor]:
    """All windows (W, T) of the validation split that do not overlap, in random order, so that the first ones are
    spread over the text; and the scored positions (n,)."""
    rules, text = run.config.eval, run.corpus.tokens["validation"]
    order = np.random.default_rng(0).permutation(len(text) // WINDOW_LEN)
    windows = np.asarray(text[order[:, None] * WINDOW_LEN + np.arange(WINDOW_LEN)], dtype=np.int64)
    positions = torch.arange(rules.min_context, WINDOW_LEN - rules.grid_stride + 1, rules.grid_stride)
    return torch.from_numpy(windows), positions


def estimators(run: SavedRun, rng: torch.Generator) -> dict[str, Estimator]:
    """By name: the plain variants that this kind has, then ours."""
    model = run.model
    assert isinstance(model, Calm | TokenBaseline)
    chunk_holds_all = isinstance(model, Calm) and model.chunk_size >= NUM_ORDERS

    def plain(variant: Variant) -> Estimator:
        return lambda windows, positions: plain_brier(model, windows, positions, variant=variant, rng=rng)

    def sampled(calm: Calm, num_samples: int) -> Estimator:
        return lambda windows, positions: sampled_brier(calm, windows, positions, num_samples=num_samples, rng=rng)

    found = {variant: plain(variant) for variant in PLAIN if variant != "batched" or chunk_holds_all}
    if isinstance(model, Calm):
        return {**found, **{f"ours, S = {num}": sampled(model, num) for num in SAMPLES}}
    return {**found, "ours": lambda windows, positions: distribution_brier(model, windows, positions, rng=rng)[0]}


# ---- measuring ---------------------------------------------------------------------------------


@dataclass
class Measured:
    """Of one estimator."""

    seconds: list[float] = field(default_factory=list)
    """Processor seconds a window, of every repeat."""
    values: list[Floats] = field(default_factory=list)
    """(B, O): mean estimates of every window."""


def measure(run: SavedRun, *, seconds: float, rng: torch.Generator) -> dict[str, Measured]:
    """All estimators on one batch of windows after another, until the time is up. They take turns batch by batch,
    so that a machine that gets slower gets slower for all."""
    windows, positions = windows_of(run)
    functions = estimators(run, rng)
    for function in functions.values():  # what happens only once: memory, kernels chosen
        function(windows[:1], positions[:2])
    results = {name: Measured() for name in functions}
    start = time.perf_counter()
    for number, batch in enumerate(windows.split(BATCH)):
        if number >= LEAST_BATCHES and time.perf_counter() - start > seconds:
            break
        for name, function in functions.items():
            if name == "reread" and number >= NUM_REREAD:
                continue
            timed(function, batch[:1] if name == "reread" else batch, positions, name, results[name])
        say(f"  {(number + 1) * BATCH} windows, {time.perf_counter() - start:.0f} of {seconds:.0f} s")
    return results


def timed(function: Estimator, windows: Tensor, positions: Tensor, name: str, result: Measured) -> None:
    """Add one batch. The loops over positions take one window at a time, so each is a repeat."""
    for part in windows.split(1 if name in ("reread", "cached") else BATCH):
        start = time.process_time()
        values = function(part, positions)
        result.seconds.append((time.process_time() - start) / len(part))
        result.values.append(values.double().mean(1).numpy())


# ---- comparing ---------------------------------------------------------------------------------


def influence(values: Floats, mean: Floats) -> Floats:
    """What each window adds to BrierLM: its mean estimates (W, O) put through the delta method at ``mean`` (O,).
    The variance over windows / W is the squared standard error of BrierLM."""
    brierlm = 100 * np.exp(np.log(mean).mean())
    return np.asarray(brierlm / NUM_ORDERS * (values / mean).sum(1))


@dataclass(frozen=True)
class Cost:
    """Seconds x variance of one estimator, and of resampled windows and repeats."""

    seconds: float
    variance: float
    resampled: Floats
    """(R,)."""

    @property
    def product(self) -> float:
        return self.seconds * self.variance


def cost(seconds: Floats, windows: Floats, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Cost:
    """From seconds of every repeat and the influence of every window, (G, W) for G estimators of one law;
    ``chosen`` (R, W) are the resampled windows, the same for all estimators, so that a hard window does not
    count for one of them only."""
    repeats = seconds[rng.integers(0, len(seconds), (len(chosen), len(seconds)))]
    variances = windows[:, chosen].var(-1, ddof=1).mean(0)  # (R,)
    return Cost(
        float(np.median(seconds)), float(windows.var(-1, ddof=1).mean()), np.median(repeats, 1) * variances
    )


def same_law(name: str, results: dict[str, Measured]) -> list[str]:
    """The estimators, this one included, whose windows tell the variance of ``name``."""
    two_samples = ["cached"]
    if "batched" in results:
        two_samples += ["batched", "ours, S = 2"]
    return two_samples if name in ("reread", *two_samples) else [name]


def ratio(plain: Cost, ours: Cost) -> tuple[float, float, float]:
    """How many times more time the plain estimator needs for the same error, and its 95 % interval."""
    low, high = np.quantile(plain.resampled / ours.resampled, [0.025, 0.975])
    return plain.product / ours.product, float(low), float(high)


def summarise(kind: str, results: dict[str, Measured]) -> dict[str, Any]:
    """Everything that is printed, as JSON has it."""
    names = [name for name in results if name.startswith("ours")]
    values = {name: np.concatenate(result.values) for name, result in results.items()}
    weights = SAMPLES if len(names) > 1 else None
    mean = np.average([values[name].mean(0) for name in names], axis=0, weights=weights)
    if mean.min() <= 0:
        raise SystemExit(f"{kind}: the model's Brier-1..4 are {mean}; it has learnt too little for a comparison")
    effects = {name: influence(value, mean) for name, value in values.items()}
    num_windows = len(effects[names[0]])
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, num_windows, (NUM_BOOTSTRAP, num_windows))
    costs = {
        name: cost(
            np.array(result.seconds), np.stack([effects[other] for other in same_law(name, results)]), chosen, rng
        )
        for name, result in results.items()
    }
    rows = [
        {
            "estimator": name,
            "ms_per_window": 1e3 * one.seconds,
            "num_repeats": len(results[name].seconds),
            "se": (one.variance / WINDOWS_OF_TABLE) ** 0.5,
            "seconds_to_se": one.product / SE_OF_TABLE**2,
            "ratio": {base: ratio(costs[base], one) for base in PLAIN if base in costs},
        }
        for name, one in costs.items()
    ]
    return {
        "kind": kind,
        "brier": [100 * float(m) for m in mean],
        "brierlm": float(100 * np.exp(np.log(mean).mean())),
        "num_windows": num_windows,
        "best": min(names, key=lambda name: costs[name].product),
        "rows": rows,
    }


# ---- printing ----------------------------------------------------------------------------------


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def show(summary: dict[str, Any], console: Console) -> None:
    kind, best = summary["kind"], summary["best"]
    bases = list(summary["rows"][0]["ratio"])
    orders = ", ".join(f"{value:.3g}" for value in summary["brier"])
    title = (
        f"{kind if kind == 'baseline' else f'K = {kind}'}: Brier-1..4 {orders} %, BrierLM "
        f"{summary['brierlm']:.2f}, {summary['num_windows']} windows"
    )
    table = Table("", title=title, title_justify="left")
    for head in ("ms/window", f"se, {WINDOWS_OF_TABLE} windows", f"s to ± {SE_OF_TABLE}", *bases):
        table.add_column(head, justify="right")
    for row in summary["rows"]:
        ours = row["estimator"].startswith("ours")
        ratios = [_ratio(row["ratio"][base]) if ours else "" for base in bases]
        name = row["estimator"] + (" (best)" if row["estimator"] == best else "")
        table.add_row(
            name, f"{row['ms_per_window']:.1f}", f"{row['se']:.3f}", f"{row['seconds_to_se']:.3g}", *ratios
        )
    console.print(table)
    row = next(row for row in summary["rows"] if row["estimator"] == best)
    verdict = ", ".join(f"{_ratio(row['ratio'][base])} times faster than {base}" for base in bases)
    console.print(f"{best}: {verdict}.\nWanted against a loop over positions: {TARGETS[kind]}.\n")


def _ratio(value: tuple[float, float, float]) -> str:
    return "{:.3g} [{:.3g}, {:.3g}]".format(*value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", required=True, help="folder of the trained models, made if it is missing")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of %(default)s")
    parser.add_argument("--minutes", type=float, default=7.0, help="of measuring, over all kinds (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--kinds: {', '.join(sorted(unknown))} given, wanted are some of {', '.join(KINDS)}")
    torch.set_num_threads(1)
    home = open_home(options.home)
    runs = {kind: trained(kind, home) for kind in kinds}
    torch.set_num_threads(1)  # training set it as its configuration says
    console = Console(width=140, highlight=False)
    summaries = []
    for kind, run in runs.items():
        say(f"{kind}: measuring")
        rng = torch.Generator().manual_seed(0)
        summaries.append(summarise(kind, measure(run, seconds=60 * options.minutes / len(kinds), rng=rng)))
        show(summaries[-1], console)
        if options.json is not None:
            options.json.write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
