"""Order of work, counting, and that nothing finished is repeated. One worker, in this process."""

import pytest
from optuna.trial import TrialState

from studies import objective, plan, recovery, storage
from studies.prepare import retry
from tests.suites.cells_only import CELLS
from tests.suites.fake_runner import ATTEMPTS
from tests.suites.study_launch import create, steps, tiny_spec
from workbench.config_file import stored_config
from workbench.files import read_json_lines
from workbench.records import CONFIG

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # ask() stands for another worker


def runs(launch):
    """Run folder to the number of times it was trained."""
    return {p.parent.name: len(read_json_lines(p)) for p in launch.folder.glob(f"*/{ATTEMPTS}")}


@pytest.mark.slow
def test_baselines_then_search_then_checks(tmp_path):
    launch = create(tmp_path, tiny_spec())
    assert steps(launch) == ["cells"] * 2 + ["search"] * 5 + ["cells"] * 2 + ["done"]
    best = plan.best_trial(launch.search)
    assert set(runs(launch)) == {
        "small-s0",
        "large-s0",
        *(t.user_attrs["runs"][0] for t in launch.search.get_trials()),
        f"lr-x0.5-t{best.number:03d}-s0",
        f"lr-x2-t{best.number:03d}-s0",
    }
    assert set(runs(launch).values()) == {1}


def test_a_repeated_baseline_has_the_next_seed(tmp_path):
    launch = create(tmp_path, tiny_spec(**{**CELLS, "baselines": {"small": {}, "again": {"seed": 1}}}))
    assert steps(launch) == ["cells"] * 2 + ["done"]
    assert runs(launch) == {"small-s0": 1, "again-s1": 1}
    configs = [stored_config(launch.folder / name / CONFIG) for name in ("small-s0", "again-s1")]
    assert [config.seed for config in configs] == [0, 1]


GRID = {
    "space": {"model.chunk_size": {"choices": [1, 2]}, "autoencoder.latent_dim": {"choices": [16, 32]}},
    "sampler": {"kind": "grid"},
    "checks": {"lr_factors": []},
    "trials": 0,
}


@pytest.mark.slow
def test_a_grid_runs_each_setting_once_and_replaces_none_that_failed(tmp_path):
    launch = create(tmp_path, tiny_spec(**GRID))
    trial = launch.search.ask()  # another worker's, which fails for good
    trial.set_user_attr("reason", "broke")
    launch.search.tell(trial, state=TrialState.FAIL)
    assert steps(launch) == ["cells"] * 2 + ["search"] * 3 + ["done"]
    trials = launch.search.get_trials()
    assert [tuple(t.params.values()) for t in trials[1:]] == [(1, 32), (2, 16), (2, 32)]
    assert plan.is_finished(launch.spec, launch.search, launch.cells)


def test_a_study_of_cells_only_is_finished_with_its_cells(tmp_path):
    """An empty space is never searched: no trial at all, and "done" right after the last cell."""
    launch = create(tmp_path, tiny_spec(**CELLS, seeds=2))
    assert not plan.is_finished(launch.spec, launch.search, launch.cells)
    assert steps(launch, most=1) == ["cells"]
    assert not plan.is_finished(launch.spec, launch.search, launch.cells)
    assert steps(launch) == ["cells", "done"]
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    assert launch.search.get_trials() == []
    assert runs(launch) == dict.fromkeys(("small-s0", "small-s1", "large-s0", "large-s1"), 1)
    assert steps(launch) == ["done"]
    assert set(runs(launch).values()) == {1}


def test_a_study_of_cells_only_waits_for_another_workers_cell(tmp_path):
    launch = create(tmp_path, tiny_spec(**CELLS))
    steps(launch, most=1)
    launch.cells.ask().suggest_categorical("cell", ["small", "large"])  # another worker's
    assert plan.next_step(launch.spec, launch.search, launch.cells) == "wait"
    assert not plan.is_finished(launch.spec, launch.search, launch.cells)


def test_a_failed_cell_of_a_study_without_a_search_can_be_retried(tmp_path, monkeypatch):
    """It ends with the failure told, as a search does, and goes on when it is queued again."""
    launch = create(tmp_path, tiny_spec(**CELLS))
    monkeypatch.setenv("FAKE_FAIL", "small")
    assert steps(launch) == ["cells", "cells", "done"]
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    assert plan.count(launch.cells.get_trials()).failed == 1
    monkeypatch.delenv("FAKE_FAIL")
    assert retry(launch) == ["small"]
    assert not plan.is_finished(launch.spec, launch.search, launch.cells)
    assert steps(launch) == ["cells", "done"]
    assert runs(launch) == {"small-s0": 2, "large-s0": 1}


@pytest.mark.slow
def test_a_finished_launch_has_nothing_left(tmp_path):
    launch = create(tmp_path, tiny_spec())
    assert not plan.is_finished(launch.spec, launch.search, launch.cells)
    steps(launch)
    before = runs(launch)
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    assert steps(launch) == ["done"]
    assert runs(launch) == before


@pytest.mark.slow
def test_more_trials_continue_without_repeating(tmp_path):
    launch = create(tmp_path, tiny_spec())
    steps(launch)
    before = runs(launch)
    more = launch.spec.model_copy(update={"trials": 7})
    storage.store_spec(launch.search, more)
    longer = type(launch)(launch.home, launch.url, more, launch.search, launch.cells)
    done = steps(longer)
    assert done.count("search") == 2
    assert all(runs(launch)[name] == 1 for name in before)
    assert len(launch.cells.get_trials()) == 4 + done.count("cells")  # checks again only for another best


@pytest.mark.slow
def test_a_better_replicate_has_the_checks_of_its_setting(tmp_path):
    """They would be the same runs again."""
    one = {"model.chunk_size": {"choices": [2]}}
    launch = create(tmp_path, tiny_spec(space=one, trials=1, baselines={}))
    steps(launch)
    (first,) = launch.search.get_trials()
    checks = launch.cells.get_trials()
    more = launch.spec.model_copy(update={"trials": 8})
    storage.store_spec(launch.search, more)
    longer = type(launch)(launch.home, launch.url, more, launch.search, launch.cells)
    steps(longer)
    assert plan.best_trial(longer.search).number != first.number
    assert [t.number for t in longer.cells.get_trials()] == [t.number for t in checks]
    assert plan.is_finished(more, longer.search, longer.cells)


def test_only_missing_cells_are_queued(tmp_path):
    launch = create(tmp_path, tiny_spec())
    assert steps(launch, most=1) == ["cells"]
    assert steps(launch, most=1) == ["cells"]
    assert [storage.cell_of(t) for t in launch.cells.get_trials()] == ["small", "large"]
    assert steps(launch, most=1) == ["search"]
    assert len(launch.cells.get_trials()) == 2


@pytest.mark.slow
def test_a_failed_cell_does_not_count_as_visited_for_retry(tmp_path, monkeypatch):
    launch = create(tmp_path, tiny_spec(checks={}))
    monkeypatch.setenv("FAKE_FAIL", "small")
    assert steps(launch)[-1] == "done"
    failed = recovery.failed(launch.cells)
    assert [storage.cell_of(t) for t in failed] == ["small"]
    assert recovery.failure_reason(failed[0]) == "RuntimeError: a failure for the test"
    monkeypatch.delenv("FAKE_FAIL")
    assert retry(launch) == ["small"]
    assert not plan.is_finished(launch.spec, launch.search, launch.cells)
    assert steps(launch) == ["cells", "done"]
    counts = plan.count(launch.cells.get_trials())
    assert (counts.complete, counts.failed) == (2, 0)
    assert runs(launch)["small-s0"] == 2  # the same folder, taken up again
    assert retry(launch) == []


@pytest.mark.slow
def test_pruned_trials_come_on_top(tmp_path):
    pruner = {"kind": "percentile", "keep_percent": 50, "startup_trials": 2, "warmup_evaluations": 1}
    launch = create(tmp_path, tiny_spec(trials=6, max_pruned=20, pruner=pruner, baselines={}, checks={}))
    steps(launch)
    counts = plan.count(launch.search.get_trials())
    assert counts.complete == 6
    assert counts.pruned > 0
    for trial in launch.search.get_trials(states=(TrialState.PRUNED,)):
        assert trial.last_step >= 1
        assert "not among the upper 50 %" in trial.user_attrs["reason"]


@pytest.mark.slow
def test_pruning_stops_before_its_allowance_would_end_the_search(tmp_path):
    pruner = {"kind": "percentile", "keep_percent": 20, "startup_trials": 1, "warmup_evaluations": 1}
    launch = create(tmp_path, tiny_spec(trials=8, max_pruned=3, pruner=pruner, baselines={}, checks={}))
    steps(launch)
    counts = plan.count(launch.search.get_trials())
    assert counts.complete == 8
    assert 0 < counts.pruned < 3


@pytest.mark.slow
def test_a_replicate_is_never_pruned(tmp_path):
    """Its low scores are what it is there to measure."""
    pruner = {"kind": "percentile", "keep_percent": 10, "startup_trials": 1, "warmup_evaluations": 0}
    space = {"autoencoder.kl_floor": {"choices": [0.0, 0.25]}}
    launch = create(
        tmp_path, tiny_spec(space=space, trials=8, max_pruned=8, pruner=pruner, baselines={}, checks={})
    )
    steps(launch)
    trials = launch.search.get_trials()
    pruned = [t.user_attrs["seeds"] for t in trials if t.state == TrialState.PRUNED]
    assert all(seeds == [0] for seeds in pruned)
    assert any(t.user_attrs["seeds"][0] > 0 for t in trials)


def test_one_drawn_again_after_a_failure_is_none(tmp_path, monkeypatch):
    """The first that trains the setting, with another seed than the one that failed."""
    pruner = {"kind": "percentile", "keep_percent": 10, "startup_trials": 1, "warmup_evaluations": 0}
    space = {"autoencoder.kl_floor": {"choices": [0.0]}}
    launch = create(
        tmp_path, tiny_spec(space=space, trials=3, max_pruned=2, pruner=pruner, baselines={}, checks={})
    )
    asked = []
    real = objective._on_evaluation
    monkeypatch.setattr(objective, "_on_evaluation", lambda *given: asked.append(given[-1]) or real(*given))
    monkeypatch.setenv("FAKE_FAIL", "t000-s0")
    steps(launch, most=1)
    monkeypatch.delenv("FAKE_FAIL")
    steps(launch)
    assert [t.user_attrs["seeds"] for t in launch.search.get_trials()][:3] == [[0], [1], [2]]
    assert asked[:3] == [True, True, False]


def test_the_maximum_of_pruned_trials_ends_the_search(tmp_path, monkeypatch):
    launch = create(tmp_path, tiny_spec(max_pruned=3, baselines={}, checks={}))
    monkeypatch.setenv("FAKE_NOT_FINITE", "t0")
    assert steps(launch) == ["search"] * 3 + ["done"]
    counts = plan.count(launch.search.get_trials())
    assert (counts.complete, counts.pruned) == (0, 3)
    assert launch.search.get_trials()[0].user_attrs["reason"] == "loss is nan at step 30"


@pytest.mark.parametrize("complete", [0, 4])
def test_no_more_trials_start_than_are_wanted(tmp_path, complete):
    launch = create(tmp_path, tiny_spec(baselines={}, checks={}))
    steps(launch, most=complete) if complete else None
    for _ in range(5 - complete):
        assert plan.next_step(launch.spec, launch.search, launch.cells) == "search"
        launch.search.ask()  # another worker's
    assert plan.next_step(launch.spec, launch.search, launch.cells) == "wait"


def test_a_queued_trial_goes_first_even_when_enough_run(tmp_path):
    launch = create(tmp_path, tiny_spec(baselines={}, checks={}))
    trials = [launch.search.ask() for _ in range(5)]
    launch.search.tell(trials[0], state=TrialState.FAIL)
    recovery.requeue(launch.search, 0)
    assert plan.next_step(launch.spec, launch.search, launch.cells) == "search"
