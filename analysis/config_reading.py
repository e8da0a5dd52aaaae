"""config.yaml in a tenth of the time: a report reads a thousand of them, and they agree in nearly every line.

The files are written by the workbench itself, as plain nested mappings. Such a file is read line by line, and what
a value means is asked of PyYAML once for each distinct text. Any other file goes to PyYAML whole.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PAIR = re.compile(r"( *)([A-Za-z_][A-Za-z0-9_]*):(?: (\S.*))?")
_ITEM = re.compile(r"( *)- (\S.*)")
_SPECIAL = set("|>&*!%@`{[?")
"""What begins a value that is more than a word or a number."""


class _NotPlain(Exception):
    """The file holds something that only PyYAML reads."""


def read_yaml(text: str) -> Any:
    """What ``yaml.safe_load`` gives. Raises yaml.YAMLError as that does."""
    try:
        return _plain(text)
    except _NotPlain:
        return yaml.load(text, Loader=_LOADER)


def _plain(text: str) -> dict[str, Any]:
    root: dict[str, Any] = {}
    nested: list[tuple[int, dict[str, Any]]] = [(0, root)]
    opened: tuple[int, dict[str, Any], str] | None = None  # a key without a value yet
    for line in text.splitlines():
        item = _ITEM.fullmatch(line)
        if item is not None:
            _append(opened, len(item[1]), item[2])
            continue
        pair = _PAIR.fullmatch(line)
        if pair is None:
            raise _NotPlain
        indent, key = len(pair[1]), pair[2]
        if opened is not None and indent > opened[0]:
            if opened[1][opened[2]] is not None:
                raise _NotPlain
            opened[1][opened[2]] = inner = {}
            nested.append((indent, inner))
        while nested and nested[-1][0] > indent:
            nested.pop()
        if not nested or nested[-1][0] != indent:
            raise _NotPlain
        where = nested[-1][1]
        if pair[3] is None:
            where[key], opened = None, (indent, where, key)
        elif pair[3] == "[]":
            where[key], opened = [], None  # a list of its own each time
        else:
            where[key], opened = _scalar(pair[3]), None
    return root


def _append(opened: tuple[int, dict[str, Any], str] | None, indent: int, text: str) -> None:
    if opened is None or indent < opened[0]:
        raise _NotPlain
    value = opened[1][opened[2]]
    if value is None:
        opened[1][opened[2]] = value = []
    if not isinstance(value, list):
        raise _NotPlain
    value.append(_scalar(text))


@lru_cache(maxsize=100_000)
def _scalar(text: str) -> Any:
    quoted = text[0] in "'\""
    if text[0] in _SPECIAL or " #" in text or (quoted and (len(text) < 2 or text[-1] != text[0])):
        raise _NotPlain
    try:
        value = yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError:
        raise _NotPlain from None
    if isinstance(value, (dict, list)):
        raise _NotPlain
    return value
