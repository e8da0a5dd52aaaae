"""The files of a run folder that grow line by line: points, evaluations, sampled texts. Imports no torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

from workbench import files, records
from workbench.records import Evaluation, SampleText, TrainPoint

LOGS = (records.METRICS, records.EVALUATIONS, records.SAMPLES)
_END = 4096
"""Bytes in which the last line of the points is."""


def flush(run_dir: Path) -> None:
    """Bring what was appended to the disk: a checkpoint must not get there before the points that lead to it."""
    files.sync(*(path for path in (run_dir / name for name in LOGS) if path.exists()))


def forget_after(run_dir: Path, step: int, *, evaluated: bool) -> None:
    """Drop what was recorded after the checkpoint at ``step`` that training continues from; and, unless it was
    ``evaluated``, what of the evaluation at that step had been recorded when it was broken off."""
    last_evaluated = step if evaluated else step - 1
    for path in (run_dir / records.SAMPLE_TEXTS).glob("step-*.txt"):
        if int(path.stem.removeprefix("step-")) > last_evaluated:
            path.unlink()
    for name in LOGS:
        last = step if name == records.METRICS else last_evaluated
        files.keep_json_lines(run_dir / name, lambda row, last=last: row["step"] <= last)  # type: ignore[misc]


def require_whole(run_dir: Path) -> None:
    """Raises RunError where one holds a damaged line before others."""
    for name in LOGS:
        files.read_json_lines(run_dir / name)


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
