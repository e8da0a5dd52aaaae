"""Small launches for tests: in one process, on a real sqlite storage, with the fake runner."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from studies import database, plan, prepare, recovery, storage
from studies.objective import Worker, load_runner
from studies.search_spec import HeartbeatSpec
from studies.spec import Study, StudySpec, freeze
from studies.storage import Launch
from studies.worker import take
from workbench.cli.study import register
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
        database.open_storage(home.optuna_url, home, HeartbeatSpec()).engine.dispose()
        return (home.root / "optuna.db").read_bytes()


@functools.cache
def _prepared_home() -> Path:
    """A home with tables and what a launch of ``tiny_spec`` prepares: text, positions, the machine's probes."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "optuna.db").write_bytes(_empty_database())
    prepare.check_inputs(tiny_spec(), open_home(folder))
    return folder


def prepared_home(folder: Path) -> Home:
    """A home of its own for a test that launches: preparing one takes seconds, copying it does not."""
    shutil.copytree(_prepared_home(), folder, dirs_exist_ok=True)
    return open_home(folder)


def create(home_dir: Path, spec: StudySpec) -> Launch:
    home: Home = open_home(home_dir)
    if not (home.root / "optuna.db").exists():
        (home.root / "optuna.db").write_bytes(_empty_database())
    url = database.storage_url(None, home)
    search, cells = storage.create(spec, database.open_storage(url, home, spec.heartbeat))
    return Launch(home=home, url=url, spec=spec, search=search, cells=cells)


def worker(launch: Launch, index: int = 0) -> Worker:
    return Worker(
        launch=launch,
        runner=load_runner(FAKE),
        tracker=None,
        tracking_parent=None,
        threads=1,
        identity=recovery.this_worker(index),
    )


def steps(launch: Launch, most: int = 100) -> list[plan.Step]:
    """Let one worker work step by step, and say what it did."""
    this = worker(launch)
    done: list[plan.Step] = []
    while len(done) < most and (not done or done[-1] != "done"):
        done.append(take(this))
    return done


def tiny_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """One for which the study ``tiny`` is the only one there is."""
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study()})
    monkeypatch.setattr("studies.find_studies", lambda: {"tiny": tiny_study()})
    monkeypatch.setattr("studies.launch.POLL_SECONDS", 0.2)
    return open_home(folder)


def invoke(*arguments: str) -> Result:
    """The commands of studies alone, in this process."""
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, list(arguments))
