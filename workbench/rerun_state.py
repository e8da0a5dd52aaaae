"""What a run's result depends on, as it was then and as it is now: behind ``calm rerun``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench import code_state
from workbench.config import RunConfig

NONE = "none"
MOST_FILES = 12
"""Lines of a comparison of two uncommitted differences."""
ALWAYS_SHOWN = ("torch", "numpy")


@dataclass(frozen=True)
class Point:
    """One thing that a result depends on."""

    name: str
    then: str
    now: str
    same: bool | None
    """None where it is not known."""


@dataclass(frozen=True)
class State:
    """All of them, and what more there is to say of the code."""

    points: list[Point]
    details: list[str]
    """Commits between the two, and files whose uncommitted changes are not the same."""

    def same(self, name: str) -> bool | None:
        return next(point.same for point in self.points if point.name == name)


@dataclass(frozen=True)
class Side:
    """One of the two runs that are compared, or this process in place of the later one."""

    config: RunConfig
    environment: Mapping[str, Any]
    """As a record has it."""
    data_hash: str
    fingerprint: str
    uncommitted: str | None
    """Changes of the code (``code_state``); None where they are not known, or were not kept."""


def compare_state(before: Side, after: Side) -> State:
    """What is the same and what is not."""
    then, now = before.environment, after.environment
    points = [
        _point("configuration", before.config.hash(), after.config.hash()),
        _point("data", before.data_hash, after.data_hash),
        _point("scored positions", before.fingerprint, after.fingerprint),
        _code(then, now),
        *_own_head(then, now),
        _point("commit", _commit(then), _commit(now)),
        _uncommitted(then, now),
        *(_point(name.replace("_", " "), then.get(name), now.get(name)) for name in ("code_version", "python")),
        *_packages(then.get("versions") or {}, now.get("versions") or {}),
        *(
            _point(name, then.get(name), now.get(name))
            for name in ("cpu", "platform", "threads", "dtype", "device")
        ),
    ]
    details = [*_sessions(then), *_commits(then, now), *_changes(before, after)]
    return State(points, details)


def _point(name: str, then: Any, now: Any) -> Point:
    known = then not in (None, "") and now not in (None, "")
    return Point(name, _shown(then), _shown(now), then == now if known else None)


def _shown(value: Any) -> str:
    return "–" if value in (None, "") else str(value)


def _commit(environment: Mapping[str, Any]) -> str:
    return str(environment.get("git_commit") or "")[:12]


def _code(then: Mapping[str, Any], now: Mapping[str, Any]) -> Point:
    """Whether the package's sources are the same: by their hash, of runs that recorded none by commit and
    uncommitted changes."""
    if then.get("code_hash") and now.get("code_hash"):
        same: bool | None = then["code_hash"] == now["code_hash"]
    else:
        same = _same_by_commit(then, now)
    if _sessions(then):
        same = False
    return Point("code", _shown(then.get("code_hash")), _shown(now.get("code_hash")), same)


def _same_by_commit(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool | None:
    digests = [environment.get("git_diff_hash") for environment in (then, now)]
    commits = [str(environment.get("git_commit") or "") for environment in (then, now)]
    if None in digests or code_state.UNKNOWN in digests or not all(commits):
        return None
    if commits[0] != commits[1] and not any(digests):
        return code_state.same_sources(*commits)
    return commits[0] == commits[1] and digests[0] == digests[1]


def _own_head(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Point]:
    """Of a head from outside the package."""
    hashes = [str((environment.get("own_head") or {}).get("code_hash") or "") for environment in (then, now)]
    return [_point("own head", *hashes)] if any(hashes) else []


def _uncommitted(then: Mapping[str, Any], now: Mapping[str, Any]) -> Point:
    digests = [environment.get("git_diff_hash") for environment in (then, now)]
    # without a checkout there is nothing that could be uncommitted, and nothing to compare
    known = all(environment.get("git_commit") for environment in (then, now))
    known = known and not {None, code_state.UNKNOWN} & set(digests)
    shown = [NONE if digest == "" else _shown(digest) for digest in digests]
    return Point("uncommitted changes", shown[0], shown[1], digests[0] == digests[1] if known else None)


def _packages(then: Mapping[str, str], now: Mapping[str, str]) -> list[Point]:
    """Those that differ and the two that matter most by name, the others in one line."""
    names = list(dict.fromkeys([*then, *now]))
    shown = [name for name in names if name in ALWAYS_SHOWN or then.get(name) != now.get(name)]
    points = [_point(name, then.get(name), now.get(name)) for name in shown]
    others = len(names) - len(shown)
    return (
        [*points, Point("other packages", f"{others} versions", f"{others} versions", True)] if others else points
    )


def _sessions(then: Mapping[str, Any]) -> list[str]:
    """Of a run that was interrupted and continued on other code."""
    keys = ("code_hash",) if then.get("code_hash") else ("git_commit", "git_diff_hash")
    others = [one for one in then.get("earlier", []) if any(one.get(key) != then.get(key) for key in keys)]
    if not others:
        return []
    commits = ", ".join(_commit(one) or "of unknown commit" for one in others)
    return [f"the run was interrupted, and began on other code ({commits}) than it ended on"]


def _commits(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    first, last = str(then.get("git_commit") or ""), str(now.get("git_commit") or "")
    if not first or not last or first == last:
        return []
    counts = code_state.commits_between(first, last)
    if counts is None:
        return [f"this checkout does not know the commit {first[:12]}; git fetch may bring it"]
    newer, older = counts
    parts = [f"{newer} commit{'s' * (newer != 1)} later"] if newer else []
    parts += [f"without {older} commit{'s' * (older != 1)} of then"] if older else []
    return [f"the code is now {' and '.join(parts)} (git log --oneline {first[:12]}..{last[:12]})"]


def _changes(before: Side, after: Side) -> list[str]:
    """File by file, what of the uncommitted changes is not the same."""
    for when, side in (("then", before), ("now", after)):
        if side.environment.get("git_diff_hash") and side.uncommitted is None:
            return [f"uncommitted: what was changed {when} is not known, or was not kept"]
    return diff_stat(before.uncommitted or "", after.uncommitted or "")


def diff_stat(then: str, now: str) -> list[str]:
    """Lines such as ``workbench/train.py: +3 −1 then, unchanged now`` for each file in which two differences are
    not the same."""
    before, after = _by_file(then), _by_file(now)
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    lines = [
        f"uncommitted: {name}: {_size(before.get(name))} then, {_size(after.get(name))} now" for name in names
    ]
    more = len(lines) - MOST_FILES
    return [*lines[:MOST_FILES], f"uncommitted: {more} more files"] if more > 0 else lines


def _by_file(text: str) -> dict[str, list[str]]:
    """The lines of a difference as ``code_state.difference`` gives it, by the file that they are about."""
    files: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        header = re.fullmatch(r'diff --git "?a/.* "?b/(.*?)"?', line)
        if header is not None:
            lines = files.setdefault(header[1], [])
        elif line.startswith(f"{code_state.UNTRACKED} "):
            name, _, digest = line.removeprefix(f"{code_state.UNTRACKED} ").rpartition(" ")
            lines = files.setdefault(name, [])
            lines.append(f"{code_state.UNTRACKED} {digest}")
        elif not line.startswith("index "):  # names blobs, which differ with the commit
            lines.append(line)
    return files


def _size(lines: list[str] | None) -> str:
    if lines is None:
        return "unchanged"
    if any(line.startswith(code_state.UNTRACKED) for line in lines):
        return f"untracked ({lines[0].rpartition(' ')[2]})"
    body = [line for line in lines if not line.startswith(("+++", "---"))]
    added, removed = (sum(line.startswith(sign) for line in body) for sign in "+-")
    return f"+{added} −{removed}"
