"""Where things lie: one folder (``--home``, default ``runs``) holds runs, caches and databases."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import OutputError, UserError
from workbench.files import remove_lock, writable_folder

_SPOILS_ADDRESSES = re.compile(r"\?|%[0-9a-fA-F]{2}")
"""SQLAlchemy takes the first for the end of the path and the second for another character (seen with 2.1)."""


@dataclass(frozen=True)
class Home:
    """Paths below one folder; nothing is created until it is needed."""

    root: Path

    @property
    def cache(self) -> Path:
        """Prepared corpora, trained autoencoders, probe results: safe to delete."""
        return self.root / ".cache"

    @property
    def mlflow_database(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.mlflow_database}"

    @property
    def artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def optuna_url(self) -> str:
        return f"sqlite:///{self.root / 'optuna.db'}"

    def study(self, name: str) -> Path:
        """Folder of a launched study: study.json (frozen specification) and one folder a run."""
        return self.root / name

    def single_runs(self) -> Path:
        """Folder of runs outside studies."""
        return self.root / "single"

    def named(self, name: str) -> str:
        """A study or launch as a command that is typed here has to name it: ``joint-quick --home /data/runs``; the
        name alone where the command looks in this home by itself."""
        usual = Path(os.environ.get("CALM_HOME") or "runs")
        words = [name] if usual.resolve() == self.root.resolve() else [name, "--home", str(self.root)]
        return shlex.join(words)


def open_home(root: Path | str) -> Home:
    """Raises OutputError where the folder cannot be written, or no address of a database can name it."""
    home_as_it_is(root)
    return Home(writable_folder(root).resolve())


def home_as_it_is(root: Path | str) -> Home:
    """Nothing is made. Raises OutputError where no address of a database can name it."""
    try:
        place = os.path.realpath(root)  # of links in a circle, too
    except ValueError as error:
        raise OutputError(f"{str(root)!r} names no folder ({error}); choose another") from None
    spoilt = _SPOILS_ADDRESSES.search(place)
    if spoilt is not None:
        raise OutputError(
            f"the home {place} has {spoilt[0]!r} in its path, which means something else in the address of a "
            "database; move it, or choose another folder"
        )
    return Home(Path(place))


@contextlib.contextmanager
def home_unless_refused(root: Path | str) -> Iterator[Home]:
    """``open_home`` for a command that may be refused. Then the locks that it made are removed again, and what it
    made of a home and a cache in which nothing lies; nothing that another process uses, and nothing that was
    prepared: it serves the next command.

    Raises OutputError where the folder cannot be written."""
    path = Path(root).absolute()
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    before, cache = set(_locks(path)), Home(path).cache
    had_cache = os.path.lexists(cache)
    try:
        yield open_home(path)
    except UserError:
        for lock in _locks(path):
            if lock not in before:
                remove_lock(lock)
        if not had_cache:
            _remove_unused(cache)
        for folder in missing:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def _locks(root: Path) -> list[Path]:
    """Of a home, without those in its folders."""
    with contextlib.suppress(OSError):
        return [path for path in root.glob(".*.lock") if path.name.startswith((".launch", ".optuna", ".mlflow"))]
    return []


def _remove_unused(cache: Path) -> None:
    """Where nothing but locks was left in it. Who prepares something holds one."""
    folders = [(Path(folder), names) for folder, _, names in os.walk(cache, topdown=False)]
    files = [folder / name for folder, names in folders for name in names]
    if all(file.suffix == ".lock" for file in files) and all(remove_lock(file) for file in files):
        for folder, _ in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
