"""Delivers whatever run folders hold and a tracking server does not: after an outage, to a new server,
or after the database was lost. Also ends, on the server, what was killed without a word.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import files, records
from workbench.errors import RunError, TrackingError
from workbench.home import Home
from workbench.tracking import SINGLE, Outcome, Tracker, open_tracker
from workbench.tracking_launches import latest_launch, read_launches
from workbench.tracking_report import StudyReport, read_report_cursor
from workbench.tracking_schema import KILLED, effective_status

if TYPE_CHECKING:
    from workbench.tracking_mlflow import MlflowTracker

STUDY, SUMMARY = "study.json", "summary.json"


@dataclass
class SyncReport:
    """How many runs went which way."""

    counts: Counter[Outcome] = field(default_factory=Counter)
    reaped: int = 0
    """Runs shown as killed, since their process is gone."""
    reports: int = 0
    """Reports of studies delivered."""
    problems: list[str] = field(default_factory=list)

    @property
    def away(self) -> bool:
        """Whether the server stopped answering on the way."""
        return self.counts[Outcome.AWAY] > 0

    def __str__(self) -> str:
        counts = self.counts
        failed = counts[Outcome.AWAY] + counts[Outcome.REFUSED] + len(self.problems)
        parts = [f"{counts[Outcome.DELIVERED]} delivered", f"{counts[Outcome.COMPLETE]} already complete"]
        parts.append(f"{failed} failed")
        if counts[Outcome.BUSY]:
            parts.append(f"{counts[Outcome.BUSY]} being delivered by their own process")
        if self.reaped:
            parts.append(f"{self.reaped} marked as killed (their process is gone)")
        if self.reports:
            parts.append(f"{self.reports} {'report' if self.reports == 1 else 'reports'} delivered")
        return ", ".join(parts)


def sync(
    home: Home,
    uri: str | None = None,
    on_run: Callable[[Path, Outcome | None], None] | None = None,
    build_report: Callable[[str], StudyReport | None] | None = None,
) -> SyncReport:
    """Deliver every run under ``home``; ``on_run`` hears of each, with None for one that cannot be read.
    ``build_report`` makes the report of a study, given its name; it is asked only for a study of which something
    was new, or whose launch shows no report yet.

    Raises TrackingError where the server does not answer at the start."""
    report = SyncReport()
    for study, run_dirs in _by_study(home, report).items():
        tracker = _open(uri, study, home)
        try:
            if study is not None:
                _ensure_launch(tracker, home, study)
            before = report.counts[Outcome.DELIVERED]
            for run_dir in run_dirs:
                outcome = _deliver(tracker, run_dir, report)
                if on_run is not None:
                    on_run(run_dir, outcome)
            if study is not None:
                _settle_launches(tracker, home, study)
                if build_report is not None and not report.away:
                    new = report.counts[Outcome.DELIVERED] > before
                    _show_report(tracker, home, study, build_report, report, new=new)
        finally:
            tracker.close()
    return report


def _by_study(home: Home, report: SyncReport) -> dict[str | None, list[Path]]:
    groups: dict[str | None, list[Path]] = {}
    for run_dir in records.find_runs(home.root):
        try:
            study = records.read_record(run_dir).study
        except RunError as error:
            report.problems.append(str(error))
            continue
        groups.setdefault(study, []).append(run_dir)
    return groups


def _open(uri: str | None, study: str | None, home: Home) -> MlflowTracker:
    from workbench.tracking_mlflow import MlflowTracker

    tracker = open_tracker(uri, experiment=study or SINGLE, home=home)
    if not isinstance(tracker, MlflowTracker):
        raise TrackingError(f"calm sync needs a server or database to deliver to, --tracking-uri {uri} given")
    return tracker


def _ensure_launch(tracker: MlflowTracker, home: Home, study: str) -> None:
    """A parent for the study's runs on a server that has not seen the study yet."""
    specification = home.study(study) / STUDY
    if latest_launch(home, study, tracker.uri) is None and specification.exists():
        tracker.start_study(study, files.read_json(specification))


def _deliver(tracker: Tracker, run_dir: Path, report: SyncReport) -> Outcome | None:
    try:
        outcome = tracker.mirror(run_dir)
        if outcome is Outcome.DELIVERED and effective_status(run_dir, records.read_record(run_dir)) == KILLED:
            report.reaped += 1
    except RunError as error:
        report.problems.append(str(error))
        return None
    report.counts[outcome] += 1
    return outcome


def _show_report(
    tracker: MlflowTracker,
    home: Home,
    study: str,
    build_report: Callable[[str], StudyReport | None],
    report: SyncReport,
    *,
    new: bool,
) -> None:
    """The study's report, to its latest launch."""
    launch = latest_launch(home, study, tracker.uri)
    if launch is None or not (new or not read_report_cursor(home, study, launch.run_id).files):
        return
    built = build_report(study)
    if built is not None and tracker.show_report(study, launch.run_id, built) is Outcome.DELIVERED:
        report.reports += 1


def _settle_launches(tracker: MlflowTracker, home: Home, study: str) -> None:
    """End launches that nobody will end any more: shown by ``sync`` alone, or their process was killed."""
    summary = home.study(study) / SUMMARY
    for launch in read_launches(home, study):
        ours = launch.pid == os.getpid()
        if launch.tracking_uri != tracker.uri or launch.status != "RUNNING" or not (ours or launch.gone):
            continue
        if summary.exists() and (ours or summary.stat().st_mtime >= launch.started):
            tracker.finish_study(launch.run_id, files.read_json(summary), [])
        elif not ours:
            tracker.kill_launch(study, launch.run_id)
