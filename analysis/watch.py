"""A report that is written again whenever its runs changed, until the study has finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.table import choose_studies
from workbench import records
from workbench.errors import RunError
from workbench.given_files import read_text
from workbench.tracking_schema import effective_status

EVERY = 30.0
"""Seconds between two looks, and after which the page loads itself again."""
LEAST = 1.0
STUDY_FILES = ("study.json", "summary.json")
RUN_FILES = (
    records.RECORD,
    records.CONFIG,
    records.EVALUATIONS,
    records.SAMPLES,
    records.AUTOENCODER,
    "positions.npz",
    "floors.npz",
)
Signature = dict[str, tuple[int, int]]


def signature(home: Path, studies: Sequence[str]) -> Signature:
    """Time of change (ns) and size of every file that a report reads, by path below ``home``."""
    found: Signature = {}
    for study in studies:
        folder = home / study
        paths = [folder / name for name in STUDY_FILES]
        paths += [run / name for run in _runs(folder) for name in RUN_FILES]
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                continue
            found[str(path.relative_to(home))] = (status.st_mtime_ns, status.st_size)
    return found


def finished(home: Path, studies: Sequence[str]) -> bool:
    """Whether no run is under way and every launched study has written its summary after its last run."""
    return all(_finished(home / study) for study in studies)


def watch(
    home: Path,
    studies: list[str] | None,
    write: Callable[[int | None], None],
    *,
    every: float = EVERY,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Call ``write(seconds)`` now and after every change, and ``write(None)`` once when all studies have finished;
    returns how often it wrote. ``write`` gets the seconds after which the page should load itself again.

    Raises StudyError for an unknown study, and whatever ``write`` raises; KeyboardInterrupt ends it."""
    chosen = choose_studies(home, studies)
    before: Signature | None = None
    times = 0
    while True:
        done, now = finished(home, chosen), signature(home, chosen)
        if done:
            write(None)
            return times + 1
        if now != before:
            write(max(1, round(every)))
            times, before = times + 1, now
        sleep(max(every, LEAST))


def _runs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _finished(folder: Path) -> bool:
    last = 0
    for run in _runs(folder):
        path = run / records.RECORD
        try:
            status = json.loads(read_text(path)).get("status")
            last = max(last, path.stat().st_mtime_ns)
        except (OSError, ValueError, AttributeError):
            continue  # being written, or damaged: the report says so
        if status == "running" and not _abandoned(run):
            return False
    if not (folder / "study.json").exists():
        return True
    try:
        return (folder / "summary.json").stat().st_mtime_ns >= last
    except OSError:
        return False


def _abandoned(run: Path) -> bool:
    """Whether a run says that it goes on, and its process is no more."""
    try:
        return effective_status(run, records.read_record(run)) != "running"
    except RunError:
        return False
