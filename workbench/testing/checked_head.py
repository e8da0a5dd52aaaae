"""The tests that ``calm heads check`` runs in a process of its own, and the plugin by which pytest tells that
command what becomes of them (``workbench.head_check``)."""

from __future__ import annotations

import json
import os
from typing import IO, Any

import pytest

from workbench import own_heads
from workbench.errors import UserError
from workbench.testing import HeadSuite, OneModeSuite

LONGEST = 600
"""Of a reason, in characters."""


class TestHead(HeadSuite):
    """The head that is asked for, which is to learn any distribution."""


class TestOneModeHead(OneModeSuite):
    """The head that is asked for, which is to find conditional means."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--checked-head", type=json.loads, help="kind, fields, and attributes of its suite, as JSON")
    parser.addoption("--events-to", type=int, help="file descriptor of who listens")


def pytest_configure(config: pytest.Config) -> None:
    asked: dict[str, Any] = config.getoption("--checked-head")
    for suite in (TestHead, TestOneModeHead):
        for name, value in asked.items():
            setattr(suite, name, value)
    told = os.fdopen(config.getoption("--events-to"), "w", encoding="utf-8")
    os.set_inheritable(told.fileno(), False)  # what a head starts need not keep it open
    config.pluginmanager.register(Events(told, asked["kind"]))


class Events:
    """Lines of JSON: the names of all tests; each one's beginning; each one's end."""

    def __init__(self, told: IO[str], kind: str) -> None:
        self._told, self._kind = told, kind
        self._seconds: float = 0.0
        self._reasons: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._tell(names=[item.name for item in session.items])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._seconds, self._reasons = 0.0, []
        self._tell(begins=nodeid.rpartition("::")[2])

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Setup, the test itself, teardown."""
        self._seconds += call.duration
        if call.excinfo is not None:
            self._reasons.append(reason(call.excinfo.value, self._kind))
        if call.when == "teardown":
            self._tell(ends=item.name, seconds=self._seconds, reasons=self._reasons)

    def _tell(self, **event: Any) -> None:
        print(json.dumps(event), file=self._told, flush=True)


def reason(error: BaseException, kind: str) -> str:
    """In one line: what the suite asserts, or where the head's code fails."""
    said = str(error) if isinstance(error, UserError) else own_heads.failure_in_words(error, kind)
    said = said.removeprefix("AssertionError: ").strip()
    return said.partition("\n")[0][:LONGEST] or type(error).__name__
