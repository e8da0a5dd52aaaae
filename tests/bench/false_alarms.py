"""How often ``workbench.divergence`` stops a run that learns, and which wrecks it finds.

    python -m tests.bench.false_alarms [--minutes 30] [--steps 400] [--points FILE]

Trains many tiny models of every head, score and optimizer, the token baseline, K = 2, 4 and 8, with and without
decay, at rates from a tenth of the usual one to 1,000 times it. All train to their end; then the watcher is fed
their points. ``--points`` keeps those as JSON lines, and goes on where the file stops.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.suites.tiny_runs import BASELINE, tiny_config
from workbench.build import build_model, prepare_inputs
from workbench.divergence import DivergedError, Watcher
from workbench.errors import NotFiniteError
from workbench.progress import NoDisplay
from workbench.records import TrainPoint
from workbench.train import Trainer

HEADS: dict[str, dict[str, Any]] = {
    "energy": {},
    "energy, alpha 0.7": {"model.head.alpha": 0.7},
    "energy, alpha 1.5": {"model.head.alpha": 1.5},
    "quadric": {"model.head.distance": "quadric"},
    "flow": {"model.head.kind": "flow", "model.head.num_calls": 4},
    "diffusion": {"model.head.kind": "diffusion", "model.head.num_calls": 4},
    "latent input": {"model.input_mode": "latent"},
    "auxiliary": {"model.auxiliary_weight": 0.5},
    "baseline": {},
}
RATES = (1.0, 0.1, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Times the rate that is usual at this size."""
LEARNS = 10.0
"""Rates up to this one train as well or nearly as well as the usual one."""


def cases() -> Iterator[dict[str, Any]]:
    """Healthy ones most: every other round has the usual rate only."""
    for seed in range(1000):
        for rate in RATES if seed % 3 == 0 else RATES[:1]:
            for head in HEADS:
                for optimizer in ("adamw", "muon"):
                    yield {"head": head, "optimizer": optimizer, "rate": rate, "seed": seed}


def train(case: dict[str, Any], steps: int, folder: Path) -> dict[str, Any]:
    """The logged points of a run, and how it ended."""
    head, seed = case["head"], case["seed"]
    k, usual = (1, 6e-3) if head == "baseline" else ((4, 2, 8)[seed % 3], 2e-3)
    overrides = {
        **HEADS[head],
        "seed": seed,
        "optim.kind": case["optimizer"],
        "optim.lr": usual * case["rate"],
        "optim.decay_fraction": 0.2 if seed % 2 else 0.0,
        "train.num_evaluations": 1,
        "train.train_tokens": steps * 32 * k,
        "eval.num_windows": 4,
        "autoencoder.steps": 300,
    }
    config, home = tiny_config(folder, overrides if head == "baseline" else {**overrides, "model.chunk_size": k},
                               **(BASELINE if head == "baseline" else {}))  # fmt: skip
    inputs = prepare_inputs(config, home)
    model, _ = build_model(config, inputs.corpus, home, run_dir=folder / "none")
    trainer = Trainer(model, config, inputs.schedule, inputs.corpus, folder / "checkpoint")
    trainer.save = lambda **_: None  # type: ignore[method-assign]
    points: list[dict[str, Any]] = []
    ended = "completed"
    try:
        trainer.train(
            log=lambda point: points.append(point.model_dump()),
            evaluate=lambda _: None,  # type: ignore[arg-type, return-value]
            decide=lambda _: None,
            display=NoDisplay(),
        )
    except NotFiniteError:
        ended = "not finite"
    return {**case, "ended": ended, "warmup_steps": inputs.schedule.warmup_steps, "points": points}


def alarm(run: dict[str, Any]) -> str | None:
    watcher = Watcher(warmup_steps=run["warmup_steps"])
    for point in run["points"]:
        try:
            watcher.see(TrainPoint.model_validate(point))
        except DivergedError as error:
            return str(error)
    return None


def report(runs: list[dict[str, Any]]) -> str:
    lines = ["times the usual rate   runs   stopped   not finite anyway"]
    for rate in sorted(RATES):
        own = [run for run in runs if run["rate"] == rate]
        stopped = sum(alarm(run) is not None for run in own)
        ended = sum(run["ended"] != "completed" for run in own)
        lines.append(f"{rate:>20g} {len(own):>6} {stopped:>9} {ended:>19}")
    healthy = [run for run in runs if run["rate"] <= LEARNS]
    wrong = [run for run in healthy if alarm(run) is not None]
    bound = 1 - 0.05 ** (1 / len(healthy)) if healthy and not wrong else float("nan")
    lines.append(f"false alarms: {len(wrong)} of {len(healthy)} runs at up to {LEARNS:g} times the usual rate")
    lines.append(f"(95 % bound where there were none: {bound:.1%})")
    lines += [
        f"  {run['head']}, {run['optimizer']}, {run['rate']:g} x, seed {run['seed']}: {alarm(run)}"
        for run in wrong
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--points", type=Path)
    args = parser.parse_args(arguments)
    runs = []
    if args.points and args.points.exists():
        runs = [json.loads(line) for line in args.points.read_text(encoding="utf-8").splitlines()]
    known = {tuple(run[name] for name in ("head", "optimizer", "rate", "seed")) for run in runs}
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            if time.monotonic() > until:
                break
            if tuple(case.values()) in known:
                continue
            runs.append(train(case, args.steps, Path(folder)))
            if args.points:
                with open(args.points, "a", encoding="utf-8") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    print(report(runs))


if __name__ == "__main__":
    main()
