"""``calm heads check``: the suite of heads (``workbench.testing``) against one head, in a process of its own. What
the head breaks there is not broken here, and nothing of a project's own pytest (its settings, plugins and
conftest.py) has a part in it. Imports neither torch nor pytest.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.errors import HeadError
from workbench.head_sections import HeadSection
from workbench.progress import Display

PLUGIN = "workbench.testing.checked_head"
TESTS = Path(__file__).parent / "testing" / "checked_head.py"
SUITES = {False: "TestHead", True: "TestOneModeHead"}
"""By whether one mode is enough."""
OUTPUT = "output"


@dataclass(frozen=True)
class Checked:
    """What became of one test."""

    name: str
    """In words."""
    outcome: Literal["passed", "failed", "not run"]
    seconds: float = 0.0
    reason: str = ""
    """Why it has not passed."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_head(head: HeadSection, *, one_mode: bool, steps: int | None, display: Display) -> list[Checked]:
    """Every test, in their order. ``head``: its section of a configuration, resolved; ``one_mode``: it can have
    one mode only; ``steps`` of the short training, where the suite's number is not enough.

    Raises HeadError where pytest is not here or does not begin."""
    if importlib.util.find_spec("pytest") is None:
        raise HeadError("calm heads check wants pytest, which is not installed: pip install 'pytest>=9.2'")
    fields = head.model_dump(mode="json")
    asked = {"kind": fields.pop("kind"), "fields": fields} | ({} if steps is None else {"steps": steps})
    followed = Followed(display)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read, write = os.pipe()
        with os.fdopen(read, encoding="utf-8") as events:
            words = ["--checked-head", json.dumps(asked), "--events-to", str(write)]
            process = _started([*_pytest(folder), *words, f"{TESTS}::{SUITES[one_mode]}"], folder, write)
            try:
                followed.follow(events)
            except BaseException:
                process.kill()
                raise
            finally:
                code = process.wait()
        return followed.outcome(code, (folder / OUTPUT).read_text(encoding="utf-8", errors="replace"))


def _started(command: list[str], folder: Path, write: int) -> subprocess.Popen[bytes]:
    """With the end ``write`` of a pipe, which is left to it alone, so that the pipe ends with it."""
    try:
        with open(folder / OUTPUT, "wb") as output:
            return subprocess.Popen(
                command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(write,),
            )
    finally:
        os.close(write)


def _pytest(folder: Path) -> list[str]:
    """With an empty file of settings, so that it looks for no other, and without conftest.py and cache."""
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-c", str(folder / "pytest.ini"), "--noconftest"]
    return [*command, "--rootdir", str(folder), "-p", "no:cacheprovider", "-p", PLUGIN]


def _environment() -> dict[str, str]:
    """This process's, with its path for imports, and without what changes pytest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    return {**kept, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


class Followed:
    """What pytest tells, line by line (``workbench.testing.checked_head``)."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._names: list[str] = []
        self._ended: dict[str, Checked] = {}
        self._running: str | None = None

    def follow(self, lines: Iterable[str]) -> None:
        """Until there are no more."""
        for line in lines:
            self._take(json.loads(line))

    def _take(self, event: Mapping[str, Any]) -> None:
        if "names" in event:
            self._names = event["names"]
            self._display.stage("checks", len(self._names))
        elif "begins" in event:
            self._running = event["begins"]
        else:
            name, reasons = event["ends"], event["reasons"]
            outcome: Literal["passed", "failed"] = "failed" if reasons else "passed"
            self._ended[name] = Checked(in_words(name), outcome, event["seconds"], "; ".join(reasons))
            self._running = None
            self._display.advance(len(self._ended))

    def outcome(self, code: int, output: str) -> list[Checked]:
        """Of all tests, after the process has ended with that code and printed that.

        Raises HeadError where it has named none."""
        if not self._names:
            said = output.strip()[-2000:] or "it said nothing"
            raise HeadError(f"pytest did not begin the checks ({_ending(code)}): {said}")
        return [self._ended.get(name) or self._missing(name, code) for name in self._names]

    def _missing(self, name: str, code: int) -> Checked:
        if name == self._running:
            return Checked(in_words(name), "failed", reason=f"the process ended during it ({_ending(code)})")
        return Checked(in_words(name), "not run", reason="the process ended before it")


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def in_words(name: str) -> str:
    """``test_a_thing[fast]`` to ``a thing (fast)``."""
    return name.removeprefix("test_").replace("_", " ").replace("[", " (").replace("]", ")")
