"""A runner that says where a run's time goes: ``workbench.runner`` with its parts timed.

    python -m studies.worker … --execute tests.bench.timed_runner:execute

Appends one line per run to the file ``CALM_BENCH_TIMES``: seconds by part (of the clock and of the processor),
each without the parts inside it; and, of a worker's first run, the seconds from the start of the process to the
first training step.
"""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from workbench import checkpoint, files, records, run_plots, runner, train
from workbench.runner import Identity, StopRun, resolve

__all__ = ["Identity", "StopRun", "execute", "resolve"]

CLOCKS = {"parts": time.perf_counter, "processor": time.process_time}
seconds: dict[str, Counter[str]] = {clock: Counter() for clock in CLOCKS}
"""By clock, by part."""
_stack: list[dict[str, float]] = []
_first_step: list[float] = []
_ended: list[dict[str, float]] = []


def _now() -> dict[str, float]:
    return {name: clock() for name, clock in CLOCKS.items()}


def timed(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, its own time (what is timed inside left out) added to ``seconds`` under ``label``."""

    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        start = _now()
        _stack.append(dict.fromkeys(CLOCKS, 0.0))
        try:
            return function(*arguments, **options)
        finally:
            inside, end = _stack.pop(), _now()
            for clock in CLOCKS:
                took = end[clock] - start[clock]
                seconds[clock][label] += took - inside[clock]
                if _stack:
                    _stack[-1][clock] += took

    return wrapper


def _patch(owner: Any, name: str, label: str) -> None:
    setattr(owner, name, timed(label, getattr(owner, name)))


for _owner, _name, _label in (
    (runner, "prepare_inputs", "inputs"),
    (runner, "floors", "floors"),
    (runner, "build_model", "model and autoencoder"),
    (runner, "evaluate", "evaluation"),
    (runner, "bottleneck", "evaluation"),
    (runner, "identical_draws", "evaluation"),
    (runner._Run, "deliver", "mlflow"),
    (run_plots, "draw", "figures"),
    (files, "write_atomic", "run folder"),
    (files, "append_json_line", "run folder"),
    (runner, "write_positions", "run folder"),
    (checkpoint, "save", "checkpoints"),
    (runner.machine, "environment", "environment"),
    (train.Trainer, "_step", "training"),
):
    _patch(_owner, _name, _label)

_step = train.Trainer._step


def _noting_first(*arguments: Any) -> Any:
    if not _first_step:
        _first_step.append(time.time())
    return _step(*arguments)


train.Trainer._step = _noting_first  # type: ignore[method-assign, assignment]


def execute(*arguments: Any, on_evaluation: Any = None, **options: Any) -> records.RunRecord:
    """``workbench.runner.execute``, timed."""
    began, before = time.time(), _now()
    for counts in seconds.values():
        counts.clear()
    if _ended:
        for clock in CLOCKS:
            seconds[clock]["between"] = before[clock] - _ended[0][clock]
    callback = timed("optuna", on_evaluation) if on_evaluation else None
    record: records.RunRecord = timed("rest", runner.execute)(*arguments, on_evaluation=callback, **options)
    after = _now()
    first = not _ended
    line = {
        "run": record.run_id,
        "worker": os.getpid(),
        "began": began,
        "ended": time.time(),
        "start_up": _first_step[0] - psutil.Process().create_time() if first else None,
        "to_first_step": _first_step[0] - began if first else None,
        "wall": after["parts"] - before["parts"],
        **{clock: dict(counts) for clock, counts in seconds.items()},
    }
    files.append_json_line(Path(os.environ["CALM_BENCH_TIMES"]), line)
    _ended[:] = [_now()]
    return record
