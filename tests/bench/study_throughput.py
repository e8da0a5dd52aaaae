"""Trials an hour of a small real study for several numbers of workers and threads, and what a trial pays for.

    python tests/bench/study_throughput.py --splits 1x1,2x1,1x2 --trials 4 --seconds 12

Every split (workers x threads) runs a study of its own under ``calm study run``'s launcher: the same settings, the
corpus, the floors and the autoencoder from the cache. Trials an hour are counted from the first worker's first
training step to the end of the last trial, so a start-up is told apart: it is that of a process, not of a trial.
Overhead is what a trial takes beside training, evaluation and its model: delivery to MLflow, Optuna's storage
(between two trials and at every evaluation), writing the run folder, checkpoints and figures. It is a fixed time
a trial, so its share is also told for a trial of 60 s. Needs a quiet machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from studies import find_studies, launch, prepare
from studies.display import Display
from studies.prepare import Options
from studies.spec import Study
from studies.staffing import Split
from workbench.files import read_json_lines
from workbench.home import Home, open_home

RUNNER = "tests.bench.timed_runner:execute"
TRACKING = ("mlflow", "optuna", "between")
"""What has to be below 3 % of a trial of 60 s."""
OTHERS = ("run folder", "checkpoints", "figures", "environment", "inputs", "floors", "rest")
ASSUMED_FLOPS_PER_SECOND = 2.5e10
TRIAL_SECONDS = 60.0


@dataclass
class Outcome:
    """Of one split."""

    split: Split
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of ``timed_runner``, a run each."""

    @property
    def per_hour(self) -> float:
        """Trials an hour: each counts from the first training step of any worker."""
        start = min(row["began"] + row["to_first_step"] for row in self.rows if row["start_up"] is not None)
        return 3600 * len(self.rows) / (max(row["ended"] for row in self.rows) - start)

    @property
    def start_up(self) -> float:
        return statistics.median(row["start_up"] for row in self.rows if row["start_up"] is not None)

    def part(self, name: str, clock: str) -> float:
        """Mean seconds a trial."""
        values = [row[clock].get(name, 0.0) for row in self.rows]
        if name == "between":  # before a worker's first trial it is part of the start-up
            values = [row[clock][name] for row in self.rows if name in row[clock]]
        return statistics.mean(values) if values else 0.0


def main() -> None:
    options = _parser().parse_args()
    splits = [Split(*map(int, text.split("x"))) for text in options.splits.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        home = open_home(options.home or folder)
        budget = options.seconds * ASSUMED_FLOPS_PER_SECOND
        run(home, Split(1, 1), 1, budget / 20)  # fills the caches
        outcomes = []
        for turn in range(options.turns):
            for number, split in enumerate(splits):
                found = run(home, split, options.trials * split.workers, budget)
                if turn == 0:
                    outcomes.append(found)
                else:
                    outcomes[number].rows += found.rows
                print(f"{split}: {found.per_hour:.0f} trials an hour", flush=True)
                rates.setdefault(str(split), []).append(found.per_hour)
    report(outcomes, options)


rates: dict[str, list[float]] = {}


def run(home: Home, split: Split, trials: int, budget: float) -> Outcome:
    """One launch; its name is the next that is free."""
    preset = {**find_studies()["joint"].load_presets()["quick"], "baselines": {}, "checks": {}, "start": []}
    base = dict(preset["base"])
    base["train"] = {**base["train"], "train_flops": budget}
    clips = [1.0 + 0.001 * number for number in range(1000)]  # settings of equal cost that share an autoencoder
    preset |= {"base": base, "space": {"optim.clip": {"choices": clips}}}
    preset |= {"trials": trials, "max_pruned": 1, "pruner": {"kind": "none"}, "sampler": {"kind": "random"}}
    study = Study("bench", "a benchmark", "how fast?", "slow", "score", {"quick": preset})
    name = f"bench-{len(list(home.root.glob('bench-*')))}"
    times = home.root / f"{name}.times.jsonl"
    os.environ["CALM_BENCH_TIMES"] = str(times)
    known, prepare.find_studies = prepare.find_studies, lambda *_: {"bench": study}
    try:
        options = Options("bench", launch=name, workers=split.workers, threads=split.threads, execute=RUNNER)
        result = launch.run(options, home, Display(Console(file=io.StringIO()), name))
    finally:
        prepare.find_studies = known
    if result.interrupted:
        raise SystemExit("interrupted")
    return Outcome(split, read_json_lines(times))


def report(outcomes: list[Outcome], options: argparse.Namespace) -> None:
    best = {name: statistics.median(values) for name, values in rates.items()}
    first = outcomes[0]
    print(f"\n{'workers x threads':24s}{'trials/hour':>12s}{'ratio':>8s}{'start-up':>10s}{'trial':>8s}")
    for one in outcomes:
        ratio = best[str(one.split)] / best[str(first.split)]
        wall = statistics.mean(row["wall"] for row in one.rows)
        text = f"{one.split.workers} x {one.split.threads}"
        print(f"{text:24s}{best[str(one.split)]:12.1f}{ratio:8.2f}{one.start_up:8.2f} s{wall:6.1f} s")
    print(f"\n{'seconds a trial':24s}" + "".join(f"{o.split!s:>30s}" for o in outcomes))
    names = ["training", "evaluation", "model and autoencoder", *TRACKING, *OTHERS]
    for name in names:
        cells = "".join(f"{o.part(name, 'parts'):18.3f} ({o.part(name, 'processor'):5.3f} CPU)" for o in outcomes)
        print(f"{name:24s}{cells}")
    for label, group in (("MLflow and Optuna", TRACKING), ("all overhead", (*TRACKING, *OTHERS))):
        cells = []
        for one in outcomes:
            wall, processor = (100 * _sum(one, group, clock) / TRIAL_SECONDS for clock in ("parts", "processor"))
            cells.append(f"{wall:16.2f} % ({processor:4.2f} % CPU)")
        print(f"{label:24s}" + "".join(f"{cell:>30s}" for cell in cells) + f"  of {TRIAL_SECONDS:.0f} s")
    if options.json:
        content = {str(o.split): {"per_hour": rates[str(o.split)], "rows": o.rows} for o in outcomes}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _sum(one: Outcome, names: tuple[str, ...], clock: str) -> float:
    return sum(one.part(name, clock) for name in names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", default="1x1,2x1,1x2", help="workers x threads, the first to compare with")
    parser.add_argument("--trials", type=int, default=3, help="of each worker in a turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=1, help="of every split, one after another (%(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="training of a trial, about (%(default)s)")
    parser.add_argument("--home", help="folder for runs and caches; default: a new one, deleted at the end")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser


if __name__ == "__main__":
    main()
