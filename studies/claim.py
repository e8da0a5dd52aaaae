"""One process at a time decides what a study does next, whichever host and home folder it works in.

Under PostgreSQL the database itself holds the lock, and lets go when the connection ends, however it ends. An
SQLite file has a lock file beside it, which the operating system lets go.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import filelock
import sqlalchemy

from studies.database import PATIENCE_SECONDS, patiently
from studies.hanging import bounded, connect_arguments
from workbench.errors import OutputError

POLL_SECONDS = 0.1
TELL_SECONDS = 60.0
"""After so long a wait the log says what is waited for."""

log = logging.getLogger("studies.claim")


class _Lock(Protocol):
    def attempt(self) -> bool:
        """Take it if it is free."""

    def release(self) -> None: ...

    def forget(self) -> None:
        """Leave nothing of one that was made for what does not come to be. Only while it is held."""


class Claim:
    """A lock for ``with``; ``release`` lets go earlier. Not for two threads at once."""

    def __init__(self, lock: _Lock) -> None:
        self._lock = lock
        self._held = False

    def forget(self) -> None:
        """Release it, leaving nothing behind: there will be no launch of that name."""
        if self._held:
            self._lock.forget()
            self.release()

    def __enter__(self) -> Self:
        began, told = time.monotonic(), False
        while not self._lock.attempt():
            if not told and time.monotonic() - began > TELL_SECONDS:
                log.warning(
                    "another worker has been deciding for %g s what comes next; waiting for it", TELL_SECONDS
                )
                told = True
            time.sleep(POLL_SECONDS)
        self._held = True
        return self

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[bool]:
        """For ``with``: whether it could be had within so long."""
        end = time.monotonic() + seconds
        while not (taken := self._lock.attempt()) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        self._held = taken
        try:
            yield taken
        finally:
            self.release()

    def release(self) -> None:
        if self._held:
            self._held = False
            self._lock.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def claim(url: str, name: str) -> Claim:
    """The lock of the launch ``name`` in the database at ``url``."""
    parsed = sqlalchemy.make_url(url)
    backend = parsed.get_backend_name()
    number = int.from_bytes(hashlib.sha256(f"calm {name}".encode()).digest()[:7], "big")
    if backend == "postgresql":
        return Claim(_InPostgres(parsed, number))
    if backend == "mysql":
        return Claim(_InMysql(parsed, number))
    assert parsed.database is not None
    path = Path(parsed.database)
    return Claim(_BesideFile(path.with_name(f".{path.name}.{number:014x}.lock")))


class _BesideFile:
    def __init__(self, path: Path) -> None:
        self._lock = filelock.FileLock(str(path))
        self._path = path
        self._is_new = not path.exists()

    def attempt(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        except OSError as error:
            raise OutputError(f"cannot lock {self._path}: {error.strerror or error}") from None
        return True

    def release(self) -> None:
        self._lock.release(force=True)

    def forget(self) -> None:
        if self._is_new:
            self._path.unlink(missing_ok=True)


class _InDatabase:
    """A lock that belongs to a connection, which is kept for it."""

    take: str
    give: str

    def __init__(self, url: sqlalchemy.URL, number: int) -> None:
        self._engine = sqlalchemy.create_engine(
            url,
            poolclass=sqlalchemy.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args=connect_arguments(url),
        )
        self._number = number
        self._connection: sqlalchemy.Connection | None = None

    def attempt(self) -> bool:
        return patiently(self._attempt, served=True)

    def _attempt(self) -> bool:
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            taken = self._connection.execute(sqlalchemy.text(self.take), {"number": self._number}).scalar()
        except sqlalchemy.exc.SQLAlchemyError:
            self._close()
            raise
        return bool(taken)

    def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return

        def give() -> None:
            with contextlib.closing(connection):
                connection.execute(sqlalchemy.text(self.give), {"number": self._number})

        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # a lost connection has let go already
            bounded(give, PATIENCE_SECONDS)

    def forget(self) -> None:
        """The database keeps none."""

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.close()


class _InPostgres(_InDatabase):
    take = "SELECT pg_try_advisory_lock(:number)"
    give = "SELECT pg_advisory_unlock(:number)"


class _InMysql(_InDatabase):
    take = "SELECT GET_LOCK(CONCAT('calm-', :number), 0)"
    give = "SELECT RELEASE_LOCK(CONCAT('calm-', :number))"
