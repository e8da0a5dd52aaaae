"""What one trial does: seeds, replicates, pruning, resuming, failures."""

import contextlib
import json

import optuna
import pytest
from optuna.trial import TrialState

from studies import plan, recovery
from studies.objective import load_runner
from studies.prepare import retry
from studies.status import status, status_lines
from studies.worker import Stop, repeated_failures, run_trial, stop_if_hopeless, take, work
from tests.suites import fake_runner
from tests.suites.study_launch import create, steps, tiny_spec, worker
from workbench import files, records
from workbench.config import RunConfig
from workbench.errors import OutputError, StudyError

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


def test_a_setting_suggested_again_leaves_the_seeds_of_the_trial_that_failed(tmp_path, monkeypatch):
    """Which is tried again with them: no seed of a setting is trained twice."""
    launch = create(tmp_path, small(space=ONE, trials=2, seeds=2))
    monkeypatch.setenv("FAKE_FAIL", "t000-s1")
    steps(launch, most=1)
    monkeypatch.delenv("FAKE_FAIL")
    steps(launch)
    assert [t.user_attrs["seeds"] for t in launch.search.get_trials()] == [[0, 1], [2, 3], [4, 5]]
    assert retry(launch) == ["trial 0"]
    steps(launch)
    trained = [(r.config_hash, r.seed) for r in map(records.read_record, records.find_runs(launch.folder))]
    assert sorted(seed for _, seed in trained) == list(range(6))
    assert launch.search.get_trials()[-1].user_attrs["seeds"] == [0, 1]


def test_what_was_trained_since_is_not_tried_again(tmp_path, monkeypatch):
    """In a launch of an earlier version, which gave both trials the same seeds."""
    launch = create(tmp_path, small(space=ONE, trials=1))
    monkeypatch.setenv("FAKE_FAIL", "t000-s0")
    steps(launch, most=1)
    assert [t.number for t in recovery.failed(launch.search)] == [0]
    with pytest.warns(UserWarning, match="Heartbeat"):
        other = launch.search.ask()
    other.suggest_categorical("model.chunk_size", [2])
    other.set_user_attr("seeds", [0])
    other.set_user_attr("worker", recovery.this_worker(0))
    assert retry(launch) == []
    launch.search.tell(other, 1.0)
    assert retry(launch) == []
    counts = plan.count(launch.search.get_trials())
    assert (counts.complete, counts.failed) == (1, 0)


def test_a_running_trial_counts_as_an_earlier_one(tmp_path):
    launch = create(tmp_path, small(space=ONE, trials=3))
    with pytest.warns(UserWarning, match="Heartbeat"):
        other = launch.search.ask()
    other.suggest_categorical("model.chunk_size", [2])
    other.set_user_attr("seeds", [0])
    other.set_user_attr("worker", recovery.this_worker(1))
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


@pytest.mark.slow
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
    assert recovery.failed(launch.search) == []
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
    assert repeated_failures(trials) == ["RuntimeError: a failure for the test"] * 3
    stop_if_hopeless_raises(launch, True)
    launch.search.set_user_attr("old_failures", {"search": [0, 1], "cells": []})
    stop_if_hopeless_raises(launch, False)


CELLS = {f"cell-{i}": {"optim.clip": 1.0 + i} for i in range(4)}


@pytest.mark.slow
def test_baselines_that_fail_alike_leave_the_search_its_chance(tmp_path, monkeypatch):
    launch = create(tmp_path, tiny_spec(trials=4, checks={}, baselines=CELLS))
    monkeypatch.setenv("FAKE_FAIL", "cell")
    work(worker(launch), Stop())
    assert not launch.search.user_attrs.get("abort")
    assert [len(recovery.failed(study)) for study in (launch.search, launch.cells)] == [0, 4]
    assert plan.count(launch.search.get_trials()).complete == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "searched", [{"trials": 9}, {"trials": 0, "sampler": {"kind": "grid"}}], ids=["tpe", "grid"]
)
def test_where_baselines_and_search_fail_alike_the_launch_ends_at_the_first_trial(tmp_path, monkeypatch, searched):
    launch = create(tmp_path, tiny_spec(checks={}, baselines=CELLS, **searched))
    monkeypatch.setenv("FAKE_FAIL", "-s0")
    with pytest.raises(StudyError, match="last 5 trials of tiny-quick failed with the same error") as error:
        work(worker(launch), Stop())
    assert [len(recovery.failed(study)) for study in (launch.search, launch.cells)] == [1, 4]
    again = f"to go on without those that failed: calm study run tiny-quick --home {launch.home.root};"
    assert again in str(error.value)
    assert str(error.value) in "\n".join(status_lines(status(launch)))


@pytest.mark.slow
def test_a_corner_of_the_search_that_fails_does_not_end_it_soon(tmp_path, monkeypatch):
    """Some settings may be too large for a machine; six in a row are no corner any more."""
    launch = create(tmp_path, small(trials=0, sampler={"kind": "grid"}))
    take(worker(launch))
    for failing in ("t001", "t002", "t003", "t004", "t005"):
        monkeypatch.setenv("FAKE_FAIL", failing)
        take(worker(launch))
        stop_if_hopeless_raises(launch, False)
    monkeypatch.setenv("FAKE_FAIL", "t006")
    take(worker(launch))
    stop_if_hopeless_raises(launch, True)


def test_cells_that_are_still_tried_may_show_that_it_works():
    def ended(number, state, reason="broke"):
        attrs = {} if state == TrialState.RUNNING else {"ended": 1.0}
        attrs |= {"reason": reason} if state == TrialState.FAIL else {}
        trial = optuna.create_trial(state=state, user_attrs=attrs)
        trial.number = trial._trial_id = number
        return trial

    failures = [ended(n, TrialState.FAIL) for n in range(6)]
    running, failed = ended(9, TrialState.RUNNING), ended(8, TrialState.FAIL)
    assert repeated_failures(failures[:5], [running]) == []
    assert repeated_failures(failures, [running]) == ["broke"] * 6
    assert repeated_failures(failures[:2], [running, failed]) == ["broke"] * 3
    assert repeated_failures(failures[:2], [running, ended(8, TrialState.FAIL, "another")]) == []
    assert repeated_failures(failures[:3], [running, ended(8, TrialState.FAIL, "another")]) == ["broke"] * 3
    assert repeated_failures(failures[:3], []) == ["broke"] * 3
    assert repeated_failures([], failures) == []


def stop_if_hopeless_raises(launch, expected):
    with pytest.raises(StudyError) if expected else contextlib.nullcontext():
        stop_if_hopeless(worker(launch))


@pytest.mark.slow
def test_bad_numbers_are_a_result_and_end_no_launch(tmp_path, monkeypatch):
    cells = {f"cell-{i}": {"optim.clip": 1.0 + i} for i in range(5)}
    launch = create(tmp_path, tiny_spec(space={}, trials=0, checks={}, baselines=cells))
    monkeypatch.setenv("FAKE_NOT_FINITE", "cell")
    work(worker(launch), Stop())
    assert not launch.search.user_attrs.get("abort")
    assert {recovery.failure_reason(t) for t in recovery.failed(launch.cells)} == {"loss is nan at step 30"}
    assert len(recovery.failed(launch.cells)) == 5


def test_failures_that_differ_in_the_runs_name_or_in_what_to_do_are_the_same():
    def failed(number, remedy=""):
        reason = f"home/t{number}-s0 holds other text{remedy}"
        attrs = {"runs": [f"t{number}-s0"], "reason": reason, "ended": 1.0}
        trial = optuna.create_trial(state=TrialState.FAIL, user_attrs=attrs)
        trial.number = trial._trial_id = number
        return trial

    assert repeated_failures([failed(n) for n in range(3)]) == ["home/RUN holds other text"] * 3
    differ = [failed(0), failed(1, "; mend it"), failed(2, "; mend it: RUN goes on")]
    assert repeated_failures(differ)[-1] == "home/RUN holds other text; mend it: RUN goes on"
    assert repeated_failures([failed(0), failed(1, " or none"), failed(2)]) == []


def test_failures_of_a_host_whose_clock_is_ahead_are_not_the_last_for_ever():
    def ended(number, state, at):
        attrs = {"runs": [f"t{number}"], "ended": at}
        if state == TrialState.FAIL:
            attrs["reason"] = "broke"
        values = {"value": 1.0} if state == TrialState.COMPLETE else {}
        trial = optuna.create_trial(state=state, user_attrs=attrs, **values)
        trial._trial_id = number
        return trial

    failures = [ended(n, TrialState.FAIL, 1e9) for n in range(3)]
    assert repeated_failures(failures) == ["broke"] * 3
    assert repeated_failures([*failures, ended(3, TrialState.COMPLETE, 5.0)]) == []


def test_a_mistake_of_the_user_in_one_trial_fails_that_one_only(tmp_path, monkeypatch):
    launch = create(tmp_path, small(trials=2))
    monkeypatch.setenv("FAKE_ERROR", "t000")
    work(worker(launch), Stop())
    assert not launch.search.user_attrs.get("abort")
    states = [t.state for t in launch.search.get_trials()]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    (failed,) = recovery.failed(launch.search)
    assert failed.user_attrs["reason"] == "the corpus of this test is missing; give one that exists"


def test_no_room_ends_the_launch_and_keeps_the_trial(tmp_path, monkeypatch):
    launch = create(tmp_path, small(trials=2))
    monkeypatch.setenv("FAKE_NO_ROOM", "t0")
    with pytest.raises(OutputError, match="no room left"):
        work(worker(launch), Stop())
    assert not launch.search.user_attrs.get("abort")  # another host may have room
    assert [t.state for t in launch.search.get_trials()] == [TrialState.FAIL, TrialState.WAITING]
    monkeypatch.delenv("FAKE_NO_ROOM")
    work(worker(launch), Stop())
    assert launch.search.get_trials()[1].state == TrialState.COMPLETE
    assert recovery.failed(launch.search) == []


@pytest.mark.slow
@pytest.mark.parametrize("error", ["MemoryError", "SystemExit", "KeyError", "AssertionError", "RecursionError"])
def test_whatever_a_trial_raises_the_study_goes_on(tmp_path, monkeypatch, error):
    launch = create(tmp_path, small(trials=2))
    monkeypatch.setenv("FAKE_FAIL", "t000")
    monkeypatch.setenv("FAKE_FAIL_KIND", error)
    work(worker(launch), Stop())
    first, *others = launch.search.get_trials()
    assert first.state == TrialState.FAIL
    assert [t.state for t in others] == [TrialState.COMPLETE] * 2
    assert first.user_attrs["reason"].startswith(error)


def test_a_trial_that_was_declared_dead_leaves_its_run_to_its_successor(tmp_path):
    launch = create(tmp_path, small(space=ONE, trials=1))
    this = worker(launch)

    def declare_dead():
        trial = launch.search.get_trials(deepcopy=False)[-1]
        if trial.state == TrialState.RUNNING:
            launch.search.tell(trial.number, state=TrialState.FAIL)
            recovery.requeue(launch.search, trial.number)
        return False

    this.stopping = declare_dead
    take(this)
    assert records.read_record(launch.folder / "t000-s0").status == "interrupted"
    taken, queued = launch.search.get_trials()
    assert (taken.state, queued.state) == (TrialState.FAIL, TrialState.WAITING)
    take(worker(launch, index=1))
    assert launch.search.get_trials()[1].state == TrialState.COMPLETE
    attempts = files.read_json_lines(launch.folder / "t000-s0" / fake_runner.ATTEMPTS)
    assert [a["from"] for a in attempts] == [0, 1]


def test_a_cell_that_is_not_finite_fails_with_the_reason(tmp_path, monkeypatch):
    launch = create(tmp_path, tiny_spec(trials=1, checks={}))
    monkeypatch.setenv("FAKE_NOT_FINITE", "small")
    steps(launch, most=1)
    (failed,) = recovery.failed(launch.cells)
    assert "loss is nan at step 30" in recovery.failure_reason(failed)


def test_a_cell_that_two_hosts_took_is_run_once(tmp_path):
    launch = create(tmp_path, tiny_spec(trials=1, checks={}, baselines={"only": {}}))
    steps(launch, most=1)
    launch.cells.enqueue_trial({"cell": "only"})
    run_trial(worker(launch), "cells", lambda: None)
    second = launch.cells.get_trials()[1]
    assert second.state == TrialState.PRUNED
    assert second.user_attrs["reason"] == "another trial has the same runs"


@pytest.mark.slow
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
