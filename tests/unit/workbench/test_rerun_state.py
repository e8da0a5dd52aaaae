"""What is the same is called the same; what differs, or is not known, is never."""

from __future__ import annotations

from typing import Any

import pytest

from workbench import code_state
from workbench.config import RunConfig
from workbench.rerun_state import MOST_FILES, Side, State, compare_state, diff_stat

CODE = {"git_commit": "a" * 40, "git_diff_hash": "", "code_hash": "1" * 16, "code_version": "0.1.0"}
MACHINE = {"python": "3.11", "cpu": "a processor", "platform": "Linux", "threads": 1, "dtype": "float32"}
ENVIRONMENT = {**CODE, **MACHINE, "device": "cpu", "versions": {"torch": "2.13", "numpy": "2.4", "scipy": "1.17"}}


def compare(then: dict[str, Any], now: dict[str, Any], **sides: Any) -> State:
    config = RunConfig()
    before = Side(config, {**ENVIRONMENT, **then}, "d", "f", sides.get("kept", ""))
    return compare_state(before, Side(config, {**ENVIRONMENT, **now}, "d", "f", sides.get("present", "")))


def test_everything_the_same() -> None:
    state = compare({}, {})
    assert all(point.same for point in state.points)
    assert state.details == []


@pytest.mark.parametrize("name", ["python", "cpu", "platform", "threads", "dtype", "device", "code_version"])
def test_one_thing_that_differs(name: str) -> None:
    state = compare({}, {name: "other"})
    assert [point.name for point in state.points if not point.same] == [name.replace("_", " ")]
    assert compare({name: None}, {}).same(name.replace("_", " ")) is None


def test_packages_that_differ_are_named() -> None:
    state = compare({}, {"versions": {"torch": "2.14", "numpy": "2.4", "scipy": "1.18", "mlflow": "3"}})
    said = {point.name: point.same for point in state.points}
    assert (said["torch"], said["numpy"], said["scipy"], said["mlflow"]) == (False, True, False, None)
    assert "other packages" not in said


OLD = {"code_hash": None}
"""A run of a version that recorded commit and hash of the difference only."""


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ({}, {"code_hash": "2" * 16}, False),
        ({}, {"git_commit": "b" * 40}, True),  # only what is not the package's was committed
        ({}, {"git_diff_hash": "c" * 16}, True),
        (OLD, {}, True),
        (OLD, {"git_diff_hash": "c" * 16}, False),
        ({**OLD, "git_diff_hash": "c" * 16}, {"git_diff_hash": "c" * 16}, True),
        ({**OLD, "git_diff_hash": code_state.UNKNOWN}, {"git_diff_hash": code_state.UNKNOWN}, None),
        ({**OLD, "git_commit": ""}, {}, None),
        ({**OLD, "git_commit": ""}, {"git_commit": ""}, None),
        ({"earlier": [{"code_hash": "9" * 16, "git_commit": "e" * 40}]}, {}, False),
        ({"earlier": [{"code_hash": "1" * 16, "cpu": "another"}]}, {}, True),
    ],
)
def test_the_code(then: dict[str, Any], now: dict[str, Any], same: bool | None) -> None:
    assert compare(then, now).same("code") is same


@pytest.mark.parametrize(("sources", "same"), [(True, True), (False, False), (None, None)])
def test_of_two_commits_the_sources_are_compared(
    monkeypatch: pytest.MonkeyPatch, sources: bool | None, same: bool | None
) -> None:
    monkeypatch.setattr(code_state, "same_sources", lambda first, last: sources)
    assert compare(OLD, {"git_commit": "b" * 40}).same("code") is same
    assert compare(OLD, {"git_commit": "b" * 40, "git_diff_hash": "c"}).same("code") is False


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((1, 0), "the code is now 1 commit later (git log --oneline aaaaaaaaaaaa..bbbbbbbbbbbb)"),
        ((12, 3), "the code is now 12 commits later and without 3 commits of then (git log"),
        (None, "this checkout does not know the commit aaaaaaaaaaaa"),
    ],
)
def test_commits_are_counted(monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int] | None, words: str) -> None:
    monkeypatch.setattr(code_state, "commits_between", lambda first, last: counts)
    (line,) = compare({}, {"git_commit": "b" * 40}).details
    assert line.startswith(words)


def difference(name: str, *lines: str) -> str:
    body = "\n".join(lines)
    return f"diff --git a/{name} b/{name}\nindex 1..2 100644\n--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n{body}\n"


def test_uncommitted_changes_file_by_file() -> None:
    then = difference("same.py", "+x") + difference("gone.py", "-a", "-b", "+c") + "# untracked new.py 12ab\n"
    now = difference("same.py", "+x").replace("index 1..2", "index 3..4") + "# untracked new.py 34cd\n"
    now += difference("more ü.py", "+d")
    assert diff_stat(then, now) == [
        "uncommitted: gone.py: +1 −2 then, unchanged now",
        "uncommitted: more ü.py: unchanged then, +1 −0 now",
        "uncommitted: new.py: untracked (12ab) then, untracked (34cd) now",
    ]
    assert diff_stat(then, then) == []
    many = "".join(difference(f"{number:02}.py", "+x") for number in range(MOST_FILES + 5))
    assert len(diff_stat(many, "")) == MOST_FILES + 1
    assert diff_stat(many, "")[-1] == "uncommitted: 5 more files"


def test_changes_that_nobody_knows_are_said_to_be_so() -> None:
    changed = {"git_diff_hash": "c" * 16}
    assert compare(changed, {}, kept=None).details == [
        "uncommitted: what was changed then is not known, or was not kept"
    ]
    assert compare({}, {"git_diff_hash": code_state.UNKNOWN}, present=None).details == [
        "uncommitted: what was changed now is not known, or was not kept"
    ]
    assert compare({}, {"git_diff_hash": code_state.UNKNOWN}).same("uncommitted changes") is None
