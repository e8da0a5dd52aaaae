"""The results of two runs of one configuration, line by line: behind ``calm rerun``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from workbench import checkpoint, records
from workbench.config_file import flatten
from workbench.positions import POSITIONS, read_positions
from workbench.records import FINISHED, Record, RunRecord
from workbench.tensor_files import read_tensors

TIMES = ("seconds", "tokens_per_second")
"""Fields of a line that no two runs have in common."""
Lines = Mapping[int, Mapping[str, Any]]
"""Step to the fields of its line, with dotted names."""


@dataclass(frozen=True)
class Difference:
    """The first line and field in which two runs differ."""

    kind: Literal["metrics", "evaluations"]
    step: int
    name: str
    then: Any
    now: Any

    def words(self) -> str:
        both = isinstance(self.then, (int, float)) and isinstance(self.now, (int, float))
        size = f", a difference of {self.now - self.then:.3g}" if both else ""
        if both and self.then and math.isfinite(self.then):
            size += f" ({(self.now - self.then) / abs(self.then):.1e} of it)"
        return f"{self.kind}: the first difference is {self.name} at step {self.step}: {self.then!r} then, " + (
            f"{self.now!r} now{size}"
        )


@dataclass(frozen=True)
class Compared:
    """The lines of one file of both runs, by step."""

    kind: Literal["metrics", "evaluations"]
    num_common: int
    num_different: int
    num_alone: int
    """Lines that only one of the runs has."""
    first: Difference | None

    def words(self) -> str:
        if self.first is not None:
            return f"{self.first.words()}; {self.num_different} of {self.num_common} lines differ"
        alone = f"; {self.num_alone} more in one of the runs only" if self.num_alone else ""
        return f"{self.kind}: {self.num_common} lines identical, bit for bit{alone}"


@dataclass(frozen=True)
class Results:
    """Two runs of one configuration."""

    lines: list[Compared]
    parts: dict[str, bool | None]
    """Whether the weights, the autoencoder's weights and the scores of every position are the same; None where one
    of the runs has none at its end."""
    statuses: tuple[str, str]
    scores: tuple[str, str]
    """BrierLM with its error, at the last evaluation of each."""
    num_common_steps: int

    @property
    def identical(self) -> bool:
        """In everything that both have."""
        return not any(one.first for one in self.lines) and False not in self.parts.values()

    @property
    def whole(self) -> bool:
        """Both ended alike, and have everything."""
        ended = self.statuses[0] == self.statuses[1] and self.statuses[0] in FINISHED
        return ended and not any(one.num_alone for one in self.lines)

    def words(self) -> list[str]:
        """The verdict first."""
        if not self.identical:
            verdict = "the results differ"
        elif self.whole:
            verdict = "identical, bit for bit"
        elif self.num_common_steps == 0:
            verdict = "no step was logged by both: nothing can be compared yet"
        else:
            verdict = f"identical, bit for bit, up to step {self.num_common_steps}, the last that both have logged"
        lines = [verdict, *(one.words() for one in self.lines)]
        for name, same in self.parts.items():
            said = {True: "identical", False: "different", None: "not there in both at their end"}[same]
            lines.append(f"{name}: {said}")
        then, now = self.statuses
        ended = then if then == now else f"{then} then, {now} now"
        lines.append(f"BrierLM {self.scores[0]} then, {self.scores[1]} now ({ended})")
        if then == "pruned":
            lines.append("the study ended the run early; the rerun is not ended: compared is what both have")
        return lines


def require_comparable(run_dir: Path) -> None:
    """Before a rerun trains for long: raises RunError where what it is to be compared with is damaged."""
    records.read_train_points(run_dir)
    records.read_evaluations(run_dir)
    if (run_dir / POSITIONS).exists():
        read_positions(run_dir / POSITIONS)
    for path in (run_dir / records.AUTOENCODER_WEIGHTS, _weights(run_dir)):
        if path.exists():
            read_tensors(path, what="weights", mapped=True)


def compare_results(then_dir: Path, now_dir: Path) -> Results:
    """Fields that one of the lines does not have, as before there was such a field, are left out."""
    then, now = records.read_record(then_dir), records.read_record(now_dir)
    points = [_by_step(records.read_train_points(folder)) for folder in (then_dir, now_dir)]
    scored = [_by_step(records.read_evaluations(folder)) for folder in (then_dir, now_dir)]
    ended = then.status == now.status and then.status in FINISHED and then.step == now.step
    parts = {
        "autoencoder": _same_weights(*(folder / records.AUTOENCODER_WEIGHTS for folder in (then_dir, now_dir))),
        "weights": _same_weights(*map(_weights, (then_dir, now_dir))) if ended else None,
        "scores of every position": _same_scores(then_dir / POSITIONS, now_dir / POSITIONS) if ended else None,
    }
    if then.kind == "baseline":
        del parts["autoencoder"]
    return Results(
        lines=[_compare("metrics", *points), _compare("evaluations", *scored)],
        parts=parts,
        statuses=(then.status, now.status),
        scores=(_score(then), _score(now)),
        num_common_steps=max(set(points[0]) & set(points[1]), default=0),
    )


def _score(record: RunRecord) -> str:
    return record.final.brier.words() if record.final is not None else "not scored"


def _by_step(lines: Iterable[Record]) -> dict[int, dict[str, Any]]:
    found = {}
    for line in lines:
        fields = flatten(line.model_dump(exclude_unset=True))
        step = fields.pop("step")
        found[int(step)] = {name: value for name, value in fields.items() if name not in TIMES}
    return found


def _compare(kind: Literal["metrics", "evaluations"], then: Lines, now: Lines) -> Compared:
    common = sorted(set(then) & set(now))
    first, different = None, 0
    for step in common:
        name = next((n for n in then[step] if n in now[step] and not _equal(then[step][n], now[step][n])), None)
        if name is not None:
            different += 1
            first = first or Difference(kind, step, *_where(name, then[step][name], now[step][name]))
    return Compared(kind, len(common), different, len(set(then) ^ set(now)), first)


def _where(name: str, then: Any, now: Any) -> tuple[str, Any, Any]:
    """Of lists the first number that differs."""
    if isinstance(then, (list, tuple)) and isinstance(now, (list, tuple)) and len(then) == len(now):
        place = next(i for i, (a, b) in enumerate(zip(then, now, strict=True)) if not _equal(a, b))
        return f"{name}[{place}]", then[place], now[place]
    return name, then, now


def _equal(then: Any, now: Any) -> bool:
    if isinstance(then, float) and isinstance(now, float) and math.isnan(then):
        return math.isnan(now)
    if isinstance(then, (list, tuple)) and isinstance(now, (list, tuple)):
        return len(then) == len(now) and all(map(_equal, then, now))
    return bool(then == now)


def _weights(run_dir: Path) -> Path:
    found = checkpoint.find(run_dir / records.CHECKPOINT)
    return (found or run_dir / records.CHECKPOINT) / checkpoint.WEIGHTS


def _same_weights(then: Path, now: Path) -> bool | None:
    """By the tensors where the files differ: other versions may write other things beside them."""
    same = _same_bytes(then, now)
    if same is not False:
        return same
    tensors = [read_tensors(path, what="weights", mapped=True) for path in (then, now)]
    return set(tensors[0]) == set(tensors[1]) and all(
        torch.equal(value, tensors[1][name]) for name, value in tensors[0].items()
    )


def _same_scores(then: Path, now: Path) -> bool | None:
    same = _same_bytes(then, now)
    if same is not False:
        return same
    scores = [read_positions(path) for path in (then, now)]
    return all(np.array_equal(*(getattr(one, name) for one in scores)) for name in ("starts", "values"))


def _same_bytes(then: Path, now: Path) -> bool | None:
    if not (then.exists() and now.exists()):
        return None
    return then.stat().st_size == now.stat().st_size and then.read_bytes() == now.read_bytes()


def to_dict(results: Results) -> dict[str, Any]:
    """As JSON holds it."""
    lines = [
        {
            "kind": one.kind,
            "common": one.num_common,
            "different": one.num_different,
            "alone": one.num_alone,
            "first": None if one.first is None else vars(one.first),
        }
        for one in results.lines
    ]
    return {
        "identical": results.identical,
        "whole": results.whole,
        "lines": lines,
        "parts": results.parts,
        "statuses": list(results.statuses),
        "scores": list(results.scores),
        "common_steps": results.num_common_steps,
    }
