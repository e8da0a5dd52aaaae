"""Hosts with homes of their own that begin a launch together: the server shows one, however slow it is."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from studies import delivery
from studies.delivery import Delivery
from studies.storage import Launch
from tests.suites.fake_mlflow import MemoryClient
from tests.suites.study_launch import create, tiny_spec
from tests.suites.waiting import wait_for
from workbench import tracking_outages
from workbench.home import open_home
from workbench.tracking_launches import awaited_launch, read_launches
from workbench.tracking_mlflow import MlflowTracker


class Queueing(MemoryClient):
    """Its first launch is made when the server goes on; ``lost``: nobody hears of it, only the server makes it."""

    def __init__(self, *, lost: bool = False) -> None:
        super().__init__()
        self.lost, self.go_on = lost, threading.Event()
        self.queue: list[dict[str, Any]] = []

    def create_run(self, experiment_id: str, **given: Any) -> Any:
        if not self.queue:
            self.queue.append({"experiment_id": experiment_id, **given})
            if self.lost:
                raise ConnectionRefusedError("refused")  # of which nobody asks again at once
            assert self.go_on.wait(30)
        return super().create_run(experiment_id, **given)

    def make_late(self) -> None:
        super().create_run(**self.queue[0])

    def launches(self) -> list[str]:
        return [run.info.run_id for run in self.active() if run.tags.get("calm.role") == "launch"]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.setattr(delivery, "BEGIN_SECONDS", 0.05)
    return create(tmp_path / "first", tiny_spec())


def host(launch: Launch, home: Path, client: MemoryClient) -> Delivery:
    """One that works on ``launch`` with its runs in ``home``."""
    here = replace(launch, home=open_home(home))
    tracker = MlflowTracker("http://one-server", launch.name, here.home)
    tracker._client, tracker._connect = client, lambda: None  # type: ignore[method-assign]
    return Delivery(here, tracker)


def begun(deliveries: Delivery, seconds: float = 60.0) -> str | None:
    """The launch, where the server has it within ``seconds``."""
    deliveries.tracker._line.answered()  # type: ignore[attr-defined]  # whatever pause it makes
    with mock.patch.object(tracking_outages, "PATIENT_SECONDS", seconds):
        deliveries.begin()
    return deliveries.parent


def asked_in_vain(deliveries: Delivery, server: Queueing) -> None:
    assert begun(deliveries, seconds=0.1) is None
    wait_for(lambda: server.queue)


def go_on(server: Queueing, deliveries: Delivery) -> None:
    server.go_on.set()
    wait_for(lambda: not deliveries.tracker.busy)


def test_no_other_host_makes_a_launch_that_takes_longer_than_is_waited(launch: Launch, tmp_path: Path) -> None:
    server = Queueing()
    first, second = host(launch, tmp_path / "first", server), host(launch, tmp_path / "second", server)
    asked_in_vain(first, server)
    assert begun(second) is None
    assert begun(first, seconds=0.1) is None
    assert len(server.queue) == 1
    assert not server.launches(), "the second host waits for what the first has asked for"
    go_on(server, first)
    assert begun(first) == begun(second)
    assert server.launches() == [first.parent]


def test_a_launch_that_nobody_waited_for_is_found_by_the_next_host(launch: Launch, tmp_path: Path) -> None:
    server = Queueing()
    first, second = host(launch, tmp_path / "first", server), host(launch, tmp_path / "second", server)
    asked_in_vain(first, server)
    first._let_go()  # as when its process ends
    go_on(server, first)
    assert [begun(second)] == server.launches()
    assert begun(host(launch, tmp_path / "first", server)) == second.parent


@pytest.mark.parametrize("ends", ["first", "second"])
def test_one_that_the_server_makes_late_is_deleted_by_whoever_ends(
    launch: Launch, tmp_path: Path, ends: str
) -> None:
    server = Queueing(lost=True)
    first, second = host(launch, tmp_path / "first", server), host(launch, tmp_path / "second", server)
    assert begun(first) is None
    assert begun(second) is not None
    server.make_late()
    assert len(server.launches()) == 2
    assert begun(first) == second.parent
    {"first": first, "second": second}[ends].finish({"num_trials": 1}, [])
    assert server.launches() == [second.parent]
    for one in (first, second):
        assert awaited_launch(one.launch.home, launch.name, "http://one-server") is None
        assert len(read_launches(one.launch.home, launch.name)) == 1


def test_one_that_the_server_has_lost_is_made_again_and_the_old_one_is_still_known(
    launch: Launch, tmp_path: Path
) -> None:
    old = begun(host(launch, tmp_path / "first", MemoryClient()))
    server = Queueing()
    server.go_on.set()
    server.create_experiment("another study's, so that numbers differ", tags={})
    new = begun(host(launch, tmp_path / "first", server))
    assert server.launches() == [new]
    assert [row.run_id for row in read_launches(launch.home, launch.name)] == [old, new]
