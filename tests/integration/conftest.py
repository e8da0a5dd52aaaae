"""Shared by the tests of whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suites.tiny_runs import tiny_config
from workbench.runner import execute


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text, the caches, and a run that nothing disturbed: ``runs/whole``."""
    folder = tmp_path_factory.mktemp("whole")
    config, home = tiny_config(folder)
    execute(config, home.root / "whole", home=home)
    return folder
