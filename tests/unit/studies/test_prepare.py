"""Launching freezes the specification; resuming under another one is refused with the difference."""

import contextlib
import json
import shlex
import sqlite3

import pytest

from studies import database, plan, prepare, storage
from studies.prepare import Options, find_launch
from studies.search_spec import HeartbeatSpec
from studies.status import status
from tests.suites.cells_only import CELLS
from tests.suites.study_launch import FAKE, invoke, prepared_home, steps, tiny_study
from tests.suites.tiny_runs import write_text
from workbench.errors import DataError, StudyError
from workbench.home import open_home


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study()})
    return prepared_home(tmp_path)


def launch(home, **options):
    made, _ = prepare.prepare(Options(**{"name": "tiny", **options}), home)
    prepare.write_study_file(made, options.get("tracking_uri"))
    return made


def test_a_launch_is_named_after_study_and_preset_and_frozen_in_both_places(home):
    made = launch(home)
    stored = json.loads((home.root / "tiny-quick" / "study.json").read_text())
    assert stored["spec"] == made.spec.to_dict() == storage.stored_spec(made.search).to_dict()
    assert stored["parameters"]["model.chunk_size"] == {"choices": [1, 2, 4]}
    assert (stored["study"], stored["preset"], stored["trials"], stored["seeds"]) == ("tiny", "quick", 5, 1)
    assert stored["spec_hash"] == made.spec.hash()
    assert {"name", "question", "against", "objective", "created"} <= set(stored)


def test_resuming_is_the_same_launch(home):
    first = launch(home)
    steps(first, most=3)
    second = launch(home)
    assert second.spec == first.spec
    assert len(second.search.get_trials()) == 1
    created = json.loads((home.root / "tiny-quick" / "study.json").read_text())["created"]
    launch(home)
    assert json.loads((home.root / "tiny-quick" / "study.json").read_text())["created"] == created


GRID = {"sampler": {"kind": "grid"}, "pruner": {"kind": "none"}, "trials": 0, "start": [], "checks": {}}
KINDS = {
    "a search": {},
    "a grid": {**GRID, "space": {"model.chunk_size": {"choices": [1, 2]}}},
    "a larger grid": {**GRID, "space": {"model.chunk_size": {"choices": [1, 2, 4]}}},
    "no search": CELLS,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_another_kind_of_study_is_refused_with_the_difference(home, monkeypatch, kind, other):
    """As where the preset was edited after the launch; the count of trials of one is none of the other's."""
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study(**KINDS[kind])})
    made = launch(home)
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study(**KINDS[other])})
    if kind == other:
        assert launch(home).spec == made.spec
        return
    with pytest.raises(StudyError, match=r"tiny-quick was launched with another specification \(stored → asked\)"):
        launch(home)


def test_another_specification_is_refused_with_the_difference(home):
    launch(home)
    with pytest.raises(StudyError) as caught:
        launch(home, seeds=2, overrides={"optim.clip": 2.0})
    message = str(caught.value)
    assert "base.optim.clip: 1.0 → 2.0" in message
    assert "seeds: 1 → 2" in message
    assert f"calm study run tiny-quick --home {home.root}\n" in message
    assert f"calm study run tiny --home {home.root} --preset quick --name NEW …" in message


def test_an_edited_preset_is_refused_under_the_studys_name_and_ignored_under_the_launchs(home, monkeypatch):
    first = launch(home)
    edited = tiny_study(space={"model.chunk_size": {"choices": [2]}})
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": edited})
    with pytest.raises(StudyError, match=r"space.model.chunk_size.choices: \[1, 2, 4\] → \[2\]"):
        launch(home)
    assert launch(home, name="tiny-quick").spec == first.spec
    assert launch(home, launch="tiny-new").spec.space != first.spec.space


@pytest.mark.slow
def test_more_trials_continue_and_are_kept(home):
    first = launch(home)
    steps(first)
    second = launch(home, trials=7)
    assert second.spec.trials == 7
    assert not plan.is_finished(second.spec, second.search, second.cells)
    assert launch(home).spec.trials == 7  # not said again, not forgotten
    with pytest.raises(StudyError, match="may be raised, not lowered"):
        launch(home, trials=6)


def test_a_launch_can_be_continued_by_name_with_agreeing_options_only(home):
    launch(home, overrides={"optim.clip": 2.0})
    launch(home, name="tiny-quick", overrides={"optim.clip": 2.0}, preset="quick")
    with pytest.raises(StudyError, match=r"base.optim.clip: 2.0 → 3.0"):
        launch(home, name="tiny-quick", overrides={"optim.clip": 3.0})
    with pytest.raises(StudyError, match=r"launched with preset quick, not cpu"):
        launch(home, name="tiny-quick", preset="cpu")
    with pytest.raises(StudyError, match=rf"calm study run tiny --home {home.root} --name other"):
        launch(home, name="tiny-quick", launch="other")


def test_an_unknown_name_lists_studies_and_launches(home):
    launch(home)
    with pytest.raises(
        StudyError, match=r"no study or launch 'tini'; did you mean tiny\? known: tiny, tiny-quick"
    ):
        launch(home, name="tini")
    assert not (home.root / "tini").exists()


def test_a_launch_is_shown_as_it_was_launched(home, monkeypatch):
    made = launch(home, overrides={"optim.clip": 2.0})
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study(trials=9)})
    assert prepare.spec_to_show(Options("tiny-quick"), home) == made.spec
    assert prepare.spec_to_show(Options("tiny-quick", seeds=3), home).seeds == 3
    assert prepare.spec_to_show(Options("tiny"), home).trials == 9
    with pytest.raises(StudyError, match="launched with preset quick, not cpu"):
        prepare.spec_to_show(Options("tiny-quick", "cpu"), home)
    with pytest.raises(
        StudyError, match=r"no study or launch 'tini'; did you mean tiny\? known: tiny, tiny-quick"
    ):
        prepare.spec_to_show(Options("tini", storage="sqlite:///none.db"), home)


def test_the_command_shows_a_launch_too(home):
    launch(home, seeds=2)
    done = invoke("study", "show", "tiny-quick", "--home", str(home.root), "--workers", "1", "--threads", "1")
    assert done.exit_code == 0, done.exception
    assert "question: does it work?" in done.output


@pytest.mark.parametrize("options", [{"workers": 0}, {"trials": 0}, {"seeds": -1}])
def test_counts_must_be_positive(home, options):
    with pytest.raises(StudyError, match=f"--{next(iter(options))} must be at least 1"):
        launch(home, **options)


@pytest.mark.slow
def test_a_launch_without_a_search_freezes_and_resumes(home, monkeypatch):
    monkeypatch.setattr(prepare, "find_studies", lambda: {"tiny": tiny_study(**CELLS)})
    first = launch(home, seeds=2)
    stored = json.loads((home.root / "tiny-quick" / "study.json").read_text())
    # None and not 0: the report turns what is there into the command that repeats the study
    assert (stored["trials"], stored["seeds"], stored["parameters"]) == (None, 2, {})
    assert stored["spec"] == first.spec.to_dict()
    steps(first, most=1)
    for name in ("tiny", "tiny-quick"):
        again = launch(home, name=name, seeds=2)
        assert len(again.cells.get_trials()) == 2
        with pytest.raises(StudyError, match=r"--trials 4: .* has no search"):
            launch(home, name=name, trials=4)
    with pytest.raises(StudyError, match="seeds: 2 → 1"):
        launch(home)
    steps(launch(home, seeds=2))
    finished = launch(home, name="tiny-quick")
    assert plan.is_finished(finished.spec, finished.search, finished.cells)


def test_every_cells_text_is_read_before_a_launch(home, monkeypatch, tmp_path):
    """Under the real runner; a cell whose text is missing or too small is named, and nothing is created."""
    write_text(tmp_path / "good.txt")
    (tmp_path / "small.txt").write_text("too small")
    rules = {"eval.context_len": 32, "eval.min_context": 16, "eval.num_windows": 16, "train.block_len": 32}
    wrong = {"missing": f"text:{tmp_path}/none.txt", "small": f"text:{tmp_path}/small.txt"}
    for cell, corpus in wrong.items():
        cells = {"good": {"data.corpus": f"text:{tmp_path}/good.txt"}, cell: {"data.corpus": corpus}}
        study = tiny_study(**CELLS, baselines={name: {**rules, **settings} for name, settings in cells.items()})
        monkeypatch.setattr(prepare, "find_studies", lambda study=study: {"tiny": study})
        with pytest.raises(DataError, match=rf"^cell {cell}: .*{cell if cell == 'small' else 'none'}"):
            launch(home)
        assert not (home.root / "tiny-quick").exists()
        assert storage.load("tiny-quick", database.open_storage(home.optuna_url, home, HeartbeatSpec())) is None


@pytest.mark.parametrize(
    ("name", "said"), [*((n, "plain name for a folder") for n in ("", "a/b", ".hidden")), ("single", "is taken")]
)
def test_a_launch_name_is_a_folder_name(home, name, said):
    with pytest.raises(StudyError, match=said):
        launch(home, launch=name)


def test_the_storage_of_a_launch_is_remembered(home):
    other = f"sqlite:///{home.root}/elsewhere.db"
    first = launch(home, storage=other)
    steps(first, most=3)
    again = launch(home)
    assert again.url == other
    assert len(again.search.get_trials()) == 1


def test_a_folder_whose_trials_the_storage_does_not_know_is_not_overwritten(home):
    launch(home)
    (home.root / "optuna.db").unlink()
    for name in ("tiny", "tiny-quick"):
        with pytest.raises(StudyError, match="does not know the launch tiny-quick"):
            launch(home, name=name)


def test_a_study_file_without_a_specification_is_named(home):
    launch(home)
    path = home.root / "tiny-quick" / "study.json"
    path.write_text("{}")
    for again in (lambda: launch(home, name="tiny-quick"), lambda: find_launch(home, "tiny-quick")):
        with pytest.raises(StudyError, match=f"^{path} holds no specification; bring back an intact copy"):
            again()


@pytest.mark.slow
@pytest.mark.parametrize("finished", [False, True])
def test_a_launch_whose_study_file_is_gone_is_said_to_be_one_and_gets_it_again(home, monkeypatch, finished):
    """By the very command that the message gives."""
    made = launch(home)
    steps(made) if finished else None
    path = home.root / "tiny-quick" / "study.json"
    before = json.loads(path.read_text())
    path.unlink()
    said = []
    for command in ("status", "retry", "run", "show"):
        ended = invoke("study", command, "tiny-quick", "--home", str(home.root))
        assert isinstance(ended.exception, StudyError)
        said.append(str(ended.exception))
    assert len(set(said)) == 1
    assert f"folder {path.parent} has no study.json; bring back a copy of it, or" in said[0]
    monkeypatch.setattr("studies.launch._run", lambda launch, options, *_: prepare.write_study_file(launch, None))
    command = shlex.split(said[0].partition("written anew with: calm ")[2])
    monkeypatch.chdir(home.root)  # where a command without --home would begin another home
    invoke(*command, "--execute", FAKE, "--workers", "1")
    left_out = {"created", "staffing", "tracking_uri"}
    after = json.loads(path.read_text())
    assert {k: v for k, v in after.items() if k not in left_out} == {
        k: v for k, v in before.items() if k not in left_out
    }
    assert find_launch(home, "tiny-quick").spec == made.spec


def test_a_name_that_no_database_holds_is_no_launch(home):
    launch(home)
    with pytest.raises(StudyError, match=r"^no launch '\\udcff'"):
        find_launch(home, "\udcff")


@pytest.mark.parametrize("content", [None, b"no database", b""])
def test_without_a_database_that_says_so_there_is_no_such_launch(home, content):
    for path in home.root.glob("optuna.db*"):
        path.unlink()
    if content is not None:
        (home.root / "optuna.db").write_bytes(content)
    with pytest.raises(StudyError, match=r"^no launch 'tiny-quick'"):
        find_launch(home, "tiny-quick")


@pytest.mark.parametrize("content", [None, b""], ids=["gone", "emptied"])
def test_of_a_database_that_has_lost_its_launch_a_copy_is_asked_for(home, content):
    """And no other --storage: it is the one."""
    launch(home)
    for path in home.root.glob("optuna.db*"):
        path.unlink()
    if content is not None:
        (home.root / "optuna.db").write_bytes(content)
    found = "it is gone" if content is None else "it was emptied"
    said = (
        rf"optuna.db does not know the launch tiny-quick .* was started with it: {found}.* bring back a copy of it"
    )
    for again in (lambda: launch(home), lambda: find_launch(home, "tiny-quick")):
        with pytest.raises(StudyError, match=said) as error:
            again()
        assert "give the --storage" not in str(error.value)
        assert "finished runs stay in their folders" in str(error.value)


def test_a_database_damaged_inside_is_not_waited_for(home):
    database.database_of(launch(home).search).engine.dispose()
    with contextlib.closing(sqlite3.connect(home.root / "optuna.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'studies'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with open(home.root / "optuna.db", "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\x7f" * size)
    said = r"optuna.db is damaged, or no database \(database disk image is malformed\); .*bring back a copy of it"
    with pytest.raises(StudyError, match=said) as error:
        status(find_launch(home, "tiny-quick"))
    assert not isinstance(error.value, database.StorageAwayError)
    assert "does not answer" not in str(error.value)


def test_another_machine_joins_through_the_storage(home, tmp_path):
    first = launch(home, overrides={"optim.clip": 2.0})
    elsewhere = open_home(tmp_path / "elsewhere")
    joined = launch(elsewhere, name="tiny-quick", storage=first.url)
    assert joined.spec == first.spec
    with pytest.raises(StudyError, match="does not know the launch tiny-slow"):
        launch(elsewhere, name="tiny-slow", storage=first.url)


def test_finding_a_launch_by_its_study(home):
    launch(home)
    assert find_launch(home, "tiny").name == "tiny-quick"
    launch(home, launch="second")
    assert find_launch(home, "second").name == "second"
    with pytest.raises(StudyError, match=r"several launches .*second, tiny-quick"):
        find_launch(home, "tiny")
    with pytest.raises(StudyError, match=r"no launch 'secnd' .*did you mean second\?"):
        find_launch(home, "secnd")
