"""Every point of every run folder against what a tracking server or database holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench import records
from workbench.home import Home
from workbench.tracking import Tracker, link
from workbench.tracking_metrics import points
from workbench.tracking_schema import FINAL_STATUS, effective_status


@dataclass
class Verdict:
    """Run folders against the server."""

    runs: int = 0
    points: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    """Points with another value than in the folder."""
    sent_twice: int = 0
    """Points that reached the server again although it had them; its database may have dropped them."""
    doubled_runs: int = 0
    """Runs that belong to no folder, or to one that has another; and launches beyond the first."""
    wrong_status: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not (self.lost or self.doubled or self.altered or self.doubled_runs or self.wrong_status)


def compare_shown(tracker: Tracker, home: Home, study: str, launch_status: str = "FINISHED") -> Verdict:
    """Every point of every run of the study under ``home``, and the statuses."""
    shown, verdict = shown_runs(tracker), Verdict()
    compare_folders(tracker, home, study, shown, verdict)
    compare_rest(shown, verdict, launch_status)
    return verdict


def shown_runs(tracker: Tracker) -> dict[str, Any]:
    """By their id."""
    given: Any = tracker
    runs = given._client.search_runs([given._experiment_id], max_results=1000)
    return {run.info.run_id: run for run in runs}


def compare_folders(tracker: Tracker, home: Home, study: str, shown: dict[str, Any], verdict: Verdict) -> None:
    """The run folders of one home; what belongs to them is taken out of ``shown``."""
    given: Any = tracker
    for run_dir in records.find_runs(home.study(study)):
        place = link(run_dir)
        _compare_run(given._client, run_dir, shown.pop(place.run_id, None) if place else None, verdict)


def compare_rest(shown: dict[str, Any], verdict: Verdict, launch_status: str = "FINISHED") -> None:
    """What belongs to no run folder: one launch, and nothing else."""
    launches = [run for run in shown.values() if run.data.tags.get("calm.role") == "launch"]
    verdict.doubled_runs = len(shown) - 1
    verdict.wrong_status += [f"launch: {run.info.status}" for run in launches if run.info.status != launch_status]


def _compare_run(client: Any, run_dir: Path, run: Any, verdict: Verdict) -> None:
    record, name = records.read_record(run_dir), run_dir.name
    wanted = {(point.key, point.step): point.value for point in points(run_dir, record, ended=True)}
    verdict.runs += 1
    verdict.points += len(wanted)
    if run is None:
        verdict.lost.append(f"{name}: all {len(wanted)} points")
        return
    if run.info.status != FINAL_STATUS[effective_status(run_dir, record)]:
        verdict.wrong_status.append(f"{name}: {run.info.status}")
    metrics = [metric for key in run.data.metrics for metric in client.get_metric_history(run.info.run_id, key)]
    held = Counter((metric.key, metric.step) for metric in metrics)
    values = {(metric.key, metric.step): metric.value for metric in metrics}
    verdict.lost += [f"{name}: {point}" for point in wanted.keys() - held.keys()]
    verdict.doubled += [f"{name}: {point}" for point, times in held.items() if times > 1]
    # what was measured in seconds differs where an interrupted stretch was trained again
    timed = ("seconds", "tokens_per_second")
    known = [point for point in wanted.keys() & values.keys() if not point[0].endswith(timed)]
    verdict.altered += [f"{name}: {point}" for point in known if values[point] != wanted[point]]
