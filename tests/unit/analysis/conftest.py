from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import style
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


@pytest.fixture(scope="session", autouse=True)
def _coarse_pictures() -> Iterator[None]:
    """Fewer pixels: half of a report's time goes into them."""
    before, style.DPI = style.DPI, 40
    yield
    style.DPI = before
