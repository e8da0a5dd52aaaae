"""A study in which everything goes wrong once goes on to its end, and says of each trial why it failed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from studies import plan, recovery
from studies.worker import stop_if_hopeless, take
from tests.suites import fake_runner
from tests.suites.study_launch import create, tiny_spec, worker
from workbench import records
from workbench.errors import ConfigError, DataError, RunError, TrackingError
from workbench.records import RunRecord

LOST = {"t000": "diverged", "t003": "collapsed", "t006": "not_finite", "large": "diverged"}
"""Beginning of a run's name to the status that it ends with."""
RAISED: dict[str, Exception] = {
    "t001": MemoryError(),
    "t002": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "t004": ConfigError("model.chunk_size: 3 is not among those that divide train.block_len"),
    "t005": RunError("the checkpoint is damaged"),
    "t007": RecursionError("maximum recursion depth exceeded"),
    "t008": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "t009": DataError("the corpus of this setting is gone"),
    "t010": TrackingError("the server refuses [bold]this[/] run"),
    "t011": ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    "t012": OSError(12, "Cannot allocate memory"),
    "small": ArithmeticError(""),
}


def execute(config: Any, run_dir: Path, **options: Any) -> RunRecord:
    name = run_dir.name.partition("-")[0]
    if name in RAISED:
        raise RAISED[name]
    record = fake_runner.execute(config, run_dir, **options)
    if name in LOST and record.status == "completed":
        reason = f"{LOST[name]} at step 40"
        record = record.model_copy(update={"status": LOST[name], "reason": reason})
        records.write_record(run_dir, record)
    return record


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*NaN.*")
def test_one_bad_trial_after_another_never_takes_the_study_down(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec(trials=4, max_pruned=40))
    this = worker(launch)
    this.runner = dataclasses.replace(this.runner, execute=execute)
    done: list[plan.Step] = []
    while len(done) < 60 and (not done or done[-1] != "done"):
        done.append(take(this))
        stop_if_hopeless(this)
    assert done[-1] == "done"
    assert this.error is None
    trials = {t.number: t for t in launch.search.get_trials(deepcopy=False)}
    complete = [number for number, trial in trials.items() if trial.state == TrialState.COMPLETE]
    assert complete == [13, 14, 15, 16], "as many as were asked for, besides the bad ones"
    for number in range(13):
        trial, name = trials[number], f"t{number:03d}"
        if name in LOST:
            assert trial.state == TrialState.PRUNED, "so that the sampler learns to avoid the setting"
            assert trial.user_attrs["reason"] == f"{LOST[name]} at step 40"
        else:
            assert trial.state == TrialState.FAIL
            assert type(RAISED[name]).__name__ in trial.user_attrs["reason"] or str(RAISED[name]) in str(
                trial.user_attrs["reason"]
            )
    cells = {t.params["cell"]: t for t in launch.cells.get_trials(deepcopy=False) if "cell" in t.params}
    assert cells["large"].state == TrialState.FAIL
    assert recovery.failure_reason(cells["large"]) == "diverged at step 40"
    assert recovery.failure_reason(cells["small"]) == "ArithmeticError: ArithmeticError"
    assert cells["lr-x0.5"].state == TrialState.COMPLETE
