from __future__ import annotations

from pathlib import Path

import pytest

from analysis.table import RunTable, load_runs
from tests.suites.synthetic_study import make_study


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one hand-made study; tests must not change it."""
    root = tmp_path_factory.mktemp("analysis") / "runs"
    make_study(root)
    return root


@pytest.fixture(scope="session")
def table(home: Path) -> RunTable:
    return load_runs(home)
