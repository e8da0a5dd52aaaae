"""How a launch stands, for ``calm study status``: who works, who was seen last when, what has failed and why.

A worker is called dead only where its process was looked for on this machine and is not there. Of one elsewhere
its trial's last heartbeat is told, by the database's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studies import presence
from studies.database import database_of, said_plainly
from studies.display import duration, line, progress_text
from studies.progress import Snapshot, TrialRow, snapshot
from studies.slurm import Job, queued_jobs
from studies.storage import Launch
from workbench import processes


@dataclass(frozen=True)
class Running:
    """A trial or cell under way."""

    row: TrialRow
    alive: bool | None
    """Of its worker; None where that cannot be seen from here."""
    silent: float | None
    """Seconds since the last heartbeat."""
    grace: float
    """After so many a worker elsewhere loses its trial."""

    def words(self) -> str:
        """``alive``; ``last sign of life 8 s ago``; ``its process has ended: continued at the next start``."""
        if self.alive:
            return "alive"
        if self.alive is False:
            return "its process has ended; the trial is continued by the next worker"
        if self.silent is None:
            return "no sign of life yet"
        seen = f"last sign of life {duration(self.silent)} ago"
        if self.silent > self.grace:
            return f"{seen}; the trial is continued by the next worker"
        return seen


@dataclass(frozen=True)
class Status:
    """A launch at one moment."""

    name: str
    state: Snapshot
    running: tuple[Running, ...]
    workers: tuple[Mapping[str, Any], ...]
    """Processes that are there, those that wait too; of this home folder only."""
    aborted: str
    """Why the last session was ended, empty where it was not."""
    jobs: tuple[Job, ...] = ()
    """That SLURM has for it."""

    @property
    def num_alive(self) -> int:
        """Workers seen to live: processes of this machine, and those elsewhere whose heart beats."""
        seen = {_key(worker) for worker in self.workers if worker["alive"] and not _launches(worker)}
        for one in self.running:
            if one.alive or (one.alive is None and one.silent is not None and one.silent <= one.grace):
                seen.add(_key(one.row.worker))
        return len(seen)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        state = self.state
        return {
            "name": self.name,
            "finished": state.finished,
            "trials_wanted": state.trials_wanted,
            "search": vars(state.search),
            "cells_wanted": state.cells_wanted,
            "cells": vars(state.cells),
            "best": None if state.best is None else vars(state.best),
            "seconds_left": state.seconds_left,
            "workers_alive": self.num_alive,
            "running": [
                {**vars(one.row), "alive": one.alive, "seconds_since_heartbeat": one.silent}
                for one in self.running
            ],
            "failures": [{"what": row.label, "reason": row.reason} for row in state.of_state("fail")],
            "pruned": [{"what": row.label, "reason": row.reason} for row in state.of_state("pruned")],
            "aborted": self.aborted,
            "jobs": [vars(job) for job in self.jobs],
        }

    @property
    def launched(self) -> bool:
        """Whether a launcher is there, whose workers are or will be."""
        return any(_launches(worker) for worker in self.workers)


def _launches(worker: Mapping[str, Any]) -> bool:
    return worker.get("index") == presence.LAUNCHER


def _key(worker: Mapping[str, Any]) -> tuple[Any, ...]:
    return worker.get("host"), worker.get("pid"), worker.get("ticks", worker.get("started"))


def status(launch: Launch) -> Status:
    """Read the storage and the launch's folder once. Raises StudyError where the database does not answer."""
    with said_plainly(launch.url, "the same command tells"):
        return _status(launch)


def _status(launch: Launch) -> Status:
    state = snapshot(launch, workers=None)
    silent = {
        is_cell: database_of(study).seconds_since_heartbeat(study._study_id)
        for is_cell, study in ((False, launch.search), (True, launch.cells))
    }
    running = tuple(
        Running(
            row,
            processes.is_alive(row.worker) if row.worker else None,
            silent[row.is_cell].get(row.number),
            launch.spec.heartbeat.grace,
        )
        for row in state.of_state("running")
    )
    there = tuple(presence.workers(launch.folder))
    aborted = launch.search.user_attrs.get("abort") or ""
    return Status(launch.name, state, running, there, aborted, tuple(queued_jobs(launch.folder)))


def status_lines(status: Status) -> list[str]:
    """Counts, best, who runs what, failures with their reasons."""
    state = status.state
    lines = [progress_text(state) if not state.finished else f"finished: {progress_text(state)}"]
    if state.best:
        lines.append(f"best: {line(state.best)} (run {state.best.run_id})")
    if not state.finished or status.num_alive:
        lines.append(f"workers alive: {status.num_alive}")
    lines += [_running_line(one) for one in status.running]
    busy = {_key(one.row.worker) for one in status.running}
    idle = [worker for worker in status.workers if _key(worker) not in busy and not _launches(worker)]
    lines += [f"waiting: {_who(worker)}" for worker in idle]
    if state.search.waiting + state.cells.waiting:
        lines.append(f"queued: {state.search.waiting + state.cells.waiting}")
    lines += [job.words() for job in status.jobs]
    lines += [f"failed: {row.label} {row.params}: {row.reason}" for row in state.of_state("fail")]
    if status.aborted:
        lines.append(f"ended by an error: {status.aborted}")
        return lines  # which says what to do
    if not state.finished and not status.num_alive:
        if status.launched:
            return [*lines, "its launcher is there; workers are being started"]
        if status.jobs:
            return [*lines, "its jobs are waiting or starting"]
        lines.append(f"nobody works on it; continue with: calm study run {status.name}")
    if state.of_state("fail"):
        lines.append(f"failed ones again: calm study retry {status.name}")
    return lines


def _running_line(one: Running) -> str:
    row = one.row
    who = _who(row.worker) if row.worker else "starting"
    done = f", {row.evaluations} evaluation(s) done" if row.evaluations else ""
    return f"running: {row.label} {row.params} for {duration(row.seconds or 0.0)}{done}; {who}: {one.words()}"


def _who(worker: Mapping[str, Any]) -> str:
    return f"worker {worker.get('index', '?')} on {worker.get('host')}, process {worker.get('pid')}"
