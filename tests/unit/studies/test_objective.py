"""What one trial does: seeds, replicates, pruning, resuming, failures."""

import json

import pytest
from optuna.trial import TrialState

from studies import storage
from studies.objective import load_runner
from studies.worker import Stop, repeated_failure, run_trial, take, work
from tests.suites import fake_runner
from tests.suites.study_launch import create, steps, tiny_spec, worker
from workbench import files, records
from workbench.config import RunConfig
from workbench.errors import DataError, StudyError

ONE = {"model.chunk_size": {"choices": [2]}}


def small(**preset):
    return tiny_spec(**{"baselines": {}, "checks": {}, **preset})


def test_the_score_is_the_runs_score_and_the_record_says_whose(tmp_path):
    launch = create(tmp_path, small(space=ONE, trials=1))
    steps(launch)
    (trial,) = launch.search.get_trials()
    record = records.read_record(launch.folder / "t000-s0")
    assert trial.value == record.final.brier.score
    assert (record.study, record.role, record.trial, record.seed) == ("tiny-quick", "trial", 0, 0)
    assert record.name == "t000 chunk_size=2 s0"
    assert list(trial.intermediate_values) == [0, 1, 2, 3]


def test_a_setting_suggested_again_is_a_replicate_with_the_next_seed(tmp_path):
    launch = create(tmp_path, small(space=ONE, trials=3))
    steps(launch)
    assert [t.user_attrs["seeds"] for t in launch.search.get_trials()] == [[0], [1], [2]]
    configs = {records.read_record(p).config_hash for p in records.find_runs(launch.folder)}
    assert len(configs) == 3


def test_a_running_trial_counts_as_an_earlier_one(tmp_path):
    launch = create(tmp_path, small(space=ONE, trials=3))
    with pytest.warns(UserWarning, match="Heartbeat"):
        other = launch.search.ask()
    other.suggest_categorical("model.chunk_size", [2])
    other.set_user_attr("seeds", [0])
    take(worker(launch))
    assert launch.search.get_trials()[1].user_attrs["seeds"] == [1]


def test_several_seeds_are_averaged_and_only_the_first_prunes(tmp_path):
    launch = create(tmp_path, small(space=ONE, trials=2, seeds=2))
    steps(launch)
    first, second = launch.search.get_trials()
    assert first.user_attrs["seeds"] == [0, 1]
    assert second.user_attrs["seeds"] == [2, 3]
    scores = [records.read_record(launch.folder / r).final.brier.score for r in first.user_attrs["runs"]]
    assert first.value == pytest.approx(sum(scores) / 2)
    assert scores[0] != scores[1]
    assert first.intermediate_values[3] == scores[0]


def test_baselines_are_repeated_over_the_seeds_too(tmp_path):
    launch = create(tmp_path, tiny_spec(seeds=2, checks={}, trials=1))
    steps(launch, most=1)
    (cell,) = launch.cells.get_trials(states=(TrialState.COMPLETE,))
    assert cell.user_attrs["runs"] == ["small-s0", "small-s1"]
    record = records.read_record(launch.folder / "small-s1")
    assert (record.kind, record.role, record.seed) == ("baseline", "baseline", 1)


def test_checks_train_the_best_setting_at_other_rates(tmp_path):
    launch = create(tmp_path, tiny_spec(baselines={}))
    steps(launch)
    best = launch.search.best_trial
    configs = {
        name: RunConfig.model_validate(json.loads(json.dumps(_config(launch, f"{name}-t{best.number:03d}-s0"))))
        for name in ("lr-x0.5", "lr-x2")
    }
    assert configs["lr-x2"].optim.lr == pytest.approx(4 * configs["lr-x0.5"].optim.lr)
    assert configs["lr-x2"].chunk_size == best.params["model.chunk_size"]
    assert records.read_record(launch.folder / f"lr-x2-t{best.number:03d}-s0").role == "check"


def _config(launch, run_id):
    from workbench.config_file import load_config

    return load_config(launch.folder / run_id / records.CONFIG).to_dict()


def test_an_interrupted_trial_is_queued_again_and_goes_on_in_its_folder(tmp_path):
    launch = create(tmp_path, small(space=ONE, trials=1))
    stop_after = iter([False, True])
    this = worker(launch)
    this.stopping = lambda: next(stop_after)
    with pytest.raises(KeyboardInterrupt):
        take(this)
    interrupted, queued = launch.search.get_trials()
    assert (interrupted.state, queued.state) == (TrialState.FAIL, TrialState.WAITING)
    assert storage.failed(launch.search) == []
    assert records.read_record(launch.folder / "t000-s0").status == "interrupted"
    other = worker(launch, index=1)
    other.threads = 4  # fewer workers now; the run keeps the threads it began with
    take(other)
    done = launch.search.get_trials()[1]
    assert done.state == TrialState.COMPLETE
    assert done.params == interrupted.params
    assert done.user_attrs["runs"] == ["t000-s0"]
    attempts = files.read_json_lines(launch.folder / "t000-s0" / fake_runner.ATTEMPTS)
    assert [a["from"] for a in attempts] == [0, 2]
    assert list(done.intermediate_values) == [0, 1, 2, 3]  # earlier evaluations are reported again
    assert _config(launch, "t000-s0")["runtime"]["threads"] == 1


def test_a_failure_is_recorded_and_the_worker_goes_on(tmp_path, monkeypatch):
    launch = create(tmp_path, small(trials=2))
    monkeypatch.setenv("FAKE_FAIL", "t000")
    work(worker(launch), Stop())
    first, *others = launch.search.get_trials()
    assert first.state == TrialState.FAIL
    assert first.user_attrs["reason"] == "RuntimeError: a failure for the test"
    assert records.read_record(launch.folder / "t000-s0").status == "failed"
    assert [t.state for t in others] == [TrialState.COMPLETE] * 2


def test_three_equal_failures_end_the_launch(tmp_path, monkeypatch):
    launch = create(tmp_path, small(trials=9))
    launch.search.set_user_attr("session", 0.0)
    monkeypatch.setenv("FAKE_FAIL", "t0")
    with pytest.raises(
        StudyError, match=r"last 3 trials of tiny-quick failed with the same error: RuntimeError: a"
    ):
        work(worker(launch), Stop())
    assert len(launch.search.get_trials()) == 3
    assert "calm study retry tiny-quick" in launch.search.user_attrs["abort"]
    work(worker(launch), Stop())  # an ended launch is left alone
    assert len(launch.search.get_trials()) == 3


def test_failures_of_an_earlier_session_do_not_count(tmp_path, monkeypatch):
    launch = create(tmp_path, small(trials=9))
    monkeypatch.setenv("FAKE_FAIL", "t0")
    for _ in range(3):
        take(worker(launch))
    trials = launch.search.get_trials()
    assert repeated_failure(trials, since=0.0) == "RuntimeError: a failure for the test"
    assert repeated_failure(trials, since=trials[1].user_attrs["ended"]) is None


def test_a_mistake_of_the_user_ends_the_launch_and_keeps_the_trial(tmp_path, monkeypatch):
    launch = create(tmp_path, small(trials=2))
    monkeypatch.setenv("FAKE_ERROR", "t0")
    with pytest.raises(DataError, match="corpus of this test is missing"):
        work(worker(launch), Stop())
    assert launch.search.user_attrs["abort"] == "the corpus of this test is missing; give one that exists"
    assert [t.state for t in launch.search.get_trials()] == [TrialState.FAIL, TrialState.WAITING]
    monkeypatch.delenv("FAKE_ERROR")
    launch.search.set_user_attr("abort", "")
    work(worker(launch), Stop())
    assert launch.search.get_trials()[1].state == TrialState.COMPLETE
    assert storage.failed(launch.search) == []


def test_a_cell_that_is_not_finite_fails_with_the_reason(tmp_path, monkeypatch):
    launch = create(tmp_path, tiny_spec(trials=1, checks={}))
    monkeypatch.setenv("FAKE_NOT_FINITE", "small")
    steps(launch, most=1)
    (failed,) = storage.failed(launch.cells)
    assert "loss is nan at step 30" in storage.failure_reason(failed)


def test_a_cell_that_two_hosts_took_is_run_once(tmp_path):
    launch = create(tmp_path, tiny_spec(trials=1, checks={}, baselines={"only": {}}))
    steps(launch, most=1)
    launch.cells.enqueue_trial({"cell": "only"})
    run_trial(worker(launch), "cells", lambda: None)
    second = launch.cells.get_trials()[1]
    assert second.state == TrialState.PRUNED
    assert second.user_attrs["reason"] == "cell only is another worker's"


def test_one_worker_draws_the_same_sequence_interrupted_or_not(tmp_path):
    spec = small(trials=8, sampler={"startup_trials": 3, "seed": 4})
    straight, resumed = create(tmp_path / "a", spec), create(tmp_path / "b", spec)
    steps(straight)
    for _ in range(8):
        take(worker(resumed))  # a new worker for every trial
    assert [t.params for t in straight.search.get_trials()] == [t.params for t in resumed.search.get_trials()]


@pytest.mark.parametrize("spec", ["nonsense", "no.such:execute", "tests.suites.fake_runner:nothing"])
def test_an_unknown_runner_is_one_message(spec):
    with pytest.raises(StudyError, match="--execute wants module:function"):
        load_runner(spec)
