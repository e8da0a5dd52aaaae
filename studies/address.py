"""The database of a launch: what study.json says of it, and where that is now.

Of the home's own database nothing is stored, so that it stays the same one when the home is moved or copied;
earlier versions read that alike. They stored its path, which may by now be nobody's, or that of the home from
which this one was copied.
"""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy

from studies import database
from workbench.errors import StudyError
from workbench.home import Home

KEY, ELSEWHERE = "storage", "storage_elsewhere"
"""In study.json: the address; and true where it was given, and is not a path of earlier versions."""
WAIT_SECONDS = 20.0
"""For another process that writes into the home's database."""


def to_stored(url: str, home: Home) -> str | None:
    """The address as study.json has it: None for the home's own database, others without their password."""
    return None if _file(url) == _own(home) else database.masked(url)


def address(asked: str | None, home: Home, stored: Mapping[str, Any] | None, name: str) -> str:
    """The database asked for, else the one that the launch ``name`` was started with, else the home's own.

    Raises StudyError for an address that is none, or whose password was not stored."""
    before = stored.get(KEY) if stored and asked is None else None
    if stored is None or not isinstance(before, str):
        return database.storage_url(asked, home)
    if not stored.get(ELSEWHERE) and _came_along(before, home, name):
        return home.optuna_url
    if "***" in before:
        raise StudyError(f"{name} was launched with --storage {before}; give it again, with its password")
    if "://" not in before:
        raise StudyError(
            f"{home.study(name)}/study.json names no database ({KEY}: {before!r}); bring it back from a copy, or "
            "give the --storage that the launch was started with"
        )
    return database.storage_url(before, home)


def is_of(url: str, home: Home, stored: Mapping[str, Any]) -> bool:
    """Whether ``url`` is the database that study.json names."""
    return KEY in stored and stored[KEY] in (to_stored(url, home), database.masked(url))


def _came_along(before: str, home: Home, name: str) -> bool:
    """Whether it is the path that the home's own database had, here or in the home that this is a copy of: named
    like a home's, and the one that lies here knows the launch. One here that cannot be read counts as well: what
    is wrong with it is said when it is opened, and nothing is done to the other."""
    file, own = _file(before), _own(home)
    if file is None or file.name != own.name or not own.exists():
        return False
    if file == own:
        return True
    try:
        return _knows(own, name)
    except sqlite3.Error as error:
        return "no such table" not in str(error)


def without_file(home: Home, name: str) -> str | None:
    """What to say of a launch that the home's own database knows and that has no study.json; None of others."""
    own = _own(home)
    try:
        if "/" in name or not own.exists() or not _knows(own, name):
            return None
    except (sqlite3.Error, UnicodeError):
        return None
    return (
        f"the database of {home.root} knows the launch {name}, and its folder {home.study(name)} has no "
        f"study.json; bring back a copy of it, or have it written anew with: calm study run {home.named(name)} "
        f"--storage {shlex.quote(home.optuna_url)}"
    )


def _knows(file: Path, name: str) -> bool:
    """Raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(file, timeout=WAIT_SECONDS)) as connection:
        asked = connection.execute("SELECT 1 FROM studies WHERE study_name = ?", (name,))
        return asked.fetchone() is not None


def _file(url: str) -> Path | None:
    """Of an SQLite address, however its folder is written; None for another's, or one that is none."""
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return _plain(Path(parsed.database))


def _own(home: Home) -> Path:
    return _plain(home.root / "optuna.db")


def _plain(path: Path) -> Path:
    path = path.absolute()
    return path.parent.resolve() / path.name
