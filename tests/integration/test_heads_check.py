"""``calm heads check`` in earnest, in a project whose own pytest is set to hinder it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.suites.doc_pages import ROOT
from tests.suites.own_head import EXAMPLE, KIND
from workbench import own_heads

NOISE = "less noise less spread and none none"
TRAINED = "a short training reaches both modes their weights and spreads"


@pytest.mark.slow
def test_a_broken_head_is_told_from_a_right_one_whatever_the_projects_pytest_is(tmp_path: Path) -> None:
    """Its draws ignore ``noise_scale``, and its spreads are less than half; the rest is right."""
    draw = "noise_scale * std[at, chosen] * noise"
    source = EXAMPLE.read_text(encoding="utf-8")
    assert draw in source
    (tmp_path / "mine.py").write_text(source.replace(draw, "0.4 * std[at, chosen] * noise"), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\npython_classes = None\n")
    (tmp_path / "conftest.py").write_text("raise SystemExit('conftest.py was read')\n")
    (tmp_path / "pytest.py").write_text("raise SystemExit('another pytest')\n")
    hindered = {"PYTEST_ADDOPTS": "--collect-only", "PYTEST_PLUGINS": "nonesuch", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "workbench.cli", "heads", "check", KIND, "--steps", "150", "--json"],
        env={**os.environ, **hindered, own_heads.VARIABLE: "mine.py"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert [each["outcome"] for each in checks].count("passed") == 14
    failed = {each["name"]: each["reason"] for each in checks if each["outcome"] == "failed"}
    assert failed.keys() == {NOISE, TRAINED}
    assert failed[NOISE].startswith("with noise_scale=0.1 draws spread ")
    assert "the spread of the upper mode is " in failed[TRAINED]
    assert not list(tmp_path.rglob("__pycache__")), "nothing is left in the project"
