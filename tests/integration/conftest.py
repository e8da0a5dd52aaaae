"""Shared by the tests of whole runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.suites import postgres, warm
from tests.suites.doc_pages import PACKAGES, ROOT
from tests.suites.tiny_runs import tiny_config
from workbench.runner import execute

_databases = count()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text, the caches, and a run that nothing disturbed: ``runs/whole``."""
    folder = tmp_path_factory.mktemp("whole")
    config, home = tiny_config(folder)
    execute(config, home.root / "whole", home=home)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """Not below pytest's own folder, which other users cannot enter."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = postgres.Server.create(Path(folder) / "cluster")
        made.start()
        yield made
        made.stop()


@pytest.fixture
def url(server: postgres.Server) -> str:
    """Of a new database."""
    return server.new_database(f"calm{next(_databases)}")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[warm.Checkout]:
    """A copy of the packages, to which pages of the documentation may add files, and ``calm`` that runs it."""
    folder = tmp_path_factory.mktemp("warm")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / "code" / package)
    with warm.started(folder, folder / "code") as variables:
        yield warm.Checkout(folder / "code", variables)
