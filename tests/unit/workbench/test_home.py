"""What a refused command leaves of a home: what was there before, and what another process uses."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner

from workbench import files
from workbench.cache import build_once
from workbench.cli import app
from workbench.errors import DataError, OutputError, UserError
from workbench.home import home_unless_refused, open_home


def refused(
    root: Path,
    *,
    entry: str | None = None,
    error: type[Exception] = DataError,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """A command that takes a lock, of the cache too, perhaps prepares a text, and is refused; what another process
    does ``meanwhile``."""

    def command() -> None:
        with home_unless_refused(root) as home:
            if entry is not None:
                build_once(home.cache / entry, lambda folder: files.write_atomic(folder / "text", "text"))
            with files.locked(home.root / ".launch.lock"), files.locked(home.cache / "probes" / "one.lock"):
                meanwhile()
                raise error("no")

    with pytest.raises(error):
        command()


def below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_of_a_home_that_was_not_there_nothing_is_left(tmp_path: Path) -> None:
    refused(tmp_path / "a" / "home")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "home").mkdir()
    refused(tmp_path / "home")
    assert list(tmp_path.rglob("*")) == [tmp_path / "home"]


@pytest.mark.parametrize("there", [False, True])
def test_what_was_prepared_stays(tmp_path: Path, there: bool) -> None:
    """As another process may read it, and the next command does; locks beside it do not."""
    if there:
        files.write_atomic(tmp_path / "single" / "run" / "record.json", "{}")
    refused(tmp_path, entry="corpora/one")
    assert ".cache/corpora/one/text" in below(tmp_path)
    assert ".launch.lock" not in below(tmp_path)


def test_what_another_process_makes_stays(tmp_path: Path) -> None:
    """Its place in the cache is empty until it has made it."""
    for home in (tmp_path / "new", tmp_path / "old"):
        with contextlib.ExitStack() as other:
            if home.name == "old":
                build_once(
                    home / ".cache" / "corpora" / "old", lambda folder: files.write_atomic(folder / "t", "t")
                )

            def begin(home: Path = home, other: contextlib.ExitStack = other) -> None:
                other.enter_context(files.locked(home / ".cache" / "autoencoders" / ".key.lock"))
                (home / ".cache" / "autoencoders" / ".key.12345678").mkdir(parents=True)

            refused(home, meanwhile=begin)
            assert (home / ".cache" / "autoencoders" / ".key.12345678").is_dir()
            assert (home / ".cache" / "autoencoders" / ".key.lock").exists()


def test_what_lies_in_a_folder_that_is_no_home_stays(tmp_path: Path) -> None:
    def begin() -> None:
        files.write_atomic(tmp_path / ".other.lock", "")
        (tmp_path / ".cache" / "other program").mkdir(parents=True)

    (tmp_path / ".cache").mkdir()
    refused(tmp_path, meanwhile=begin)
    assert (tmp_path / ".other.lock").exists()
    assert (tmp_path / ".cache" / "other program").exists()


@pytest.mark.parametrize("name", ["x" * 300, "x" * 100 + "/" + "y" * 300])
def test_a_home_that_cannot_be_is_one_message(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="cannot write into"), home_unless_refused(tmp_path / name):
        pass


def test_only_a_refusal_removes_anything(tmp_path: Path) -> None:
    refused(tmp_path / "home", error=KeyError)
    assert (tmp_path / "home" / ".launch.lock").exists()
    assert not issubclass(KeyError, UserError)


def test_a_lock_that_is_held_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with files.locked(path):
        assert not files.remove_lock(path)
    assert files.remove_lock(path)
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), [("a?b", "'?'"), ("a%20b", "'%20'")])
def test_a_path_that_no_databases_address_can_hold_is_refused(tmp_path: Path, name: str, said: str) -> None:
    """The studies of such a home went to a database beside it."""
    with pytest.raises(OutputError, match=re.escape(f"has {said} in its path")):
        open_home(tmp_path / name / "runs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name / "runs").mkdir(parents=True)
    for command in (["report"], ["study", "list"], ["models"], ["compare", "a", "b"], ["sync"], ["doctor"]):
        ended = CliRunner().invoke(app, [*command, "--home", str(tmp_path / name / "runs")])
        assert isinstance(ended.exception, OutputError), command
        assert "move it, or choose another folder" in str(ended.exception)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a%b", "a#b", "a;b&c@d:e", "a b", "é [+]="])
def test_other_paths_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    home = open_home(tmp_path / name)
    optuna.create_study(storage=home.optuna_url)
    assert [path.name for path in home.root.iterdir()] == ["optuna.db"]


def test_a_link_in_a_circle_and_what_is_no_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for root, said in (("a", "cannot write into"), ("a/c", "cannot write into"), ("c\0d", "names no folder")):
        with pytest.raises(OutputError, match=said):
            open_home(tmp_path / root)
    for command in (["study", "list"], ["train", "small-calm"], ["report", "x"], ["models"], ["ui"]):
        ended = CliRunner().invoke(app, [*command, "--home", str(tmp_path / "a")])
        assert (ended.exit_code, ended.exception.__class__) == (2, SystemExit)
        assert "is a link that leads in a circle" in " ".join(ended.output.replace("│", " ").split())
