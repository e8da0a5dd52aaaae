"""Fixtures of the tests of tracking."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.suites.run_folders import make_run_folder
from workbench.home import Home, open_home

if TYPE_CHECKING:
    from workbench.tracking_mlflow import MlflowTracker


@pytest.fixture
def home(tmp_path: Path, tracking_database: Path) -> Home:
    home = open_home(tmp_path / "home")
    shutil.copy(tracking_database, home.root / "mlflow.db")
    return home


@pytest.fixture
def tracker(home: Home) -> Iterator[MlflowTracker]:
    from workbench.tracking import open_tracker
    from workbench.tracking_mlflow import MlflowTracker

    tracker = open_tracker(None, home=home)
    assert isinstance(tracker, MlflowTracker)
    yield tracker
    tracker.close()


@pytest.fixture
def run_dir(home: Home) -> Path:
    return make_run_folder(home.single_runs() / "r0")


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid
