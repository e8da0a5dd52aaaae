from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from analysis import (
    plots,
    plots_bottleneck,
    plots_calls,
    plots_correlation,
    plots_frontier,
    plots_noise,
    plots_parameters,
    plots_power_law,
    plots_samplers,
    plots_scaling,
    style,
)
from analysis.report import write_reports
from analysis.table import RunTable, load_runs
from tests.suites.synthetic_study import make_study

COARSE = 40


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one hand-made study; tests must not change it."""
    root = tmp_path_factory.mktemp("analysis") / "runs"
    make_study(root)
    return root


@pytest.fixture(scope="session")
def table(home: Path) -> RunTable:
    return load_runs(home)


@pytest.fixture(scope="session")
def report(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on ``home``; tests must not change it."""
    out = tmp_path_factory.mktemp("report") / "r"
    (written,) = write_reports(home, None, out)
    assert written.html == out / "report.html"
    assert written.warnings == []
    return out


@pytest.fixture(scope="session", autouse=True)
def _coarse_pictures() -> Iterator[None]:
    """Fewer pixels: much of a report's time goes into them."""
    before, style.DPI = style.DPI, COARSE
    yield
    style.DPI = before


@pytest.fixture(scope="session")
def without_figures() -> Callable[..., None]:
    """Drawing is most of the time, and beside the point of a test about words or files. ``keep``: modules whose
    figures the test does look at."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    def apply(monkeypatch: pytest.MonkeyPatch, keep: Collection[ModuleType] = ()) -> None:
        drawn = (plots, plots_parameters, plots_correlation, plots_bottleneck, plots_noise)
        laws = (plots_frontier, plots_power_law, plots_scaling)
        for module in {*drawn, *laws, plots_calls, plots_samplers}.difference(keep):
            for name in [n for n in vars(module) if n.endswith("_figure") and not n.startswith("_")]:
                monkeypatch.setattr(module, name, nothing)
        monkeypatch.setattr(plots_parameters, "noise_figures", lambda *args: [])

    return apply


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch, without_figures: Callable[[pytest.MonkeyPatch], None]) -> None:
    without_figures(monkeypatch)
