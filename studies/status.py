"""How a launch stands, for ``calm study status``: who works, who was seen last when, what has failed and why.

A worker is called dead only where its process was looked for on this machine and is not there. Of one elsewhere
its last sign of life is told: its trial's heartbeat, by the database's clock, or that of its file (``presence``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studies import presence
from studies.database import database_of, said_plainly
from studies.display import duration, line, progress_text
from studies.presence import Seen
from studies.progress import Snapshot, TrialRow, snapshot
from studies.slurm import Job, queued_jobs
from studies.storage import Launch
from workbench import processes

MOST_BEGUN = 5
"""So many queued trials that were begun are named."""


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
    unseen: float | None = None
    """Seconds since any sign of life of its worker, where it has given one."""
    waits: bool = False
    """Whether its end is known by a lock or a restart alone, and who queues it again goes by heartbeats."""

    def words(self) -> str:
        """``alive``; ``last sign of life 8 s ago``; ``its process has ended; the trial is queued again, …``."""
        if self.alive:
            return "alive"
        if self.alive is False:
            then = f" {duration(self.grace)} after its last heartbeat" if self.waits else ""
            return f"its process has ended; the trial is queued again{then}, and goes on from its last checkpoint"
        if self.unseen is None:
            return "no sign of life yet"
        said = _unseen(self.unseen, self.grace)
        lost = self.silent is not None and self.silent > self.grace
        return f"{said}; the trial is queued again, and goes on from its last checkpoint" if lost else said


@dataclass(frozen=True)
class Status:
    """A launch at one moment."""

    name: str
    named: str
    """In a command: with its home where that is needed."""
    state: Snapshot
    running: tuple[Running, ...]
    workers: tuple[Seen, ...]
    """Processes that are there or may be, those that wait too; of this home folder only."""
    aborted: str
    """Why the last session was ended, empty where it was not."""
    grace: float
    """Seconds without a sign of life after which one elsewhere is no longer counted."""
    jobs: tuple[Job, ...] = ()
    """That SLURM has for it."""

    @property
    def num_alive(self) -> int:
        """Workers seen to live: processes of this machine, and those elsewhere that have just given a sign."""
        return sum(self._known.values())

    @property
    def num_unseen(self) -> int:
        """Workers and launchers that may live, for all that can be seen from here."""
        launchers = [
            one for one in self.workers if one.launches and not _counts(one.alive, one.silent, self.grace)
        ]
        return sum(not counted for counted in self._known.values()) + len(launchers)

    @property
    def _known(self) -> dict[presence.Key, bool]:
        """Every worker that is not known to be dead, and whether it is counted as alive."""
        known = {
            presence.key(one.worker): _counts(one.alive, one.silent, self.grace)
            for one in self.workers
            if not one.launches and one.alive is not False
        }
        for one in self.running:
            which, counts = presence.key(one.row.worker), _counts(one.alive, one.unseen, one.grace)
            if counts or (one.row.worker and one.alive is None):  # who has not signed yet may be nobody
                known[which] = known.get(which, False) or counts
        return known

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
            "workers_unseen": self.num_unseen,
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
        return any(one.launches and _counts(one.alive, one.silent, self.grace) for one in self.workers)


def _counts(alive: bool | None, silent: float | None, grace: float) -> bool:
    return bool(alive) or (alive is None and silent is not None and silent <= grace)


def _unseen(silent: float, grace: float) -> str:
    seen = f"last sign of life {duration(silent)} ago"
    return seen if silent <= grace else f"cannot be seen from here ({seen})"


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
    rows = state.of_state("running")
    there = presence.workers(launch.folder, {presence.key(row.worker) for row in rows})
    seen = {presence.key(one.worker): one for one in there}
    running = tuple(
        _running(row, seen.get(presence.key(row.worker)), silent[row.is_cell].get(row.number), launch)
        for row in rows
    )
    grace = max(launch.spec.heartbeat.grace, 3 * presence.BEAT_SECONDS)
    aborted = launch.search.user_attrs.get("abort") or ""
    living = tuple(one for one in there if one.alive is not False)
    jobs = tuple(queued_jobs(launch.folder))
    return Status(launch.name, launch.named, state, running, living, aborted, grace, jobs)


def _running(row: TrialRow, seen: Seen | None, silent: float | None, launch: Launch) -> Running:
    """``seen``: its worker's file, where this home has one; ``silent``: since its last heartbeat."""
    alive = seen.alive if seen else processes.is_alive(row.worker) if row.worker else None
    if alive is None and row.worker and processes.gone(row.worker):
        alive = False
    signs = [sign for sign in (silent, seen.silent if seen else None) if sign is not None]
    grace = launch.spec.heartbeat.grace
    late = silent is not None and silent > grace
    waits = alive is False and not late and processes.is_alive(row.worker) is not False
    return Running(row, alive, silent, grace, min(signs, default=None), waits)


def status_lines(status: Status) -> list[str]:
    """Counts, best, who runs what, failures with their reasons."""
    state = status.state
    lines = [progress_text(state) if not state.finished else f"finished: {progress_text(state)}"]
    if state.best:
        lines.append(f"best: {line(state.best)} (run {state.best.run_id})")
    if not state.finished or status.num_alive:
        unseen = f", {status.num_unseen} cannot be seen from here" if status.num_unseen else ""
        lines.append(f"workers alive: {status.num_alive}{unseen}")
    lines += [_running_line(one) for one in status.running]
    if not state.finished:  # then nobody waits for anything, whatever a lost host has left
        lines += _waiting_lines(status)
    if state.search.waiting + state.cells.waiting:
        lines.append(f"queued: {state.search.waiting + state.cells.waiting}{_begun(state)}")
    lines += [job.words() for job in status.jobs]
    lines += [f"failed: {row.label} {row.params}: {row.reason}" for row in state.of_state("fail")]
    if state.in_vain:  # otherwise it is the usual end of a poor setting
        lines += [f"pruned: {row.label} {row.params}: {row.reason}" for row in state.of_state("pruned")]
    if status.aborted:
        lines.append(f"ended by an error: {status.aborted}")
        return lines  # which says what to do
    if not state.finished and not status.num_alive:
        if status.launched:
            return [*lines, "its launcher is there; workers are being started"]
        if status.jobs:
            return [*lines, "its jobs are waiting or starting"]
        command = f"calm study run {status.named}"
        lines.append(
            f"whether anybody works on it cannot be seen from here; continue, or join in, with: {command}"
            if status.num_unseen
            else f"nobody works on it; continue with: {command}"
        )
    if state.of_state("fail"):
        lines.append(f"failed ones again: calm study retry {status.named}")
    return lines


def _begun(state: Snapshot) -> str:
    labels = [row.label for row in state.of_state("waiting") if row.run_id]
    more = f" and {len(labels) - MOST_BEGUN} more" if len(labels) > MOST_BEGUN else ""
    return f" ({', '.join(labels[:MOST_BEGUN])}{more} begun before)" if labels else ""


def _waiting_lines(status: Status) -> list[str]:
    """Workers that have no trial, and launchers of which it is not known whether they live."""
    busy = {presence.key(one.row.worker) for one in status.running}
    lines = []
    for one in status.workers:
        said = "" if one.alive else f": {_unseen(one.silent, status.grace)}"
        if one.launches and not _counts(one.alive, one.silent, status.grace):
            who = f"launcher on {one.worker.get('host')}, process {one.worker.get('pid')}"
            lines.append(f"{who}{said}")
        elif not one.launches and presence.key(one.worker) not in busy:
            lines.append(f"waiting: {_who(one.worker)}{said}")
    return lines


def _running_line(one: Running) -> str:
    row = one.row
    who = _who(row.worker) if row.worker else "starting"
    done = f", {row.evaluations} evaluation(s) done" if row.evaluations else ""
    return f"running: {row.label} {row.params} for {duration(row.seconds or 0.0)}{done}; {who}: {one.words()}"


def _who(worker: Mapping[str, Any]) -> str:
    return f"worker {worker.get('index', '?')} on {worker.get('host')}, process {worker.get('pid')}"
