"""Trials of killed workers, on a real SQLite storage; the workers are real processes where they must be."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from studies import plan, recovery
from studies.database import database_of
from studies.search_spec import HeartbeatSpec
from studies.spec import StudySpec
from studies.storage import Launch
from tests.suites.study_launch import create, tiny_spec
from workbench import files, processes, records

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # ask() stands for another worker

ELSEWHERE = {
    "host": "elsewhere",
    "pid": 1,
    "started": 1.0,
    "boot": "another",
    "pid_space": "x",
    "ticks": 1,
    "index": 0,
}


def recover(launch: Launch) -> list[int]:
    return recovery.recover(launch.search, launch.spec.heartbeat, launch.folder)


def take(launch: Launch, **attrs: Any) -> optuna.Trial:
    """A trial with one parameter, as a worker leaves it after signing."""
    trial = launch.search.ask()
    trial.suggest_categorical("model.chunk_size", [1, 2, 4])
    for key, value in {"worker": recovery.this_worker(0), "runs": ["t000-s0"], **attrs}.items():
        trial.set_user_attr(key, value)
    return trial


def dead_worker() -> dict[str, Any]:
    """Identity of a process of this machine that is no more."""
    return {**recovery.this_worker(0), "ticks": 1}


def _claim_and_die(home_dir: Path, spec: StudySpec) -> None:
    take(create(home_dir, spec))
    os._exit(9)


@pytest.mark.slow
def test_a_dead_process_of_this_machine_is_noticed_at_once(tmp_path: Path) -> None:
    spec = tiny_spec()
    launch = create(tmp_path, spec)
    process = multiprocessing.get_context("fork").Process(target=_claim_and_die, args=(tmp_path, spec))
    process.start()
    process.join()
    assert recover(launch) == [0]
    dead, again = launch.search.get_trials()
    assert (dead.state, again.state) == (TrialState.FAIL, TrialState.WAITING)
    assert again.params == dead.params
    assert again.user_attrs["runs"] == ["t000-s0"]
    assert again.user_attrs["continues"] == [0]
    assert not {"worker", "died", "reason"} & set(again.user_attrs)
    assert recover(launch) == []
    assert plan.count(launch.search.get_trials()).failed == 0


@pytest.mark.slow
def test_the_living_are_left_alone_and_those_elsewhere_while_their_heart_beats(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    for worker in (recovery.this_worker(0), ELSEWHERE):
        trial = take(launch, worker=worker)
        database_of(launch.search).record_heartbeat(trial._trial_id)
    _set_back_heartbeats(launch, HeartbeatSpec().grace - 20)
    assert recover(launch) == []
    assert all(t.state == TrialState.RUNNING for t in launch.search.get_trials())


def test_without_a_heartbeat_for_the_grace_period_only_those_elsewhere_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = create(tmp_path, tiny_spec())
    for worker in (recovery.this_worker(0), ELSEWHERE):
        trial = take(launch, worker=worker)
        database_of(launch.search).record_heartbeat(trial._trial_id)
    _set_back_heartbeats(launch, HeartbeatSpec().grace + 20)
    assert recover(launch) == []  # perhaps the database was away, and nobody could give one
    _later(monkeypatch, HeartbeatSpec().interval + recovery.WATCH_SECONDS + 1)
    assert recover(launch) == [1]
    assert "no sign of life" in launch.search.get_trials()[1].user_attrs["died"]


def _later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = time.monotonic
    monkeypatch.setattr(recovery.time, "monotonic", lambda: real() + seconds)


def test_a_heartbeat_after_an_outage_longer_than_the_grace_period_comes_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = create(tmp_path, tiny_spec())
    trial = take(launch, worker=ELSEWHERE)
    database_of(launch.search).record_heartbeat(trial._trial_id)
    _set_back_heartbeats(launch, HeartbeatSpec().grace + 20)
    assert recover(launch) == []
    database_of(launch.search).record_heartbeat(trial._trial_id)  # its worker is back
    _later(monkeypatch, HeartbeatSpec().interval + recovery.WATCH_SECONDS + 1)
    assert recover(launch) == []


def test_giving_back_what_a_recovery_has_queued_queues_nothing(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    launch.search.tell(take(launch), state=TrialState.FAIL)
    assert recover(launch) == [0]
    recovery.give_back(launch.search, [0])
    assert [t.state for t in launch.search.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


def _set_back_heartbeats(launch: Launch, seconds: float) -> None:
    with database_of(launch.search).engine.begin() as connection:
        text = f"UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-{seconds} seconds')"
        connection.execute(sqlalchemy.text(text))


def _set_back_starts(launch: Launch, seconds: float) -> None:
    with database_of(launch.search).engine.begin() as connection:
        text = f"UPDATE trials SET datetime_start = datetime(datetime_start, '-{seconds} seconds')"
        connection.execute(sqlalchemy.text(text))


def test_what_is_continued_knows_the_time_of_its_earlier_sessions(tmp_path: Path) -> None:
    """Of one that died up to its last heartbeat, whenever somebody notices."""
    launch = create(tmp_path, tiny_spec())
    trial = take(launch, worker=dead_worker())
    launch.search._storage.record_heartbeat(trial._trial_id)
    _set_back_starts(launch, 3600)
    _set_back_heartbeats(launch, 3500)
    assert recover(launch) == [0]
    assert launch.search.get_trials()[1].user_attrs["spent"] == pytest.approx(100, abs=60)
    again = take(launch)
    assert again.number == 1
    _set_back_starts(launch, 400)
    launch.search.tell(1, state=TrialState.FAIL)
    recovery.give_back(launch.search, [1])
    assert launch.search.get_trials()[2].user_attrs["spent"] == pytest.approx(500, abs=90)


def test_a_wrong_clock_on_this_host_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for heartbeats, which the database times, nor for processes, which are told apart by ticks."""
    launch = create(tmp_path, tiny_spec())
    for worker in (recovery.this_worker(0), ELSEWHERE):
        trial = take(launch, worker=worker)
        database_of(launch.search).record_heartbeat(trial._trial_id)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    monkeypatch.setattr("psutil.boot_time", lambda: real() + 86_400)
    assert recover(launch) == []


def test_killed_before_signing(tmp_path: Path) -> None:
    """Between taking a trial and saying who has it: what was queued with it is kept."""
    launch = create(tmp_path, tiny_spec(start=[{"model.chunk_size": 4}]))
    launch.search.ask()
    assert recover(launch) == [0]
    again = launch.search.ask()
    assert again.number == 1
    assert again.suggest_categorical("model.chunk_size", [1, 2, 4]) == 4


@pytest.mark.parametrize("when", ["after FAIL", "after the attributes"])
def test_a_recovery_that_is_cut_short_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    launch = create(tmp_path, tiny_spec())
    take(launch, worker=dead_worker())

    def cut(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        where, what = (recovery, "requeue") if when == "after FAIL" else (type(launch.search), "tell")
        patch.setattr(where, what, cut)
        with pytest.raises(SystemExit):
            recover(launch)
    assert plan.count(launch.search.get_trials()).failed == 0  # not lost meanwhile: not shown as failed
    assert recover(launch) == [0]
    assert recover(launch) == []
    assert [t.state for t in launch.search.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_what_failed_by_itself_is_left_failed(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    launch.search.tell(take(launch, reason="ValueError: broke"), state=TrialState.FAIL)
    assert recover(launch) == []
    assert [t.number for t in recovery.failed(launch.search)] == [0]


def test_killed_between_its_end_and_telling_it(tmp_path: Path) -> None:
    """It is given out again, whatever it was about to say; its run folder knows how it ended."""
    launch = create(tmp_path, tiny_spec())
    take(launch, worker=dead_worker(), reason="pruned: too low", ended=1.0, scores=[1.0])
    assert recover(launch) == [0]
    again = launch.search.get_trials()[1]
    assert not {"reason", "ended", "scores"} & set(again.user_attrs)


def _die_again(launch: Launch, times: int) -> list[FrozenTrial]:
    """Let the same trial be taken and its worker die."""
    for _ in range(times):
        trial = launch.search.ask()
        trial.set_user_attr("worker", recovery.signature(dead_worker()))
        trial.set_user_attr("runs", ["t000-s0"])
        recover(launch)
        if launch.search.get_trials()[-1].state != TrialState.WAITING:
            break
    return launch.search.get_trials()


def _checkpoint(launch: Launch, step: int) -> None:
    run_dir = launch.folder / "t000-s0"
    files.write_json(run_dir / records.RECORD, {"status": "running"})
    files.write_json(run_dir / records.CHECKPOINT / "state.json", {"step": step})


@pytest.mark.slow
def test_deaths_that_nobody_explains_are_forgiven_fifteen_times_in_a_row(tmp_path: Path) -> None:
    trials = _die_again(create(tmp_path, tiny_spec()), 30)
    assert len(trials) == 16
    assert trials[-1].user_attrs["given_up"]
    assert "again and again before its first checkpoint; given up" in recovery.failure_reason(trials[-1])


def test_running_out_of_memory_is_forgiven_three_times_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = iter(range(1000))
    monkeypatch.setattr(processes, "out_of_memory_kills", lambda: next(kills))
    launch = create(tmp_path, tiny_spec())
    trials = _die_again(launch, 30)
    assert len(trials) == 4
    assert recovery.OUT_OF_MEMORY in recovery.failure_reason(trials[-1])
    assert [t.number for t in recovery.failed(launch.search)] == [3]


@pytest.mark.slow
def test_progress_clears_the_strikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = iter(range(1000))
    monkeypatch.setattr(processes, "out_of_memory_kills", lambda: next(kills))
    launch = create(tmp_path, tiny_spec())
    for step in range(1, 8):
        _checkpoint(launch, step)
        trials = _die_again(launch, 3)
    assert len(trials) == 22
    assert trials[-1].state == TrialState.WAITING
    assert trials[-1].user_attrs["progress"] == 7


@pytest.mark.slow
def test_retrying_forgives(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    number = _die_again(launch, 30)[-1].number
    recovery.requeue(launch.search, number, forgive=True)
    again = launch.search.get_trials()[-1]
    assert not {"strikes", "progress", "given_up", "died"} & set(again.user_attrs)


def test_requeueing_keeps_parameters_and_run_folders_and_counts_once(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    trial = take(launch, reason="broke")
    launch.search.tell(trial, state=TrialState.FAIL)
    assert [t.number for t in recovery.failed(launch.search)] == [0]
    recovery.requeue(launch.search, 0)
    queued = launch.search.get_trials()[1]
    assert queued.state == TrialState.WAITING
    assert queued.params == trial.params
    assert queued.user_attrs == {"runs": ["t000-s0"], "continues": [0], "spent": pytest.approx(0, abs=60)}
    assert recovery.failed(launch.search) == []


class TestProcesses:
    def test_this_one_lives(self) -> None:
        assert processes.is_alive(processes.this_process()) is True

    def test_its_number_may_be_anothers_now(self) -> None:
        own = processes.this_process()
        assert processes.is_alive({**own, "ticks": own["ticks"] - 1}) is False
        assert processes.is_alive({"host": own["host"], "pid": own["pid"], "started": 1.0}) is False

    @pytest.mark.parametrize("other", [{"boot": "another"}, {"pid_space": "pid:[1]"}])
    def test_of_another_machine_or_container_nothing_is_known(self, other: dict[str, Any]) -> None:
        """Even where it has the same name and number: containers often do."""
        assert processes.is_alive({**processes.this_process(), **other}) is None

    def test_of_before_this_machine_was_started_again_it_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "_pid_space", lambda: processes.OUTSIDE_CONTAINERS)
        monkeypatch.setattr(processes, "_machine", lambda: "this one")
        own = processes.this_process()
        before = {**own, "boot": "another"}
        assert not processes.gone(own)
        assert processes.gone({**own, "ticks": own["ticks"] - 1})
        assert processes.gone(before)
        del before["machine"]  # as earlier versions stored it
        assert processes.gone(before)

    @pytest.mark.parametrize(
        "other",
        [
            {"host": "elsewhere"},
            {"machine": "another of the same name"},
            {"pid_space": "pid:[1]"},
            {"boot": None},
        ],
    )
    def test_another_boot_alone_does_not_mean_that_it_is_gone(
        self, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
    ) -> None:
        monkeypatch.setattr(processes, "_pid_space", lambda: processes.OUTSIDE_CONTAINERS)
        monkeypatch.setattr(processes, "_machine", lambda: "this one")
        assert not processes.gone({**processes.this_process(), "boot": "another", **other})

    def test_containers_of_one_name_on_two_machines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """They may have one number space as well, by chance, and no machine's number of their own."""
        monkeypatch.setattr(processes, "_pid_space", lambda: "pid:[4026532201]")
        monkeypatch.setattr(processes, "_machine", lambda: None)
        assert not processes.gone({**processes.this_process(), "boot": "another"})

    def test_the_machines_number_is_not_stored_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "MACHINE", tmp_path / "machine-id")
        assert "machine" not in processes.this_process()
        processes.MACHINE.write_text("0123456789abcdef\n")
        first = processes.this_process()["machine"]
        processes.MACHINE.write_text("fedcba9876543210\n")
        assert "0123456789abcdef" not in first != processes.this_process()["machine"]

    def test_one_that_is_hidden_may_live(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """/proc of a shared machine often shows one's own processes only."""
        hidden = {**processes.this_process(), "pid": 1, "ticks": 5}
        monkeypatch.setattr(processes, "_ticks", lambda pid: None)

        def refuse(pid: int, number: int) -> None:
            raise PermissionError

        monkeypatch.setattr(processes.os, "kill", refuse)
        assert processes.is_alive(hidden) is None

    def test_one_that_ended_but_was_not_waited_for_is_dead(self) -> None:
        child = os.fork()
        if child == 0:
            signal.pause()
        seen = {**processes.this_process(), "pid": child, "ticks": processes._ticks(child)}
        assert processes.is_alive(seen) is True
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert processes.is_alive(seen) is False
        os.waitpid(child, 0)
        assert processes.is_alive(seen) is False

    def test_a_name_with_brackets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "7").mkdir()
        rest = " ".join(["S", "1", *["0"] * 17, "4321", "0"])
        (tmp_path / "7" / "stat").write_text(f"7 (a) b) c) {rest}\n")
        monkeypatch.setattr(processes, "PROC", tmp_path)
        assert processes._ticks(7) == 4321
