"""What the report groups and colours runs by: the chunk size K, or what a study varies before it.

A group's key is K, or the value of the parameter; None stands for the token baselines. Every group has a name, a
colour and a marker that are the same in all figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis import style
from analysis.naming import HEAD, values_of
from analysis.words import BARE, listed, name_of, plain, short_of
from workbench.head_sections import HEAD_SECTIONS

Key = int | str | None
CHUNK_SIZE = "model.chunk_size"
MAX_GROUPS = 6
"""A parameter with more values than this makes no groups."""


@dataclass(frozen=True)
class Dimension:
    """``column``: of the configuration; ``values``: the groups of CALM runs, in order."""

    column: str = CHUNK_SIZE
    values: tuple[Key, ...] = ()
    keys: Mapping[str, Key] = field(default_factory=dict)
    """By run id."""

    @property
    def is_k(self) -> bool:
        return self.column == CHUNK_SIZE

    @property
    def noun(self) -> str:
        """Of each ...: ``K``, ``head``, ``input mode``, ``value of N``."""
        if self.is_k:
            return "K"
        return name_of(self.column) if self._worded else f"value of {short_of(self.column)}"

    @property
    def plural(self) -> str:
        """``K``, ``heads``, ``values of N``."""
        if self.is_k:
            return "K"
        return f"{name_of(self.column)}s" if self._worded else f"values of {short_of(self.column)}"

    @property
    def title(self) -> str:
        """``chunk size``, ``head``."""
        return "chunk size" if self.is_k else name_of(self.column)

    @property
    def _worded(self) -> bool:
        return any(isinstance(value, str) and not _is_number(value) for value in self.values)

    def name(self, key: Key) -> str:
        """``K = 4``, ``flow``, ``input latent``, ``N = 8``, ``token baseline``."""
        if key is None:
            return style.k_name(None)
        if self.is_k:
            return style.k_name(int(key))
        if self.column in BARE:
            return str(key)
        return f"{short_of(self.column)}{' ' if self._worded else ' = '}{key}"

    def phrase(self, key: Key) -> str:
        """After "has": ``K = 4``, ``head flow``, ``model samples N = 8``."""
        if key is None or self.is_k:
            return self.name(key)
        return f"{name_of(self.column)}{' ' if self._worded else ' = '}{key}"

    def names(self, keys: Sequence[Key]) -> str:
        """``K = 1, 2, 4``; ``flow and energy``."""
        if self.is_k:
            return f"K = {', '.join(str(key) for key in keys)}"
        return listed([self.name(key) for key in keys])

    def slug(self, key: Key) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.name(key).lower())

    def colour(self, key: Key) -> str:
        if key is None or self.is_k:
            return style.k_colour(None if key is None else int(key))
        if self.column == HEAD:
            return style.head_colour(str(key))
        place = self._place(key)
        return style.category(place) if self._worded else style.ordinal(place, len(self.values))

    def marker(self, key: Key) -> str:
        if key is None or self.is_k:
            return style.k_marker(None if key is None else int(key))
        if self.column == HEAD:
            return style.head_marker(str(key))
        return style.marker(self._place(key))

    def _place(self, key: Key) -> int:
        return self.values.index(key) if key in self.values else len(self.values)

    def key(self, run: pd.Series) -> Key:
        """Of a run or one of its checkpoints."""
        return self.keys.get(str(run["run_id"]))

    def groups(self, runs: pd.DataFrame) -> list[tuple[Key, pd.DataFrame]]:
        """Runs or checkpoints by group in order, the baselines last; groups without any are left out."""
        keys = [self.keys.get(str(run_id)) for run_id in runs["run_id"]]
        calm = (runs["kind"] == "calm").tolist()
        found = []
        for key in (*self.values, None):
            mask = [(k == key) and (c == (key is not None)) for k, c in zip(keys, calm, strict=True)]
            if any(mask):
                found.append((key, runs[mask]))
        return found


def choose_dimension(
    runs: pd.DataFrame, parameters: Sequence[str], choices: Mapping[str, Sequence[Any]] | None = None
) -> Dimension:
    """The first of ``parameters`` that all CALM runs have and that takes few values. Where there are several K, K,
    unless the study states another such parameter before it. ``choices``: what the study states, by parameter,
    with the values in its order."""
    stated = choices or {}
    calm = runs[(runs["kind"] == "calm") & runs["K"].notna()]
    candidates = [name for name in parameters if name in calm and name != CHUNK_SIZE]
    if calm["K"].nunique() > 1:
        before = list(parameters).index(CHUNK_SIZE) if CHUNK_SIZE in parameters else 0
        candidates = [name for name in parameters[:before] if name in candidates and name in stated]
    for name in candidates:
        values = values_of(calm, name)
        words = values.map(plain)
        if values.notna().all() and 2 <= words.nunique() <= MAX_GROUPS:
            keys: dict[str, Key] = dict(zip(calm["run_id"].astype(str), words, strict=True))
            return Dimension(name, _ordered(name, set(words), stated.get(name, ())), keys)
    sizes = {str(run_id): int(k) for run_id, k in zip(calm["run_id"], calm["K"], strict=True)}
    return Dimension(CHUNK_SIZE, tuple(sorted(set(sizes.values()))), dict(sizes))


def _ordered(name: str, values: set[str], choices: Sequence[Any]) -> tuple[str, ...]:
    """Numbers by size; words in the study's order (without one, heads in the workbench's), the rest by letter."""
    if all(_is_number(value) for value in values):
        return tuple(sorted(values, key=float))
    first = [plain(value) for value in choices] or (list(HEAD_SECTIONS) if name == HEAD else [])
    return tuple(sorted(values, key=lambda v: (first.index(v) if v in first else len(first), v)))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
