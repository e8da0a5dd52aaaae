"""``calm doctor``: the tracking server or database, and its clock. Imports neither MLflow nor torch."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from workbench.checks import Check
from workbench.home import Home
from workbench.room import bytes_words
from workbench.tracking_database import reach
from workbench.tracking_schema import without_password

ANSWER_SECONDS = 3.0
SLOW_ANSWER = 0.5
SKEW_SECONDS = 5.0
"""Difference of two clocks from which times and heartbeats mislead."""
TABLE = "SELECT count(*) FROM alembic_version"


def tracking_checks(uri: str | None, home: Home) -> Iterator[Check]:
    """Of ``uri``, or of the home's own database."""
    uri = home.mlflow_uri if uri is None else uri
    if uri == "none":
        yield Check("tracking", "server", "ok", "none: runs are kept in their folders alone")
        return
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite":
        yield from _file(Path(uri.removeprefix("sqlite:///")))
    elif scheme in ("http", "https"):
        yield from _web_server(uri)
    else:
        yield _other(uri)


def _file(path: Path) -> Iterator[Check]:
    if not path.exists():
        yield Check("tracking", "database", "ok", f"{path} is made with the first run")
        return
    size = bytes_words(path.stat().st_size)
    try:
        start = time.perf_counter()
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute(TABLE).fetchone()
            seconds = time.perf_counter() - start
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if said != "ok":
            raise sqlite3.DatabaseError(said)
    except sqlite3.Error as error:
        advice = "move the file away; calm sync fills a new one from the run folders"
        yield Check("tracking", "database", "failed", f"{path} is broken: {error}", advice)
        return
    yield Check("tracking", "database", "ok", f"{path}, {size}, whole; answers in {1e3 * seconds:.0f} ms")


def _web_server(uri: str) -> Iterator[Check]:
    shown = without_password(uri)
    parts = urlsplit(uri)
    base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    start = time.perf_counter()
    try:
        reach(uri, ANSWER_SECONDS)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "reason", None) or error
        advice = "start it, or correct --tracking-uri; runs go on without it and calm sync delivers them later"
        yield Check("tracking", "server", "failed", f"{shown} does not answer: {reason}", advice)
        return
    seconds = time.perf_counter() - start
    slow = seconds > SLOW_ANSWER
    advice = "runs wait for it at every delivery; a study's launcher does not" if slow else ""
    found = f"{shown} answers in {1e3 * seconds:.0f} ms"
    yield Check("tracking", "server", "warning" if slow else "ok", found, advice)
    yield from _version_and_clock(base)


def _version_and_clock(base: str) -> Iterator[Check]:
    here = version("mlflow")
    try:
        before = time.time()
        with urllib.request.urlopen(f"{base}/version", timeout=ANSWER_SECONDS) as answer:
            there, date = answer.read(100).decode("utf-8", "replace").strip().strip('"'), answer.headers["Date"]
        now = (before + time.time()) / 2
    except (OSError, ValueError, urllib.error.URLError) as error:
        advice = f"see that it is an MLflow server (here: mlflow {here}) and that you may use it"
        yield Check("tracking", "server's version", "warning", f"it does not say: {error}", advice)
        return
    same = there.split(".")[0] == here.split(".")[0]
    advice = "" if same else "use the same major version on both sides"
    yield Check("tracking", "server's version", "ok" if same else "warning", f"{there[:40]}, here {here}", advice)
    if date:
        with contextlib.suppress(TypeError, ValueError):
            yield clock_check(now - parsedate_to_datetime(date).timestamp(), "tracking server", exact_to=1.0)


def clock_check(skew: float, whose: str, *, exact_to: float = 0.0) -> Check:
    """``skew``: seconds that this machine is ahead."""
    wrong = abs(skew) > SKEW_SECONDS + exact_to
    word = "ahead of" if skew > 0 else "behind"
    found = f"within {max(1.0, exact_to, abs(skew)):.0f} s of the {whose}'s"
    if wrong:
        found = f"{abs(skew):.0f} s {word} the {whose}'s"
    advice = "set the clocks by a time server (NTP): times of runs and of heartbeats are compared" if wrong else ""
    return Check("clock", f"against the {whose}", "warning" if wrong else "ok", found, advice)


def _other(uri: str) -> Check:
    start = time.perf_counter()
    try:
        reach(uri, ANSWER_SECONDS)
    except (OSError, ValueError, KeyError) as error:
        advice = "start it, or correct --tracking-uri"
        return Check("tracking", "database", "failed", f"{without_password(uri)} does not answer: {error}", advice)
    seconds = time.perf_counter() - start
    found = f"{without_password(uri)} accepts connections in {1e3 * seconds:.0f} ms"
    return Check("tracking", "database", "ok", found)
