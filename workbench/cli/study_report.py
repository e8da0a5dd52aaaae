"""A study's report, shown at its launch on the tracking server: for ``calm study run``, ``report`` and ``sync``.

The one place where the report (``analysis``) and the tracking server meet.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.home import Home
    from workbench.tracking_report import StudyReport


def read_study_report(home: Home, study: str, folder: Path) -> StudyReport:
    """The report of ``study`` that stands in ``folder``, as a tracking server can show it.

    Raises OutputError where there is none."""
    from analysis.digest import read_digest
    from workbench import files
    from workbench.tracking_report import StudyReport

    digest = read_digest(folder)
    try:
        question = str(files.read_json(home.study(study) / "study.json").get("question") or "")
    except (OSError, ValueError, AttributeError):
        question = ""
    return StudyReport(
        folder=Path(folder),
        step=digest.counts.get("completed", 0),
        metrics=digest.metrics,
        question=question,
        verdict=digest.verdict,
        tables={"best": digest.rows(digest.best), "frontier": digest.rows(digest.frontier)},
    )


def build_study_report(home: Home, study: str) -> StudyReport:
    """Write the report to the cache of ``home`` and read it back.

    Raises StudyError, OutputError."""
    from analysis.report import write_report

    folder = home.cache / "reports" / study
    write_report(home.root, study, folder)
    return read_study_report(home, study, folder)


def deliver_report(
    home: Home, study: str, folder: Path | None = None, *, tracking_uri: str | None = None
) -> str | None:
    """Show the report in ``folder`` (None: one is built for it) at the study's latest launch on ``tracking_uri``
    (None: wherever the launch is shown). Never raises: the report on disk is what counts.

    Returns what the user should be told; None where the launch now shows the report, or none is to show it."""
    from workbench.errors import UserError

    try:
        outcome = _deliver(home, study, folder, tracking_uri)
    except UserError as error:
        return f"the report of {study} is not shown in MLflow: {error}"
    except Exception as error:  # a server, its client or the file system, with an exception of its own
        return f"the report of {study} is not shown in MLflow: {type(error).__name__}: {error}"
    if outcome is None:
        return None
    return f"the report of {study} is not shown in MLflow ({outcome}); deliver it later with: calm sync"


def _deliver(home: Home, study: str, folder: Path | None, tracking_uri: str | None) -> str | None:
    """Why it is not shown; None where it is, or need not be."""
    from workbench.tracking import Outcome, open_tracker
    from workbench.tracking_launches import latest_launch, read_launches
    from workbench.tracking_targets import with_password

    launches = read_launches(home, study)
    if not launches or tracking_uri == "none":
        return None
    tracker = open_tracker(with_password(tracking_uri or launches[-1].tracking_uri), experiment=study, home=home)
    with contextlib.closing(tracker):
        launch = latest_launch(home, study, tracker.uri)
        if launch is None:
            return None
        report = build_study_report(home, study) if folder is None else read_study_report(home, study, folder)
        outcome = tracker.show_report(study, launch.run_id, report)
    return None if outcome in (Outcome.DELIVERED, Outcome.COMPLETE) else outcome.value
