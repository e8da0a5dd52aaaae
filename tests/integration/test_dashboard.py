"""optuna-dashboard on a study's storage: it shows the trials and changes nothing."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from studies import dashboard, prepare
from studies.storage import Launch
from tests.suites.study_launch import create, steps, tiny_spec
from workbench.errors import StudyError
from workbench.home import open_home


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Five finished trials and their cells."""
    made = create(tmp_path / "home", tiny_spec())
    prepare.write_study_file(made, "none")
    assert steps(made)[-1] == "done"
    return made


def ask(url: str, method: str = "GET", **headers: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=60) as reply:
        return json.load(reply)


def refused(url: str, method: str = "GET", **headers: str) -> str:
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(url, method, **headers)
    assert error.value.code == 403
    return str(json.load(error.value)["reason"])


@pytest.mark.slow
def test_the_trials_of_a_launch(launch: Launch) -> None:
    with dashboard.serve(launch.home, launch.name, port=0) as page:
        assert page.startswith("http://127.0.0.1:")
        site, _, number = page.partition("/dashboard/studies/")
        with urllib.request.urlopen(page, timeout=60) as reply:
            assert b"<html" in reply.read().lower()
        shown = {row["study_name"] for row in ask(f"{site}/api/studies")["study_summaries"]}
        assert shown == {launch.name, f"{launch.name}/cells"}
        study = ask(f"{site}/api/studies/{number}")
        finished = [trial for trial in study["trials"] if trial["state"] == "Complete"]
        assert len(finished) == 5
        wanted = {trial.number: trial.value for trial in launch.search.trials if trial.value is not None}
        assert {trial["number"]: trial["values"][0] for trial in finished} == pytest.approx(wanted)
        assert "for reading only" in refused(f"{site}/api/studies/{number}", "DELETE")
        assert "for reading only" in refused(f"{site}/api/studies", "POST")
        assert "another page" in refused(f"{site}/api/studies", Host="elsewhere.example")
        assert "another page" in refused(f"{site}/api/studies", Origin="http://elsewhere.example")
    assert len(launch.search.trials) >= 5
    with pytest.raises(urllib.error.URLError):
        ask(f"{site}/api/studies")


@pytest.mark.slow
def test_a_port_that_is_taken(launch: Launch) -> None:
    with dashboard.serve(launch.home, port=0) as page:
        port = int(page.split(":")[2].split("/")[0])
        with (
            pytest.raises(StudyError, match=f"port {port} .* cannot be used"),
            dashboard.serve(launch.home, port=port),
        ):
            pass


def test_nothing_is_made_where_nothing_is(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    with pytest.raises(StudyError, match="nothing to show yet"), dashboard.serve(home):
        pass
    with pytest.raises(StudyError, match="no launch 'joint'"), dashboard.serve(home, "joint"):
        pass
    assert not (tmp_path / "optuna.db").exists()


@pytest.mark.slow
def test_without_the_package(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with (
        pytest.raises(StudyError, match=r"pip install 'optuna-dashboard>="),
        dashboard.serve(launch.home),
    ):
        pass
