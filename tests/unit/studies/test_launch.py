"""A launcher that leaves: what the tracking server gets, and when it may be told that the launch has stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies import launch as launching
from studies import progress, recovery
from tests.suites.study_launch import create, tiny_spec
from workbench import processes


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # ask() stands for another worker
def test_a_launch_goes_on_while_a_trial_runs_elsewhere(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    assert not launching._others_work(progress.snapshot(launch))
    trial = launch.search.ask()
    gone = {**processes.this_process(), "index": 0, "ticks": 1}
    for worker, works in ((gone, False), (recovery.this_worker(0), True), ({**gone, "boot": "another's"}, True)):
        trial.set_user_attr("worker", worker)
        assert launching._others_work(progress.snapshot(launch)) is works


@pytest.mark.parametrize(("waited", "seconds"), [(0.3, 3.0), (5.5, 3.0), (7.0, 1.5), (8.0, 0.5), (30.0, 0.5)])
def test_the_last_delivery_has_what_the_workers_left_of_ten_seconds(waited: float, seconds: float) -> None:
    assert launching.last_delivery(waited) == seconds
