"""How the time of a study's own operations grows with its trials: 10, 30, 100, 300, 1,000 of them, made up.

    python tests/bench/study_growth.py --most 1000

Prints seconds (the least of three) and the slope of log(seconds) over log(trials) between the two largest sizes:
0 is no growth, 1 is proportional, 2 would be quadratic. Nothing is trained. Delivery to MLflow takes a while and
is measured up to ``--most-delivered`` runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from analysis.table import load_runs
from studies import database, plan, progress, storage
from studies.delivery import Delivery
from studies.display import status_lines
from studies.prepare import find_launch, write_study_file
from studies.show import measured_speed
from studies.storage import Launch
from studies.worker import stop_if_hopeless, take
from tests.suites.run_folders import make_run_folder
from tests.suites.study_launch import create, tiny_spec, worker
from workbench import records

SIZES = (10, 30, 100, 300, 1000, 3000)
Operation = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1000, help="trials (%(default)s)")
    parser.add_argument("--most-delivered", type=int, default=100, help="runs delivered to MLflow (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the seconds to this file")
    options = parser.parse_args()
    times: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        launch = create(Path(folder), tiny_spec(trials=10**6, baselines={}, checks={}, max_pruned=10**6))
        write_study_file(launch, "none")
        made = 0
        for size in (n for n in SIZES if n <= options.most):
            for number in range(made, size):
                add_trial(launch, number)
            made = size
            for name, operation in operations(launch, size, options).items():
                times.setdefault(name, {})[size] = least(operation)
            print(f"{size} trials measured", flush=True)
    print_table(times)
    if options.json:
        options.json.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


def add_trial(launch: Launch, number: int) -> None:
    """A finished trial and its run folder."""
    setting = {
        "model.chunk_size": (1, 2, 4)[number % 3],
        "autoencoder.latent_dim": (16, 32)[number % 2],
        "autoencoder.kl_floor": (0.0, 0.25, 0.5)[number // 3 % 3],
    }
    choices = {name: list(d.choices) for name, d in launch.spec.space.items()}  # type: ignore[union-attr]
    run_id = f"t{number:04d}-s0"
    trial = optuna.create_trial(
        value=5.0 + math.sin(number),
        params=setting,
        distributions={n: optuna.distributions.CategoricalDistribution(c) for n, c in choices.items()},
        intermediate_values={step: 1.0 + step for step in range(4)},
        user_attrs={"runs": [run_id], "seeds": [number], "ended": time.time(), "scores": [5.0]},
    )
    launch.search.add_trial(trial)
    make_run_folder(launch.folder / run_id, study=launch.name, role="trial", trial=number, plots=False)


def operations(launch: Launch, size: int, options: argparse.Namespace) -> dict[str, Operation]:
    """Each by its name."""
    this = worker(launch)
    found: dict[str, Operation] = {
        "next_step": lambda: plan.next_step(launch.spec, launch.search, launch.cells),
        "is_finished": lambda: plan.is_finished(launch.spec, launch.search, launch.cells),
        "a whole trial, nothing trained": lambda: take(this),
        "stop_if_hopeless": lambda: stop_if_hopeless(this),
        "snapshot, again (each second)": lambda: progress.snapshot(launch),
        "snapshot of another process": lambda: progress.snapshot(reopened(launch)),
        "calm study status": lambda: status(launch),
        "speed of finished runs": lambda: measured_speed(launch.home),
        "list of runs": lambda: records.find_runs(launch.home.root),
        "reading runs for a report": lambda: load_runs(launch.home.root, [launch.name]),
        "report": lambda: report(launch),
    }
    if size <= options.most_delivered:
        found |= deliveries(launch)
    return found


def deliveries(launch: Launch) -> dict[str, Operation]:
    """To the home's own database; the first time everything goes out, then nothing is new."""
    from workbench.tracking import open_tracker
    from workbench.tracking_sync import sync

    sync(launch.home)
    tracker = open_tracker(None, experiment=launch.name, home=launch.home)
    client, experiment = tracker._client, tracker._experiment_id  # type: ignore[attr-defined]
    delivery = Delivery(launch, tracker, None)
    delivery.deliver_due()
    return {
        "calm sync, nothing new": lambda: sync(launch.home),
        "launcher's look at the run folders": delivery.deliver_due,
        "MLflow search of all runs": lambda: client.search_runs([experiment], max_results=5000),
    }


def reopened(launch: Launch) -> Launch:
    connected = database.open_storage(launch.url, launch.home, launch.spec.heartbeat)
    loaded = storage.load(launch.name, connected)
    assert loaded is not None
    return Launch(launch.home, launch.url, launch.spec, *loaded)


def status(launch: Launch) -> list[str]:
    return status_lines(progress.snapshot(find_launch(launch.home, launch.name), workers=None))


def report(launch: Launch) -> None:
    from analysis.report import write_report

    with tempfile.TemporaryDirectory() as out:
        write_report(launch.home.root, launch.name, Path(out) / "report")


def least(operation: Operation, turns: int = 3) -> float:
    best = math.inf
    for _ in range(turns):
        start = time.perf_counter()
        operation()
        best = min(best, time.perf_counter() - start)
        if best > 5.0:
            break  # the first is good enough
    return best


def slope(times: dict[int, float]) -> float:
    """Between the two largest sizes."""
    if len(times) < 2:
        return math.nan
    (a, first), (b, last) = sorted(times.items())[-2:]
    return math.log(last / first) / math.log(b / a)


def print_table(times: dict[str, dict[int, float]]) -> None:
    sizes = sorted({size for one in times.values() for size in one})
    print(f"{'milliseconds':38s}" + "".join(f"{size:>10,d}" for size in sizes) + f"{'slope':>8s}")
    for name, one in times.items():
        cells = "".join(f"{1e3 * one[size]:10.1f}" if size in one else f"{'':10s}" for size in sizes)
        print(f"{name:38s}{cells}{slope(one):8.2f}")


if __name__ == "__main__":
    main()
