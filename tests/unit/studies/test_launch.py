"""A launcher that leaves: what the tracking server gets, and when it may be told that the launch has stopped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studies import launch as launching
from studies import prepare, progress, recovery
from studies.prepare import Options
from studies.staffing import Staffing
from studies.storage import Launch
from tests.suites.study_launch import FAKE, create, invoke, tiny_home, tiny_spec
from workbench import processes
from workbench.errors import StudyError


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # ask() stands for another worker
def test_a_launch_goes_on_while_a_trial_runs_elsewhere(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec())
    assert not launching._others_work(launch, progress.snapshot(launch))
    trial = launch.search.ask()
    gone = {**processes.this_process(), "index": 0, "ticks": 1}
    for worker, works in ((gone, False), (recovery.this_worker(0), True), ({**gone, "boot": "another's"}, True)):
        trial.set_user_attr("worker", worker)
        assert launching._others_work(launch, progress.snapshot(launch)) is works


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize("works", [False, True])
def test_a_retry_beside_a_launcher_ends_nothing_on_the_server(tmp_path: Path, *, works: bool) -> None:
    launch, said = create(tmp_path, tiny_spec()), list[str]()
    if works:
        launch.search.ask().set_user_attr("worker", recovery.this_worker(0))
    stands_for: Any = SimpleNamespace(stop=said.append, last_error=lambda: None)
    result = launching._result(launch, stands_for, Options("tiny", only_queued=True), stands_for, "done")
    assert not result.state.finished
    assert said == ([] if works else ["FINISHED"])


class Workers:
    """Stands for a crew."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.unheard: list[int] = []

    def stop(self) -> bool:
        self.did.append("stopped")
        return True

    def kill(self) -> None:
        self.did.append("killed")


@pytest.mark.parametrize(
    ("again", "did"), [("", ["stopped"]), ("said", ["killed"]), ("noted", ["killed"]), ("asked", ["killed"])]
)
def test_a_second_signal_means_now_also_before_the_workers_know_of_the_first(
    monkeypatch: pytest.MonkeyPatch, again: str, did: list[str]
) -> None:
    crew = Workers()

    def reached(name: str) -> None:
        if again == name:
            raise KeyboardInterrupt

    def stop() -> bool:
        reached("asked")
        return Workers.stop(crew)

    monkeypatch.setattr(crew, "stop", stop)
    monkeypatch.setattr(launching, "hurry", lambda: reached("noted"))
    display = SimpleNamespace(note=lambda words: reached("said"))
    assert launching._stopped(crew, display) is (again == "")
    assert crew.did == did


def test_who_had_to_be_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    crew, said = Workers(), list[str]()
    crew.unheard = [3]
    monkeypatch.setattr(launching, "hurry", lambda: None)
    assert launching._stopped(crew, SimpleNamespace(note=said.append))
    assert said[1:] == ["worker 3 did not leave and was killed; its trial goes on from its last checkpoint"]


@pytest.mark.slow
def test_a_session_is_staffed_as_the_last_one_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(launch: Launch, options: Options, tracker: object, found: Staffing, display: object) -> object:
        prepare.write_study_file(launch, options.tracking_uri, found)
        said.append(found.words())
        raise StudyError("this is as far as the test goes")

    said: list[str] = []
    home = tiny_home(tmp_path, monkeypatch)
    monkeypatch.setattr(launching, "_run", begin)
    monkeypatch.setattr("studies.staffing.available_cores", lambda: 2)
    for more in (["--workers=1", "--threads=1"], ["--workers=1"], [], ["--workers=auto"], []):
        arguments = ["--home", str(home.root), "--tracking-uri", "none", "--execute", FAKE]
        assert "as far as" in str(invoke("study", "run", "tiny", *arguments, *more).exception)
        if more == ["--workers=1"]:
            shown = invoke("study", "show", "tiny-quick", "--home", str(home.root))
            assert "on 1 worker(s) x 1 thread(s): as in the last session" in shown.output
    one, chosen = (
        "1 worker(s) x 1 thread(s): ",
        "2 worker(s) x 1 thread(s): one a core; a custom runner is not tried",
    )
    assert said == [
        f"{one}as asked for",
        f"{one}workers as asked for, threads as in the last session",
        f"{one}as in the last session",
        chosen,
        chosen,
    ]


@pytest.mark.parametrize(("waited", "seconds"), [(0.3, 3.0), (5.5, 3.0), (7.0, 1.5), (8.0, 0.5), (30.0, 0.5)])
def test_the_last_delivery_has_what_the_workers_left_of_ten_seconds(waited: float, seconds: float) -> None:
    assert launching.last_delivery(waited) == seconds
