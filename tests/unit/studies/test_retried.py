"""``calm study retry``: what failed, and nothing that merely stands in the queue."""

import optuna
import pytest
from optuna.trial import TrialState

from studies import plan, prepare, progress, recovery, retried
from studies.status import status, status_lines
from studies.worker import run_trial, take
from tests.suites.study_launch import create, invoke, steps, tiny_spec, worker
from workbench import records
from workbench.errors import UserError

FIRST = {"model.chunk_size": 4, "autoencoder.latent_dim": 16, "autoencoder.kl_floor": 0.5}
QUEUES = {
    "settings of a grid": ({"sampler": {"kind": "grid"}, "trials": 0, "baselines": {}}, "t000", 1),
    "starting points": ({"start": [FIRST, {**FIRST, "model.chunk_size": 2}], "baselines": {}}, "t000", 1),
    "baselines": ({}, "small", 1),
    "a search": ({}, "small", 3),
}
"""A study, what fails in it, and steps until it is interrupted."""


def only_queued(launch):
    this = worker(launch)
    this.only_queued = True
    return this


def retry_steps(launch, most=20):
    this = only_queued(launch)
    done = []
    while not done or (done[-1] != "done" and len(done) < most):
        done.append(take(this))
    return done


def runs(launch):
    return {path.name for path in records.find_runs(launch.folder)}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUEUES)
def test_a_retry_begins_nothing_that_was_never_begun(tmp_path, monkeypatch, name):
    preset, fails, most = QUEUES[name]
    launch = create(tmp_path, tiny_spec(**preset))
    monkeypatch.setenv("FAKE_FAIL", fails)
    steps(launch, most=most)
    monkeypatch.delenv("FAKE_FAIL")
    before = runs(launch)
    waiting = [plan.count(s.get_trials()).waiting for s in (launch.search, launch.cells)]
    assert len(prepare.retry(launch)) == 1
    assert len(retry_steps(launch)) == 2
    assert runs(launch) == before
    assert recovery.failed(launch.search) == recovery.failed(launch.cells) == []
    assert [plan.count(s.get_trials()).waiting for s in (launch.search, launch.cells)] == waiting
    for number in {t.number for t in launch.search.get_trials(states=(TrialState.WAITING,))}:
        assert not recovery.find(launch.search, number).user_attrs.get(recovery.RETRIED)


@pytest.mark.slow
def test_an_interrupted_retry_goes_on_and_the_study_after_it(tmp_path, monkeypatch):
    launch = create(tmp_path, tiny_spec(trials=2, checks={}))
    monkeypatch.setenv("FAKE_FAIL", "small")
    steps(launch, most=1)
    monkeypatch.delenv("FAKE_FAIL")
    assert prepare.retry(launch) == ["small"]
    this = only_queued(launch)
    this.stopping = lambda: True
    with pytest.raises(KeyboardInterrupt):
        take(this)
    assert prepare.retry(launch) == []
    assert retried.queued(launch) == ["small"]
    assert retry_steps(launch) == ["cells", "done"]
    assert runs(launch) == {"small-s0"}
    assert retried.queued(launch) == []
    assert steps(launch)[-1] == "done"
    assert runs(launch) == {"small-s0", "large-s0", "t000-s0", "t001-s0"}


def test_nothing_is_drawn_where_nothing_is_left(tmp_path):
    """Another worker was faster: Optuna by itself would make a new trial."""
    launch = create(tmp_path, tiny_spec(baselines={}))
    run_trial(only_queued(launch), "search", lambda: None)
    assert launch.search.get_trials() == []


def test_where_the_database_cannot_be_read_that_is_said(tmp_path, monkeypatch):
    launch = create(tmp_path, tiny_spec())
    prepare.write_study_file(launch, None)

    def fails(_):
        raise optuna.exceptions.StorageInternalError("malformed")

    monkeypatch.setattr(retried, "left", fails)
    said = invoke("study", "retry", "tiny", "--home", str(tmp_path)).exception
    assert isinstance(said, UserError), said
    assert "malformed" in str(said)


@pytest.mark.slow
def test_however_often_it_is_queued_a_trial_keeps_its_number(tmp_path, monkeypatch):
    """In tables, names of runs and MLflow's tags: its folders are named by it."""
    launch = create(tmp_path, tiny_spec(trials=3, baselines={}, checks={}))
    monkeypatch.setenv("FAKE_FAIL", "t001")
    steps(launch, most=3)
    monkeypatch.delenv("FAKE_FAIL")
    launch.search.set_user_attr("abort", "the last trials failed alike")
    assert "ended by an error: the last trials failed alike" in status_lines(status(launch))
    assert prepare.retry(launch) == retried.queued(launch) == ["trial 1"]
    lines = status_lines(status(launch))
    assert "queued: 1 (trial 1 begun before)" in lines
    assert not any("error" in line for line in lines)
    assert retry_steps(launch) == ["search", "done"]
    (again,) = [row for row in progress.snapshot(launch).rows if row.run_id == "t001-s0"]
    assert (again.label, again.number) == ("trial 1", 3)
    record = records.read_record(launch.folder / "t001-s0")
    assert (record.trial, record.name.partition(" ")[0]) == (1, "t001")


def test_a_check_names_the_trial_by_that_number(tmp_path, monkeypatch):
    launch = create(tmp_path, tiny_spec(trials=1, baselines={}, checks={"lr_factors": [2.0]}))
    monkeypatch.setenv("FAKE_FAIL", "t000")
    steps(launch, most=1)
    monkeypatch.delenv("FAKE_FAIL")
    prepare.retry(launch)
    assert steps(launch)[-1] == "done"
    (check,) = [row for row in progress.snapshot(launch).rows if row.is_cell]
    assert check.params == "of trial 0"


def test_a_retry_that_was_killed_is_gone_on_with_by_the_same_command(tmp_path, monkeypatch):
    launch = create(tmp_path, tiny_spec())
    monkeypatch.setenv("FAKE_FAIL", "small")
    steps(launch, most=1)
    monkeypatch.delenv("FAKE_FAIL")
    assert prepare.retry(launch) == ["small"]
    trial = retried.alone(launch.cells).ask()
    trial.set_user_attr("worker", {**recovery.this_worker(0), "pid": 2**22 - 1, "ticks": 1})  # killed
    assert retried.queued(launch) == []
    assert retried.queued(launch, running=True) == ["small"]
    assert prepare.retry(launch) == []
    assert retried.queued(launch) == ["small"]
