"""Several `calm study run` on one study and one home at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from studies import plan, prepare
from studies.objective import DEFAULT_RUNNER
from studies.spec import StudySpec
from studies.storage import Launch
from tests.suites.fake_runner import ATTEMPTS
from tests.suites.study_launch import FAKE, create, tiny_spec
from tests.suites.tiny_runs import tree, write_text
from workbench import records
from workbench.files import read_json, read_json_lines

CALM = [sys.executable, "-m", "workbench.cli"]
pytestmark = pytest.mark.slow


def launched(tmp_path: Path, spec: StudySpec) -> Launch:
    launch = create(tmp_path, spec)
    prepare.write_study_file(launch, "none")
    return launch


def start(launch: Launch, execute: str, **environment: str) -> subprocess.Popen[str]:
    command = [*CALM, "study", "run", launch.name, "--home", str(launch.home.root), "--workers", "2", "--threads"]
    command += ["1", "--tracking-uri", "none", "--execute", execute]
    known = {**os.environ, "PYTHONPATH": os.getcwd(), **environment}
    return subprocess.Popen(command, env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*launchers: subprocess.Popen[str]) -> None:
    for launcher in launchers:
        said, _ = launcher.communicate(timeout=180)
        assert launcher.returncode == 0, said


def test_they_share_the_trials_and_run_none_twice(tmp_path: Path) -> None:
    launch = launched(tmp_path, tiny_spec(trials=9))
    finish(*(start(launch, FAKE, FAKE_SECONDS="0.5") for _ in range(3)))
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    for study, wanted in ((launch.search, 9), (launch.cells, 4)):
        assert [t.state for t in study.get_trials()] == [TrialState.COMPLETE] * wanted
    paths = launch.folder.glob(f"*/{ATTEMPTS}")
    counts = Counter({path.parent.name: len(read_json_lines(path)) for path in paths})
    assert (len(counts), set(counts.values())) == (13, {1})
    processes = {t.user_attrs["worker"]["pid"] for t in launch.search.get_trials()}
    assert len(processes) > 2  # not all of one launcher's


def test_an_autoencoder_is_trained_once(tmp_path: Path) -> None:
    """Its report holds the seconds that it took, which no second training would repeat."""
    base: dict[str, Any] = tree(write_text(tmp_path / "text.txt"))
    base["autoencoder"] = {**base["autoencoder"], "steps": 300}
    grid = {"optim.clip": {"choices": [1.0, 1.1, 1.2, 1.3]}}
    settings: dict[str, Any] = {"space": grid, "sampler": {"kind": "grid"}, "trials": 4}
    launch = launched(tmp_path / "home", tiny_spec(base=base, baselines={}, checks={}, **settings))
    finish(*(start(launch, DEFAULT_RUNNER, OMP_NUM_THREADS="1") for _ in range(2)))
    run_dirs = records.find_runs(launch.folder)
    assert len(run_dirs) == 4
    assert {records.read_record(run_dir).status for run_dir in run_dirs} == {"completed"}
    reports = {json.dumps(read_json(run_dir / records.AUTOENCODER)) for run_dir in run_dirs}
    assert len(reports) == 1
