"""A study's gpu preset in small, from its launch to its last run, on folders in place of the hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from studies import prepare, progress
from studies.objective import load_runner
from studies.worker import take
from tests.suites.paper_sizes import hub_in
from tests.suites.small_studies import small_spec
from tests.suites.study_launch import create, worker
from workbench import records


@pytest.mark.slow
def test_a_small_copy_of_the_heads_runs_to_its_end(tmp_path: Path) -> None:
    """Three heads, three baselines and a check of the rate, as ``calm study run`` makes them."""
    hub_in(tmp_path / "hub")
    spec = small_spec("heads", tmp_path / "hub", seeds=1, checks={"lr_factors": [2.0]})
    launch = create(tmp_path / "home", spec)
    prepare.check_inputs(spec, launch.home)
    prepare.write_study_file(launch, "none")
    this = dataclasses.replace(worker(launch), runner=load_runner())
    for _ in range(20):
        if take(this) == "done":
            break
    state = progress.snapshot(launch)
    assert [row.reason for row in state.of_state("fail")] == []
    assert (state.search.complete, len(state.of_state("complete"))) == (3, 3 + 3 + 1)
    runs = [records.read_record(path.parent) for path in launch.folder.glob("*/record.json")]
    assert [run.status for run in runs] == ["completed"] * 7
    assert all(run.final is not None and run.floors for run in runs)
    stored = prepare.read_study_file(launch.home, launch.name)
    assert stored is not None
    assert stored["spec"]["base"]["model"]["head"]["num_targets"] == 100, "a setting of the run preset, kept"
