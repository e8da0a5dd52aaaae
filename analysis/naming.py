"""What a setting is called: by what differs from other settings and has an effect on it.

Heads have fields of their own, and some fields mean something only beside others (an exponent α only for the power
distance, momentum only for Muon). Such a field is missing or idle elsewhere, and is then no part of a name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.words import MISSING, missing, plain, value_words
from workbench.head_sections import HEAD_SECTIONS
from workbench.sections import OptimConfig

ROLES = ("run", "trial", "baseline")
"""Sensitivity checks deviate from the stated rules on purpose: they neither name nor enter a comparison."""
HEAD = "model.head.kind"
BASELINE = ("model.backbone.width", "model.backbone.num_layers")
"""What a token baseline is always named by."""
_OWN = "model.head."
_IDENTITY = ("run_id", "kind", "role", "text", "head", "at_budget")
_CONFIGURED = ("model.", "optim.", "autoencoder.", "train.", "data.")
Run = Mapping[str, Any] | pd.Series
"""A row of the table of runs."""


def is_seed(name: str) -> bool:
    """Whether a configuration field is no part of a setting: the seed, the machine, how much is scored."""
    return name == "seed" or name.endswith(".seed") or name.startswith(("runtime.", "eval."))


class Row(dict[str, Any]):
    """A run's fields by name."""

    @cached_property
    def idle(self) -> frozenset[str]:
        """``idle``, asked for once: names are made of hundreds of fields of the same run."""
        return _idle_beside(self)


def rows_of(runs: pd.DataFrame, columns: Collection[str] | None = None) -> list[Row]:
    """The table row by row, with ``columns`` (those that it has) only. What ``to_dict`` takes long for."""
    names = [str(name) for name in runs.columns if columns is None or name in columns]
    values = [_native(runs[name]) for name in names]
    return [Row(zip(names, row, strict=True)) for row in zip(*values, strict=True)] or [Row() for _ in runs.index]


def _native(column: pd.Series) -> list[Any]:
    """A column's values, numbers as Python's."""
    if column.dtype != object:
        return column.tolist() if column.dtype.kind in "biuf" else column.to_numpy(object).tolist()
    return [value.item() if isinstance(value, np.generic) else value for value in column.tolist()]


def idle(run: Run) -> frozenset[str]:
    """Fields of a run that have no effect beside its others."""
    return run.idle if isinstance(run, Row) else _idle_beside(run)


def _idle_beside(run: Run) -> frozenset[str]:
    kind = run.get(HEAD)
    head = str(run.get("head") if missing(kind) else kind)
    section = HEAD_SECTIONS.get(head)
    own = _given(run, _OWN, section.model_fields) if section is not None else {}
    optim = _given(run, "optim.", OptimConfig.model_fields)
    try:
        return _idle(head, tuple(own.items()), tuple(optim.items()))
    except TypeError:  # a value that cannot be hashed
        return _idle.__wrapped__(head, tuple(own.items()), tuple(optim.items()))


@lru_cache(maxsize=4096)
def _idle(head: str, own: tuple[tuple[str, Any], ...], optim: tuple[tuple[str, Any], ...]) -> frozenset[str]:
    """Most runs of a study have the same values here, and asking their sections takes a while."""
    found: set[str] = set()
    section = HEAD_SECTIONS.get(head)
    if section is not None:
        fields = section.model_construct(**dict(own))
        found |= {f"{_OWN}{name}" for name in fields.without_effect()}
    without = OptimConfig.model_construct(**dict(optim)).without_effect()
    return frozenset(found | {f"optim.{name}" for name in without})


def _given(run: Run, prefix: str, fields: Iterable[str]) -> dict[str, Any]:
    found = {name: run.get(f"{prefix}{name}") for name in fields}
    return {name: value for name, value in found.items() if not missing(value)}


def applies(run: Run, name: str) -> bool:
    """Whether the run has this field and it has an effect."""
    if missing(run.get(name)):
        return False
    return not name.startswith((_OWN, "optim.")) or name not in idle(run)


def values_of(runs: pd.DataFrame, name: str) -> pd.Series:
    """A parameter's values, None where it does not apply."""
    found = [run[name] if applies(run, name) else None for run in setting_rows(runs)]
    return pd.Series(found, index=runs.index, dtype=object)


def setting_rows(runs: pd.DataFrame) -> list[Row]:
    """What says which setting a run is of."""
    return rows_of(runs, [c for c in runs.columns if c in _IDENTITY or c.startswith(_CONFIGURED)])


def varied(calm: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """Fields that differ between CALM runs; those of a head where runs with the same head differ."""
    skip, rows = ("train.train_", "runtime.", "eval."), setting_rows(calm)
    names = [name for name in columns if name in calm and not is_seed(name) and not name.startswith(skip)]
    return [name for name in names if _differs(rows, name)]


def _differs(rows: Sequence[Run], name: str) -> bool:
    if not belongs_to_head(name):
        return len(_values(rows, name) - {MISSING}) > 1
    heads = {plain(row.get(HEAD)) for row in rows}
    parts = [[row for row in rows if plain(row.get(HEAD)) == head] for head in heads]
    return any(len(_values(part, name) - {MISSING}) > 1 for part in parts)


def belongs_to_head(name: str) -> bool:
    """Whether a field belongs to a head, so that other heads may not have it."""
    return name.startswith(_OWN) and name != HEAD


def _values(rows: Sequence[Run], name: str) -> set[str]:
    """Distinct values in words; a dash where the field does not apply."""
    return {_value(row, name) for row in rows}


def _value(row: Run, name: str) -> str:
    return plain(row[name]) if applies(row, name) else MISSING


@dataclass(frozen=True)
class SettingNames:
    """What the settings of a study are named by."""

    parameters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Dotted names by run id, those that apply to the run."""

    def of(self, run: Run) -> list[str]:
        return list(self.parameters.get(str(run["run_id"]), ()))

    def words(self, run: Run, without: Collection[str] = ()) -> str:
        """``flow``, ``energy, quadric``, ``K 4, L 32, λ 0.5``; for a baseline its size and what else differs."""
        parts = [value_words(name, run[name]) for name in self.of(run) if name not in without]
        return ", ".join(parts) or MISSING


def setting_names(runs: pd.DataFrame, parameters: Sequence[str], columns: Iterable[str]) -> SettingNames:
    """Named by ``parameters``, what the study says that it varies, as far as they apply (of a head's own fields
    those that differ among runs with this head); baselines by their size. Where that leaves two settings at the
    budget alike, by the first other field of ``columns`` that differs."""
    named: dict[str, list[str]] = {}
    fields = [name for name in columns if name in runs and not is_seed(name)]
    stated = [name for name in parameters if name in runs]
    rows = setting_rows(runs)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        everyone = [row for row in rows if row["kind"] == kind]
        mine = [row for row in everyone if row["role"] in ROLES]
        if kind == "baseline":
            base = [name for name in BASELINE if name in runs]
        else:
            several = len(_values(mine, HEAD)) > 1
            base = [name for name in stated if not (several and belongs_to_head(name)) or _differs(mine, name)]
            base = sorted(base, key=lambda name: name != HEAD)
        named |= {str(row["run_id"]): [name for name in base if applies(row, name)] for row in everyone}
        completed = [row for row in mine if row["at_budget"]]
        _tell_apart(completed, named, [name for name in fields if name not in base])
    return SettingNames(named)


def _tell_apart(rows: Sequence[Run], named: dict[str, list[str]], fields: list[str]) -> None:
    """Add to the names of runs that are alike, in place."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for row in rows:
        groups.setdefault((str(row["text"]), SettingNames(named).words(row)), []).append(row)
    for same in groups.values():
        telling = next((name for name in fields if len(_values(same, name)) > 1), None)
        if telling is None:
            continue
        for row in same:
            if applies(row, telling):
                named[str(row["run_id"])].append(telling)
        rest = [name for name in fields if name != telling]
        for value in sorted(_values(same, telling)):
            _tell_apart([row for row in same if _value(row, telling) == value], named, rest)
