"""The files of a run folder that grow line by line: points, evaluations, sampled texts. Imports no torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from workbench import files, formats, records, stored
from workbench.records import Evaluation, SampleText, TrainPoint
from workbench.stored import Row

LOGS = (records.METRICS, records.EVALUATIONS, records.SAMPLES)
_TEXT = re.compile(r"step-(\d+)\.txt")
_END = 4096
"""Bytes in which the last line of the points is."""


def flush(run_dir: Path) -> None:
    """Bring what was appended to the disk: a checkpoint must not get there before the points that lead to it."""
    files.sync(*(path for path in (run_dir / name for name in LOGS) if path.exists()))


def forget_after(run_dir: Path, step: int, *, evaluated: bool) -> None:
    """Drop what was recorded after the checkpoint at ``step`` that training continues from; and, unless it was
    ``evaluated``, what of the evaluation at that step had been recorded when it was broken off.

    Raises RunError, with nothing dropped, where a line is damaged before others or holds none of its records."""
    last_evaluated = step if evaluated else step - 1
    kept = _rows_until(run_dir, step, last_evaluated)
    for path in (run_dir / records.SAMPLE_TEXTS).iterdir() if (run_dir / records.SAMPLE_TEXTS).is_dir() else ():
        ours = _TEXT.fullmatch(path.name)  # anything else was put there by somebody
        if ours and int(ours[1]) > last_evaluated and path.is_file():
            path.unlink()
    for name, rows in kept.items():
        files.rewrite_json_lines(run_dir / name, rows)


def require_continuable(run_dir: Path, step: int) -> None:
    """Before anything says that the run is at work again: raises RunError where ``forget_after`` would."""
    _rows_until(run_dir, step, step)


def _rows_until(run_dir: Path, step: int, last_evaluated: int) -> dict[str, list[Row]]:
    """By the name of each log that is there."""
    found: dict[str, list[Row]] = {}
    for name in LOGS:
        path = run_dir / name
        if not os.path.lexists(path):
            continue
        last = step if name == records.METRICS else last_evaluated

        def wanted(row: Row, last: int = last) -> bool:
            """As far as can be told: what has no step is to be looked at."""
            return type(row.get("step")) is not int or row["step"] <= last

        numbered = files.numbered_json_lines(path, wanted) if step else []  # at 0 the run begins anew
        items = _checked(path, numbered)
        found[name] = [row for (_, row), item in zip(numbered, items, strict=True) if item.step <= last]
    return found


def _checked(path: Path, numbered: list[tuple[int, Row]]) -> Sequence[TrainPoint | Evaluation | SampleText]:
    if path.name == records.METRICS:
        return stored.checked(path, numbered, TrainPoint)
    if path.name == records.EVALUATIONS:
        return stored.checked(path, numbered, Evaluation, formats.evaluation_line)
    return stored.checked(path, numbered, SampleText)


def require_whole(run_dir: Path) -> None:
    """Raises RunError where one holds a damaged line before others, or a line that is none of its records."""
    for name in LOGS:
        _checked(run_dir / name, files.numbered_json_lines(run_dir / name))


def latest_point(run_dir: Path) -> TrainPoint | None:
    """Where a run is, for a look at it: read without the points before. None where nothing can be told yet."""
    try:
        with (run_dir / records.METRICS).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END))
            lines = file.read().split(b"\n")
        return TrainPoint.model_validate(json.loads(lines[-2]))
    except (OSError, ValueError, IndexError):
        return None


def keep_sample(run_dir: Path, sample: SampleText) -> None:
    """A line of samples.jsonl, and the text as a file to look at."""
    files.append_json_line(run_dir / records.SAMPLES, sample.model_dump())
    text = f"{sample.sampler}, temperature {sample.temperature:g}\n\n{sample.prompt} ⟶ {sample.text}\n"
    files.write_atomic(run_dir / records.SAMPLE_TEXTS / f"step-{sample.step:08d}.txt", text)


def evaluation_line(evaluation: Evaluation) -> str:
    """What is shown of an evaluation while a run goes on."""
    brier = evaluation.brier
    orders = " ".join(f"{value:.2f}" for value in brier.brier)
    extra = f", cross-entropy {evaluation.cross_entropy:.3f}" if evaluation.cross_entropy is not None else ""
    return f"step {evaluation.step} ({evaluation.phase}): BrierLM {brier.words()} (Brier-1…4 {orders} %){extra}"
