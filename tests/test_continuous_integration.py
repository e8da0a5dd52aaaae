"""``.ci/run`` with stand-ins for what it calls: without PostgreSQL tests that need it fail, none is left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAND_INS = {
    "id": "echo $CALM_TEST_USER",
    "ls": "exit 2",  # no folder of PostgreSQL
    "apt-get": 'echo "apt-get $*" >> "$CALM_TEST_CALLS"; exit 100',
    "make": 'echo "make $* required=$CALM_REQUIRE_POSTGRES" >> "$CALM_TEST_CALLS"',
}


@pytest.mark.parametrize("user", ["0", "1000"])
def test_what_needs_postgres_is_required(tmp_path: Path, user: str) -> None:
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    for name, where in {
        **{n: shutil.which(n) for n in ("bash", "sh", "dirname")},
        "python3": sys.executable,
    }.items():
        assert where is not None
        (tools / name).symlink_to(where)
    known = {"PATH": str(tools), "CALM_TEST_USER": user, "CALM_TEST_CALLS": str(calls)}
    done = subprocess.run([ROOT / ".ci" / "run"], env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tried = calls.read_text().splitlines()
    assert tried[-1] == "make test required=1"
    assert [line.split()[:2] for line in tried[:-1]] == ([["apt-get", "update"]] if user == "0" else [])
    assert ("could not install" in done.stderr and "postgresql" in done.stderr) == (user == "0")


def test_the_absence_is_a_failure_that_says_what_to_do() -> None:
    """In a process of its own: whether the tests are left out is decided when they are collected."""
    code = (
        "from tests.suites import postgres\n"
        "from pathlib import Path\n"
        "assert postgres.NEEDED.args == (False,)\n"
        "postgres.programs = lambda: None\n"
        "postgres.Server.create(Path('cluster'))\n"
    )
    known = {**os.environ, "CALM_REQUIRE_POSTGRES": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "PostgreSQL is not installed; apt install postgresql" in done.stderr
