"""Numbers of the formats that are stored, and how older ones are read. Imports no torch.

What is stored says in ``format`` which number it was written in: ``record.json`` and ``config.yaml`` of a run,
``study.json`` and the specification in the storage of a study, the tables of a report (column ``table_format``).
What says none is from before there were numbers, and counts as 0. Older ones are migrated when they are read, and
written anew only where they are written anyway; newer ones, and what was never a number, are refused.

The files of lines in a run folder (``metrics.jsonl``, ``evaluations.jsonl``) say no number: a run of an older
version that is continued goes on in the same file. ``evaluation_line`` therefore reads all lines alike.

To change a format: raise its number, give the migration from the number before, and mark new fields of a
configuration with ``head_sections.Since``, so that the hash of an older run stays what its record says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import OutputError, RunError, StudyError, UserError

RUN = 2
"""record.json, config.yaml."""
STUDY = 1
"""study.json, and the specification in the storage."""
TABLE = 1
"""CSV and Parquet files of a report."""
KEY = "format"
UPDATE = "update the workbench (git pull in its checkout, then pip install . unless it is installed with -e)"

Tree = dict[str, Any]
Migration = Callable[[Tree], Tree]


@dataclass(frozen=True)
class Format:
    """One kind of stored thing."""

    number: int
    """Written now, and the highest that can be read."""
    error: type[UserError]
    """Raised for what cannot be read."""
    migrations: Mapping[int, Migration] = field(default_factory=dict)
    """From an older number to the next one; a number without one differs in nothing that needs it."""

    def numbered(self, tree: Mapping[str, Any]) -> Tree:
        """As it is to be written."""
        return {KEY: self.number, **tree}

    def read(self, tree: object, where: object, *, unnumbered: int = 0) -> Tree:
        """A parsed mapping as this version would have written it, without its number.

        ``unnumbered`` is the number of one that says none. Raises ``error`` naming ``where`` it was read from,
        also where it is no mapping."""
        if not isinstance(tree, Mapping):
            found = type(tree).__name__
            raise self.error(
                f"{where} cannot be read: a mapping is wanted, found {found}; bring it back from a copy"
            )
        number = self.check(tree.get(KEY, unnumbered), where)
        tree = {key: value for key, value in tree.items() if key != KEY}
        for older in range(number, self.number):
            tree = self.migrations.get(older, dict)(tree)
        return tree

    def check(self, found: object, where: object) -> int:
        """The number that was found. Raises ``error`` where it is newer than this version, or no number."""
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise self.error(
                f"{where}: {KEY} is {found!r}, a number from 0 to {self.number} is wanted; the file is damaged or "
                "not of this workbench: bring back an intact copy"
            )
        if found > self.number:
            raise self.error(
                f"{where} was written by a newer workbench (format {found}, this one reads up to {self.number}); "
                f"{UPDATE}"
            )
        return found


HEAD_LOSS = {
    "energy_loss": "head_loss",
    "energy_loss_shuffled": "head_loss_shuffled",
    "energy_loss_gain_se": "head_loss_gain_se",
}
"""Old names to new ones of an evaluation's fields: there were no other heads than the energy head."""


def evaluation_line(row: Mapping[str, Any]) -> Tree:
    """A line of ``evaluations.jsonl`` of any version. Must leave a line of this version as it is."""
    return {HEAD_LOSS.get(name, name): value for name, value in row.items()}


def _record_0(tree: Tree) -> Tree:
    final = tree.get("final")
    return {**tree, "final": evaluation_line(final)} if isinstance(final, dict) else tree


RECORD = Format(RUN, RunError, {0: _record_0})
CONFIG = Format(RUN, RunError)
SPEC = Format(STUDY, StudyError)
STUDY_FILE = Format(STUDY, StudyError)
REPORT_TABLE = Format(TABLE, OutputError)
