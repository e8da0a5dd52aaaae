"""YAML from anybody: plain values only, each name once, of a depth, size and range that a configuration can have.

PyYAML's safe loader runs nothing, but it lets the last of two equal names win, follows aliases to structures of
exponential size or without an end, and raises whatever its converters raise. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000
"""Of a configuration; the largest of ours have a few thousand."""
MOST_VALUES = 100_000
"""An alias counts as often as it is used."""
MOST_LEVELS = 40
LARGEST = 10**300
"""Of a whole number: any float is near it."""
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader; a name that stands twice in a mapping is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands twice in one section", key.start_mark
                )
            if name is not None:
                seen.add(name)
        return super().construct_mapping(node, deep)


class FloatLoader(Loader):
    """Reads 2.7e12 as a number, as YAML 1.2 does; to YAML 1.1 it is text without a sign in the exponent."""


FloatLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str, loader: type[Loader] = Loader) -> Any:
    """The value of one document. Raises yaml.YAMLError for everything that is wrong with it."""
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text):,} characters; a configuration has at most {MOST_CHARACTERS:,}")
    try:
        value = yaml.load(text, Loader=loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except yaml.YAMLError:
        raise
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # of the converters: a month 13, an integer of thousands of digits, !!bool maybe
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None
    _check(value)
    return value


def in_words(error: Exception) -> str:
    """Where and what, on one line; the parser's own text takes six and names a file that there is not.
    Of what cannot be opened the reason only: the path stands before it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error)
    context = getattr(error, "context", None)
    problem = getattr(error, "problem", None) or "not readable"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{f' ({context})' if context else ''}"


def _check(value: Any) -> None:
    """Raises yaml.YAMLError for what no configuration holds and what would break where it is shown or written."""
    left = [(value, 0)]
    num = 0
    while left:
        node, level = left.pop()
        num += 1
        if level > MOST_LEVELS:
            raise yaml.YAMLError(f"nested more than {MOST_LEVELS} levels deep")
        if num > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES:,} values, aliases counted as often as they are used")
        if isinstance(node, dict):
            left += [(part, level + 1) for pair in node.items() for part in pair]
        elif isinstance(node, list | tuple | set):
            left += [(part, level + 1) for part in node]
        elif isinstance(node, str) and _UNWRITABLE.search(node):
            raise yaml.YAMLError(f"text with a NUL or half of a surrogate pair: {node[:40]!r}")
        elif isinstance(node, int) and abs(node) > LARGEST:
            raise yaml.YAMLError(f"a whole number of {len(hex(node)) * 1.2:.0f} digits")
        elif isinstance(node, bytes):
            raise yaml.YAMLError(f"bytes (!!binary), {node[:20]!r}, where text is wanted")
