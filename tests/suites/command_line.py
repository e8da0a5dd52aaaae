"""``calm`` run in the test's process."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """What was printed, without the frames of tables and without line breaks, which hang on other words."""
        return " ".join(re.sub("[─-╿]", " ", self.out).split())


class Command:
    """Runs ``calm`` in this process, as its entry point does; ``folder / "runs"`` is its home."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys

    def __call__(self, *arguments: str | Path) -> Done:
        from workbench.cli import main

        self.monkeypatch.setattr(sys, "argv", ["calm", *map(str, arguments)])
        self.monkeypatch.setenv("CALM_HOME", str(self.folder / "runs"))
        self.monkeypatch.setenv("COLUMNS", "200")
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        captured = self.capsys.readouterr()
        return Done(int(code or 0), captured.out, captured.err)


def write_config(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
