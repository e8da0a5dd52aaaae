"""A home that is moved or copied has its studies with it, and works on no other home's database."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from studies import database, plan, prepare
from studies.address import KEY, address
from studies.prepare import Options, find_launch, retry
from studies.status import status, status_lines
from studies.storage import Launch
from tests.suites.study_launch import prepared_home, steps, tiny_study
from workbench.errors import StudyError
from workbench.home import Home, open_home

NAME = "tiny-quick"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study()})
    return prepared_home(tmp_path / "first")


def launch(home: Home, name: str = NAME, **options: Any) -> Launch:
    made, _ = prepare.prepare(Options(name=name, **options), home)
    prepare.write_study_file(made, None)
    return made


def stored(home: Home, **changes: Any) -> dict[str, Any]:
    """study.json, with what is to be changed in it."""
    path = home.study(NAME) / prepare.SPEC
    content: dict[str, Any] = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content))
    return content


def begun(home: Home, *, earlier: bool) -> None:
    """A launch with two cells and one trial; ``earlier``: by a version that stored the path."""
    made = launch(home, "tiny")
    steps(made, most=3)
    database.database_of(made.search).engine.dispose()
    if earlier:
        stored(home, **{KEY: home.optuna_url})


def num_trials(home: Home) -> int:
    return len(find_launch(home, NAME).search.get_trials())


@pytest.mark.slow
def test_of_the_homes_own_database_nothing_is_stored(home: Home, tmp_path: Path) -> None:
    launch(home, "tiny")
    assert stored(home)[KEY] is None  # which earlier versions read as the home's own, too
    (tmp_path / "link").symlink_to(home.root)
    for written in (home.root, tmp_path / "link"):
        launch(home, storage=f"sqlite:///{written}/optuna.db")
        assert stored(home)[KEY] is None
    launch(Home(tmp_path / "link"))
    assert stored(home)[KEY] is None


def test_another_one_is(home: Home, tmp_path: Path) -> None:
    elsewhere = f"sqlite:///{tmp_path}/shared.db"
    launch(home, "tiny", storage=elsewhere)
    assert stored(home)[KEY] == elsewhere
    assert find_launch(home, NAME).url == elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_a_moved_home_goes_on(home: Home, tmp_path: Path, *, earlier: bool, linked: bool) -> None:
    begun(home, earlier=earlier)
    place = tmp_path / "second"
    shutil.move(home.root, place)
    if linked:
        (tmp_path / "link").symlink_to(place)
    moved = open_home(tmp_path / "link" if linked else place)
    assert status_lines(status(find_launch(moved, "tiny")))[-1].startswith("nobody works on it")
    assert retry(find_launch(moved, NAME)) == []
    launch(moved, "tiny")
    made = launch(moved)
    assert made.url == f"sqlite:///{place}/optuna.db"
    assert stored(moved)[KEY] is None
    steps(made)
    assert plan.is_finished(made.spec, made.search, made.cells)
    assert not home.root.exists()


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_a_copy_leaves_the_original_alone(home: Home, tmp_path: Path, *, earlier: bool, linked: bool) -> None:
    begun(home, earlier=earlier)
    shutil.copytree(home.root, tmp_path / "second")
    if linked:
        (tmp_path / "link").symlink_to(tmp_path / "second")
    copy = open_home(tmp_path / "link" if linked else tmp_path / "second")
    made = launch(copy)
    steps(made)
    assert plan.is_finished(made.spec, made.search, made.cells)
    assert num_trials(copy) == 5
    assert num_trials(home) == 1
    assert find_launch(home, NAME).url == home.optuna_url


def test_a_database_of_that_name_that_alone_knows_the_launch_is_kept(home: Home, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    elsewhere = f"sqlite:///{tmp_path}/shared/optuna.db"
    launch(home, "tiny", storage=elsewhere)
    assert stored(home)[KEY] == elsewhere
    assert find_launch(home, NAME).url == elsewhere
    (home.root / "optuna.db").write_bytes(b"")
    assert find_launch(home, NAME).url == elsewhere


def test_a_copy_whose_database_is_damaged_does_not_use_the_originals(home: Home, tmp_path: Path) -> None:
    begun(home, earlier=True)
    shutil.copytree(home.root, tmp_path / "second")
    (tmp_path / "second/optuna.db").write_bytes(b"nothing of a database")
    with pytest.raises(StudyError, match=r"second/optuna\.db is damaged, or no database"):
        find_launch(open_home(tmp_path / "second"), NAME)


def test_a_password_is_asked_for_again(home: Home) -> None:
    launch(home, "tiny")
    stored(home, **{KEY: "postgresql://me:***@host/optuna.db"})
    with pytest.raises(StudyError, match="give it again, with its password"):
        find_launch(home, NAME)


def test_a_database_that_was_given_is_not_taken_for_the_homes_own(home: Home, tmp_path: Path) -> None:
    """Though it is called like that, and the home's own knows a launch of the name: its folder was moved away."""
    launch(home, "tiny")
    home.study(NAME).rename(tmp_path / "away")
    other = f"sqlite:///{tmp_path / 'optuna.db'}"
    prepare.write_study_file(launch(home, "tiny", storage=other), None)
    found = prepare.read_study_file(home, NAME)
    assert address(None, home, found, NAME) == other
    assert launch(home).url == other


@pytest.mark.parametrize("damaged", ["", "garbage"])
def test_an_address_that_is_none(home: Home, damaged: str) -> None:
    launch(home, "tiny")
    with pytest.raises(StudyError, match=r"study\.json names no database \(storage: .*; bring it back"):
        address(None, home, stored(home, storage=damaged), NAME)
