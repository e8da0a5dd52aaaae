"""What ``calm register`` says; the registry itself is in tests/integration/test_registry.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.suites.command_line import Command
from tests.suites.run_folders import make_run_folder
from workbench import tracking_registry
from workbench.tracking_registry import Registered


@pytest.mark.parametrize("before", ["1", None])
def test_an_alias_that_moves_says_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], before: str | None
) -> None:
    make_run_folder(tmp_path / "runs" / "single" / "mine")
    made = Registered("calm-text", "2", "abc", ("champion",), "K = 4", True, before)
    monkeypatch.setattr(tracking_registry, "register", lambda *_, **__: made)
    calm = Command(tmp_path, monkeypatch, capsys)
    done = calm("register", "mine", "--alias", "champion")
    assert (done.code, done.err) == (0, "")
    assert "mine registered as calm-text version 2 (champion)\n" in done.out
    assert ("champion was version 1\n" in done.out) == (before is not None)
    assert json.loads(calm("register", "mine", "--alias", "champion", "--json").out)["alias_was"] == before
