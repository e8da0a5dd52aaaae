"""Delivers whatever run folders hold and their tracking server does not: after an outage, to a new server,
or after the database was lost. Also ends, on the server, what was killed without a word.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import files, records, tracking_targets
from workbench.errors import RunError, TrackingError
from workbench.home import Home
from workbench.tracking import SINGLE, Outcome, Tracker, open_tracker
from workbench.tracking_database import ExperimentRefused, ServerAway, absolute
from workbench.tracking_home import own_uri
from workbench.tracking_launches import STUDY, SUMMARY, latest_launch, read_launches, read_study_part
from workbench.tracking_report import StudyReport, read_report_cursor
from workbench.tracking_schema import KILLED, effective_status, read_cursor, settled_mark, without_password

if TYPE_CHECKING:
    from workbench.tracking_mlflow import MlflowTracker


log = logging.getLogger("workbench.tracking")


@dataclass
class SyncReport:
    """How many runs went which way."""

    counts: Counter[Outcome] = field(default_factory=Counter)
    reaped: int = 0
    """Runs shown as killed, since their process is gone."""
    reports: int = 0
    """Reports of studies delivered."""
    unreadable: int = 0
    """Runs whose folder cannot be read."""
    problems: list[str] = field(default_factory=list)
    """What the user should be told."""
    servers: list[str] = field(default_factory=list)
    """To which runs were delivered, or were to be; without passwords."""
    silent: set[str] = field(default_factory=set)
    """Those that did not answer, or stopped answering."""

    @property
    def failed(self) -> int:
        """Runs that could not be delivered."""
        return self.counts[Outcome.AWAY] + self.counts[Outcome.REFUSED] + self.unreadable

    @property
    def away(self) -> bool:
        """Whether a server does not answer, or stopped answering on the way."""
        return self.counts[Outcome.AWAY] > 0

    def __str__(self) -> str:
        counts = self.counts
        parts = [f"{counts[Outcome.DELIVERED]} delivered", f"{counts[Outcome.COMPLETE]} already complete"]
        parts.append(f"{self.failed} failed")
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
    *,
    which: Callable[[Path, records.RunRecord], bool] = lambda _, __: True,
) -> SyncReport:
    """Deliver every run under ``home``; ``on_run`` hears of each, with None for one that cannot be read. ``uri``:
    the server to deliver to; None: each study, and each run outside studies, to the one that it was begun with.
    ``build_report`` makes the report of a study, given its name; it is asked only for a study of which something
    was new, or whose launch shows no report yet. ``which`` leaves runs out.

    A server that is busy is asked again for a minute, and given up for good then: what remains counts as away.

    Raises TrackingError where the only server cannot be used, or does not answer at the start."""
    report = SyncReport()
    groups = _by_server(home, uri, _by_study(home, report, which))
    report.servers = list(dict.fromkeys(without_password(absolute(server)) for server, _, _ in groups))
    for number, (server, study, run_dirs) in enumerate(groups):
        tracker = _opened(server, study, home, report, alone=number == 0 and len(report.servers) == 1)
        for run_dir in run_dirs:  # on a host that died nothing else comes by
            files.remove_halves(run_dir, f".{records.CHECKPOINT}.*")
        _sync_study(tracker, home, study, run_dirs, report, on_run, build_report)
    return report


def _by_server(
    home: Home, uri: str | None, groups: dict[str | None, list[Path]]
) -> list[tuple[str, str | None, list[Path]]]:
    """Runs with their study and where they are delivered to."""
    if uri is not None:
        return [(uri, study, run_dirs) for study, run_dirs in groups.items()]
    found: dict[tuple[str, str | None], list[Path]] = {}
    for study, run_dirs in groups.items():
        if study is not None:
            found[tracking_targets.of_study(home, study), study] = run_dirs
            continue
        for run_dir in run_dirs:
            found.setdefault((tracking_targets.of_run(home, run_dir), None), []).append(run_dir)
    return [(server, study, run_dirs) for (server, study), run_dirs in found.items()]


def _opened(
    server: str, study: str | None, home: Home, report: SyncReport, *, alone: bool
) -> MlflowTracker | Outcome:
    """Or what becomes of the runs without it. Raises TrackingError where it was to be the first and only one."""
    known = without_password(absolute(server))
    if known in report.silent:
        return Outcome.AWAY
    try:
        return _open(tracking_targets.with_password(server), study, home)
    except ExperimentRefused as error:
        outcome, problem = Outcome.REFUSED, str(error)
    except TrackingError as error:
        if alone:
            raise
        outcome, problem = Outcome.AWAY if isinstance(error, ServerAway) else Outcome.REFUSED, str(error)
        if outcome is Outcome.AWAY:
            report.silent.add(known)
    if problem not in report.problems:
        report.problems.append(problem)
    return outcome


def deliver_left(home: Home, uri: str | None, study: str | None = None) -> SyncReport | None:
    """Deliver what earlier processes left of the runs of ``study`` (None: of those outside studies): not sent when
    they ended, or shown as running although their process is gone. None where nothing is left, which is found
    without asking the server. Raises TrackingError."""
    server = home.mlflow_uri if uri is None else uri
    here = without_password(absolute(server))

    def left(run_dir: Path, record: records.RunRecord) -> bool:
        if record.study != study or _is_settled(run_dir, record, here):
            return False
        return study is not None or tracking_targets.of_run(home, run_dir) in (here, own_uri(home))

    def also_whole(_: Path, record: records.RunRecord) -> bool:
        return record.study == study

    launches = read_launches(home, study) if study is not None else []
    open_launch = any(row.tracking_uri == here and row.gone for row in launches)
    if uri == "none" or not (open_launch or _by_study(home, SyncReport(), left)):
        return None
    return sync(home, server, which=also_whole if open_launch else left)


def deliver_left_aside(home: Home, uri: str | None) -> None:
    """``deliver_left`` of the runs outside studies, in a thread that keeps nobody waiting and may be cut short."""

    def deliver() -> None:
        try:
            deliver_left(home, uri)
        except Exception as error:  # it is all still in the run folders
            log.info("runs of earlier sessions were not delivered: %s", error)

    threading.Thread(target=deliver, name="left", daemon=True).start()


def _is_settled(run_dir: Path, record: records.RunRecord, uri: str) -> bool:
    """Whether the run has ended and everything of it is at ``uri``, or its own process is at it."""
    mark = settled_mark(run_dir, record)
    if not mark:
        return True
    cursor = read_cursor(run_dir)
    return cursor is not None and cursor.tracking_uri == uri and cursor.settled == mark


def _sync_study(
    tracker: MlflowTracker | Outcome,
    home: Home,
    study: str | None,
    run_dirs: list[Path],
    report: SyncReport,
    on_run: Callable[[Path, Outcome | None], None] | None,
    build_report: Callable[[str], StudyReport | None] | None,
) -> None:
    """``tracker`` is an outcome where there is none: that of all the runs."""
    if isinstance(tracker, Outcome):
        _count(tracker, run_dirs, report, on_run)
        return
    with contextlib.closing(tracker):
        if study is not None and not _ensure_launch(tracker, home, study, report):
            _count(Outcome.REFUSED, run_dirs, report, on_run)
            return
        before = report.counts[Outcome.DELIVERED]
        for run_dir in run_dirs:
            outcome = _deliver(tracker, run_dir, report)
            if on_run is not None:
                on_run(run_dir, outcome)
        if study is not None and tracker.uri not in report.silent:
            _settle_launches(tracker, home, study, report)
            if build_report is not None:
                new = report.counts[Outcome.DELIVERED] > before
                _show_report(tracker, home, study, build_report, report, new=new)


def _count(
    outcome: Outcome,
    run_dirs: list[Path],
    report: SyncReport,
    on_run: Callable[[Path, Outcome | None], None] | None,
) -> None:
    """One outcome for all of them."""
    report.counts[outcome] += len(run_dirs)
    for run_dir in run_dirs:
        if on_run is not None:
            on_run(run_dir, outcome)


def _by_study(
    home: Home, report: SyncReport, which: Callable[[Path, records.RunRecord], bool]
) -> dict[str | None, list[Path]]:
    groups: dict[str | None, list[Path]] = {}
    for run_dir in records.find_runs(home.root):
        try:
            record = records.read_record(run_dir)
        except RunError as error:
            report.unreadable += 1
            report.problems.append(str(error))
            continue
        if which(run_dir, record):
            groups.setdefault(record.study, []).append(run_dir)
    return groups


def _open(uri: str, study: str | None, home: Home) -> MlflowTracker:
    from workbench.tracking_mlflow import MlflowTracker

    tracker = open_tracker(uri, experiment=study or SINGLE, home=home)
    if not isinstance(tracker, MlflowTracker):
        raise TrackingError(f"calm sync needs a server or database to deliver to, --tracking-uri {uri} given")
    tracker.be_patient()
    return tracker


def _ensure_launch(tracker: MlflowTracker, home: Home, study: str, report: SyncReport) -> bool:
    """A parent for the study's runs on a server that has not seen the study yet, or has lost it. False where they
    have to wait for one, as nobody can read what the study is: they would stay outside it for good."""
    try:
        spec = read_study_part(home, study, STUDY)
    except RunError as error:
        report.problems.append(f"{error}, then give the same command again")
        return tracker.ensure_launch(study, None) is not None
    if spec is not None:
        tracker.ensure_launch(study, spec)
    return True


def _deliver(tracker: Tracker, run_dir: Path, report: SyncReport) -> Outcome | None:
    """None where the run cannot be read. Once the server is away it is not asked again."""
    try:
        outcome = Outcome.AWAY if tracker.uri in report.silent else tracker.mirror(run_dir)
        if outcome is Outcome.DELIVERED and effective_status(run_dir, records.read_record(run_dir)) == KILLED:
            report.reaped += 1
    except RunError as error:
        report.unreadable += 1
        report.problems.append(str(error))
        return None
    report.counts[outcome] += 1
    if outcome is Outcome.AWAY:
        report.silent.add(tracker.uri)
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


def _settle_launches(tracker: MlflowTracker, home: Home, study: str, report: SyncReport) -> None:
    """End launches that nobody will end any more: shown by ``sync`` alone, or their process was killed."""
    for launch in read_launches(home, study):
        ours = launch.pid == os.getpid()
        if launch.tracking_uri != tracker.uri or launch.status != "RUNNING" or not (ours or launch.gone):
            continue
        try:
            summary = read_study_part(home, study, SUMMARY)
        except RunError as error:
            report.problems.append(f"{error}, then give the same command again")
            return
        if summary is not None and (ours or (home.study(study) / SUMMARY).stat().st_mtime >= launch.started):
            tracker.finish_study(launch.run_id, summary, [])
        elif not ours:
            tracker.stop_study(launch.run_id)
