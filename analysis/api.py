"""The table of runs and the reports as functions, for notebooks and scripts: ``from analysis import api``
(docs/own-analysis.md). pandas is imported when a function is called; torch, MLflow and Optuna never are.

Errors that a user can mend are subclasses of ``workbench.errors.UserError``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.report import Written
    from analysis.table import RunTable

__all__ = ["report", "table"]


def table(*launches: str, home: Path | str = "runs") -> RunTable:
    """The runs of these launches of studies (default: all), as pandas frames: ``.runs`` has one row a run,
    ``.evaluations`` one an evaluation, and so on.

    Raises StudyError for a launch that is not there."""
    from analysis.table import load_runs

    return load_runs(home, list(launches) or None)


def report(
    *launches: str, home: Path | str = "runs", out: Path | str | None = None, data: Sequence[Path | str] = ()
) -> list[Written]:
    """A report for each of these launches of studies (default: all); ``calm report``. ``.html`` of what is
    returned is the page's path.

    ``out``: a folder; default ``reports/STUDY`` beside ``home``. ``data``: CSV or Parquet files with anybody's
    results. Raises StudyError for a launch that is not there and OutputError where nothing can be written or
    ``out`` holds something that is no report."""
    from analysis.report import write_reports

    return write_reports(home, list(launches) or None, out, external=[Path(path) for path in data])
