"""What is stored as JSON, read as the record that it is; and what is wrong with a damaged one, in one line.

Imports no torch."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workbench import files
from workbench.errors import RunError

Row = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
_SECTIONS = ("versions", "own_head", "initial")
_TEXTS = ("git_commit", "git_diff_hash", "code_hash", "code_version")


def reason(error: Exception) -> str:
    """Why something cannot be read. Of a pydantic.ValidationError, which has lines and a web address for every
    problem, the first one."""
    if not isinstance(error, ValidationError):
        return str(error)
    first, *others = error.errors(include_url=False)
    more = f" (and {len(others)} more)" if others else ""
    name = ".".join(map(str, first["loc"]))[:200] or "it"
    if first["type"] == "missing":
        return f"{name} is missing{more}"
    if first["type"] == "extra_forbidden":
        return f"{name} is unknown{more}"
    message = first["msg"].removeprefix("Value error, ") or "it is not valid"
    given = "" if first["type"] == "value_error" else f"; given: {reprlib.repr(first['input'])}"
    return f"{name}: {message[0].lower()}{message[1:]}{given}{more}"


def read_lines(path: Path | str, model: type[M], migrate: Callable[[Row], Row] = dict) -> list[M]:
    """All complete lines. Raises RunError with file and line where one is damaged."""
    rows = files.read_json_lines(path)
    try:
        return [model.model_validate(migrate(row)) for row in rows]
    except ValidationError:
        return checked(path, files.numbered_json_lines(path), model, migrate)


def checked(
    path: Path | str, rows: Iterable[tuple[int, Row]], model: type[M], migrate: Callable[[Row], Row] = dict
) -> list[M]:
    """Rows with the numbers of their lines. Raises RunError where one is damaged."""
    found = []
    for number, row in rows:
        try:
            found.append(model.model_validate(migrate(row)))
        except ValidationError as error:
            raise RunError(
                f"{path} is damaged: line {number}: {reason(error)}; bring the file back from a copy, or delete "
                "that line"
            ) from None
    return found


def read_object(path: Path, model: type[M], remedy: str) -> M:
    """Of a file that holds one. Raises RunError with the ``remedy`` where it is damaged, UnreadableError where it
    may not be read."""
    try:
        return model.model_validate(files.read_json(path))
    except (OSError, ValueError) as error:
        files.raise_unreadable(path, error)
        raise RunError(f"{path} is damaged: {reason(error)}; {remedy}") from None


def read_mapping(path: Path, remedy: str) -> dict[str, Any] | None:
    """None where there is no such file. Raises RunError with the ``remedy`` where it holds anything else than a
    mapping, UnreadableError where it may not be read."""
    try:
        found = files.read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        files.raise_unreadable(path, error)
        raise RunError(f"{path} cannot be read: {error}; {remedy}") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} cannot be read: a mapping is wanted, found {type(found).__name__}; {remedy}")
    return found


def checked_environment(environment: dict[str, Any]) -> dict[str, Any]:
    """What a record says of code and machine, as others rely on it. Raises ValueError."""
    _check_session(environment)
    earlier = environment.get("earlier")
    if earlier is not None and not isinstance(earlier, list):
        raise ValueError(f"earlier is {reprlib.repr(earlier)}, a list is wanted")
    for session in earlier or []:
        if not isinstance(session, Mapping):
            raise ValueError(f"earlier holds {reprlib.repr(session)}, mappings are wanted")
        _check_session(session)
    return environment


def _check_session(environment: Mapping[str, Any]) -> None:
    for names, wanted, words in ((_SECTIONS, Mapping, "a mapping"), (_TEXTS, str, "a text")):
        for name in names:
            value = environment.get(name)
            if value is not None and not isinstance(value, wanted):
                raise ValueError(f"{name} is {reprlib.repr(value)}, {words} is wanted")
