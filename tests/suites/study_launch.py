"""Small launches for tests: in one process, on a real sqlite storage, with the fake runner."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from studies import plan, storage
from studies.objective import Worker, load_runner
from studies.search_spec import HeartbeatSpec
from studies.spec import Study, StudySpec, freeze
from studies.storage import Launch
from studies.worker import take
from workbench.home import Home, open_home

FAKE = "tests.suites.fake_runner:execute"
TINY = {
    "base": {
        "model": {"kind": "calm", "backbone": {"width": 16, "num_layers": 2, "num_heads": 2}},
        "train": {"train_flops": 1e11, "num_evaluations": 4},
    },
    "space": {
        "model.chunk_size": {"choices": [1, 2, 4]},
        "autoencoder.latent_dim": {"choices": [16, 32]},
        "autoencoder.kl_floor": {"choices": [0.0, 0.25, 0.5]},
    },
    "baselines": {"small": {"model.backbone.num_layers": 1}, "large": {"model.backbone.num_layers": 3}},
    "checks": {"lr_factors": [0.5, 2.0]},
    "trials": 5,
    "pruner": {"kind": "none"},
}


def tiny_study(**preset: Any) -> Study:
    return Study(
        name="tiny",
        summary="for tests",
        question="does it work?",
        against="it does not",
        objective="score",
        presets={"quick": {**TINY, **preset}},
    )


def tiny_spec(**preset: Any) -> StudySpec:
    return freeze(tiny_study(**preset), "quick")


@functools.cache
def _empty_database() -> bytes:
    """An Optuna database with its tables, made once: creating them takes longer than a tiny study."""
    with tempfile.TemporaryDirectory() as folder:
        home = open_home(folder)
        storage.open_storage(home.optuna_url, home, HeartbeatSpec()).engine.dispose()
        return (home.root / "optuna.db").read_bytes()


def create(home_dir: Path, spec: StudySpec) -> Launch:
    home: Home = open_home(home_dir)
    if not (home.root / "optuna.db").exists():
        (home.root / "optuna.db").write_bytes(_empty_database())
    url = storage.storage_url(None, home)
    search, cells = storage.create(spec, storage.open_storage(url, home, spec.heartbeat))
    return Launch(home=home, url=url, spec=spec, search=search, cells=cells)


def worker(launch: Launch, index: int = 0) -> Worker:
    return Worker(
        launch=launch,
        runner=load_runner(FAKE),
        tracker=None,
        tracking_parent=None,
        threads=1,
        identity=storage.this_worker(index),
    )


def steps(launch: Launch, most: int = 100) -> list[plan.Step]:
    """Let one worker work step by step, and say what it did."""
    this = worker(launch)
    done: list[plan.Step] = []
    while len(done) < most and (not done or done[-1] != "done"):
        done.append(take(this))
    return done
