"""Somebody who does what the pages of docs/ and README say, in one folder, from the top of a page to its end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.suites import doc_runs
from tests.suites.doc_pages import Block, Inline, Told, blocks, steps, told
from tests.suites.waiting import wait_for

EXPORTED = ".exported"
"""Variables that a command has exported, for those that follow."""
END_SECONDS = 60.0


@dataclass(frozen=True)
class Done:
    """What a command on a page printed."""

    page: str
    said: str


class Reader:
    """``variables``: the environment of commands; ``values``: what placeholders stand for, by page; ``begun``:
    launches that are interrupted after their first run."""

    def __init__(
        self,
        folder: Path,
        variables: Mapping[str, str],
        values: Mapping[str, dict[str, str]],
        begun: str | None = doc_runs.BEGUN,
    ) -> None:
        self.folder, self.variables, self.values, self.begun = folder, dict(variables), values, begun
        self.executed: set[str] = set()
        """As they stand on the pages."""
        self.listed: set[str] = set()
        """Those of ``NOT_RUN``."""
        self._done: dict[str, Done] = {}
        """What was printed, by what was executed: the same command on another page is not repeated."""
        self._serving: list[subprocess.Popen[str]] = []

    def read(self, path: Path) -> None:
        """Raises AssertionError where something fails, or does not print what the page shows."""
        names: dict[str, Any] = {"__name__": "__main__"}
        for block in blocks(path):
            if block.file is not None:
                (self.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / block.file).write_text(block.body, encoding="utf-8")
        try:
            for step in steps(path):
                if isinstance(step, Inline):
                    self.carry_out(Told(step.command), step, whole=False)
                elif step.is_shell:
                    for one in told(step):
                        self.carry_out(one, step)
                elif step.language == "python" and step.file is None:
                    self.python(step, names)
        finally:
            self.end_servers()

    def carry_out(self, one: Told, step: Block | Inline, *, whole: bool = True) -> None:
        """``whole``: as it stands; otherwise it may be no more than a command's name."""
        command = doc_runs.without_comment(one.command)
        if doc_runs.reason(command) is not None:
            self.listed.add(command)
            return
        self.executed.add(command)
        wanted = self._filled(command, step.page)
        if not whole:
            wanted = doc_runs.whole(wanted)
        begun = self.begun is not None and re.fullmatch(self.begun, command) is not None
        wanted = doc_runs.smaller(wanted, self.folder / "text.txt", begun=begun)
        ready = next((says for pattern, says in doc_runs.SERVERS.items() if re.fullmatch(pattern, command)), None)
        before = self._done.get(wanted)
        if before is not None and (before.page != step.page or isinstance(step, Inline)):
            said = before.said
        elif ready is not None and not wanted.endswith("--help"):
            said = self._serve(wanted, ready, step.where)
        elif begun:
            said = self._begin(wanted, step.where)
        else:
            said = self.run(wanted, step.where)
        self._done[wanted] = Done(step.page, said)
        require_shown(one, said, step.where)

    def run(self, command: str, where: str) -> str:
        """What it prints."""
        done = subprocess.run(
            ["bash", "-c", _remembering(command)],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, f"{where}: {command}: exit code {done.returncode}\n{said}"
        return done.stdout + done.stderr

    def python(self, block: Block, names: dict[str, Any]) -> None:
        """With the names of the page's earlier blocks."""
        source = self._filled(block.body, block.page)
        exec(compile("\n" * block.line + source, block.page, "exec"), names)

    def end_servers(self) -> None:
        while self._serving:
            end(self._serving.pop())

    def _serve(self, command: str, ready: str, where: str) -> str:
        process, output = self._start(command)
        self._serving.append(process)
        wait_for(lambda: _says(output, ready, process, where))
        return output.read_text()

    def _begin(self, command: str, where: str) -> str:
        process, output = self._start(command)
        try:
            wait_for(lambda: _says(output, r" complete", process, where))
        finally:
            end(process)
        said = output.read_text()
        assert process.returncode == 130, f"{where}: {command}: exit code {process.returncode}\n{said[-3000:]}"
        assert "continue with: calm study run" in said, f"{where}: {command}\n{said[-3000:]}"
        return said

    def _start(self, command: str) -> tuple[subprocess.Popen[str], Path]:
        output = self.folder / f".output-{time.monotonic_ns()}"
        with open(output, "w") as file:
            process = subprocess.Popen(
                ["bash", "-c", _remembering(command)],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return process, output

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables, "COLUMNS": "160", "FAKE_SECONDS": "0.3"}

    def _filled(self, text: str, page: str) -> str:
        return doc_runs.filled(text, {**self.values.get(page, {}), "/path/to": str(self.folder)})


def _remembering(command: str) -> str:
    return f"[ -e {EXPORTED} ] && . ./{EXPORTED}\n{command}\ncode=$?\nexport -p > {EXPORTED}\nexit $code"


def _says(output: Path, pattern: str, process: subprocess.Popen[str], where: str) -> bool:
    said = output.read_text(errors="replace")
    found = re.search(pattern, said) is not None
    assert found or process.poll() is None, f"{where}: it ended\n{said[-3000:]}"
    return found


def end(process: subprocess.Popen[str]) -> None:
    """As Ctrl-C does, and with force where that takes too long."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise AssertionError(f"{process.args} does not end") from None


def require_shown(one: Told, output: str, where: str) -> None:
    """What the page shows is what is printed, but for numbers, paths and what the small sizes change: every word
    of it of four letters or more."""
    missing = set(re.findall(r"[a-zA-Z]{4,}", "\n".join(one.shown))) - set(re.findall(r"[a-zA-Z]{4,}", output))
    assert not missing, f"{where}: {one.command} prints no {sorted(missing)}:\n{output[-3000:]}"
