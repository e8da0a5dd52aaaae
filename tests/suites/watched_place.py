"""``calm`` in this process on bad input: any end but a clear message is a problem, and so is a file outside.

``Place`` nests the home deep in a folder of its own; everything there but ``home``, ``reports`` and ``inputs`` is
watched.
"""

from __future__ import annotations

import contextlib
import html.parser
import io
import os
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 60
"""A command that takes longer hangs."""
ELEMENTS = {"script", "img", "iframe", "object", "embed", "base", "form", "link", "foreignobject", "animate"}
"""Elements that only we may write, if anyone."""


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``problem``: why that is not an answer to bad input; None where it is."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str
    problem: str | None


class Hangs(BaseException):
    """Raised in a command that takes longer than ``SECONDS``."""


class Place:
    """``inputs`` for what is given, ``home`` and ``reports`` for what is written; commands run in ``here``."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        inner = self.root / "a" / "b" / "c"
        self.home, self.reports, self.inputs, self.here = (
            inner / name for name in ("home", "reports", "inputs", "here")
        )
        for folder in (self.home, self.inputs, self.here):
            folder.mkdir(parents=True, exist_ok=True)
        self._before = self._tree()
        self._num_files = 0

    def path(self, suffix: str = "") -> Path:
        """A name below ``inputs`` that is free; older ones go, so that no input meets another."""
        shutil.rmtree(self.inputs, ignore_errors=True)
        self.inputs.mkdir()
        self._num_files += 1
        return self.inputs / f"input{self._num_files}{suffix}"

    def write(self, content: bytes, suffix: str = "") -> Path:
        path = self.path(suffix)
        path.write_bytes(content)
        return path

    def strays(self) -> list[str]:
        """Files and folders outside the allowed ones that were not there before; each is told once."""
        now = self._tree()
        found = sorted(now - self._before)
        self._before = now
        return found

    def _tree(self) -> set[str]:
        found = set()
        allowed = {self.home, self.reports, self.inputs}
        for folder, subfolders, files in os.walk(self.root):
            subfolders[:] = [name for name in subfolders if Path(folder, name) not in allowed]
            found |= {os.path.join(folder, name) for name in [*subfolders, *files]}
        return found

    def calm(self, *arguments: str | Path) -> Ended:
        """As the entry point does, with ``--home`` from the environment."""
        from workbench.cli import main

        given = tuple(map(str, arguments))
        code, problem = 0, None
        with self._as_command(given) as (out, err), _limited():
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except Hangs:
                problem = f"takes more than {SECONDS} s"
            except BaseException:
                problem = traceback.format_exc()
        shown, said = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err))
        if problem is None and code not in (0, 1, 2):
            problem = f"exit code {code}"
        if problem is None and code and not (said + shown).strip():
            problem = f"exit code {code} without a word"
        if problem is None and "Traceback (most recent call last)" in said + shown:
            problem = f"a traceback is shown:\n{said}{shown}"
        return Ended(given, code, shown, said, problem)

    @contextlib.contextmanager
    def _as_command(self, arguments: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
        before = sys.argv, os.getcwd(), os.environ.get("CALM_HOME"), os.environ.get("COLUMNS")
        sys.argv = ["calm", *arguments]
        os.chdir(self.here)
        os.environ["CALM_HOME"], os.environ["COLUMNS"] = str(self.home), "200"
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
                yield out, err
        finally:
            sys.argv = before[0]
            os.chdir(before[1])
            for name, value in zip(("CALM_HOME", "COLUMNS"), before[2:], strict=True):
                os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def hangs(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _Page(html.parser.HTMLParser):
    """Collects what a browser would run or load."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._script: list[str] | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self._script = []
        elif tag in ELEMENTS and attributes != [("rel", "icon"), ("href", "data:,")]:
            self.found.append(f"<{tag} {attributes}>")
        for name, value in attributes:
            scheme = "".join((value or "").split()).lower()
            if name.startswith("on") or (
                name in ("href", "src", "xlink:href") and scheme.startswith("javascript:")
            ):
                self.found.append(f"<{tag} {name}={value!r}>")

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self._script.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._script is not None:
            self.found.append("script: " + "".join(self._script))
            self._script = None


def foreign_elements(page: str) -> list[str]:
    """Elements and attributes of a report's page that did not come from our templates."""
    from analysis.page import _script  # what every page of ours holds

    parser = _Page()
    parser.feed(page)
    parser.close()
    return [found for found in parser.found if found != f"script: {_script()}"]
