"""Scores of runs position by position, read from their folders and brought to the positions they share.

Runs are compared at the same positions, where what makes a position easy or hard for all of them cancels
(``workbench.pairs``). A run without such scores, or with damaged ones, is named in a warning and compared as
before: by its score and its error, as if the two runs had nothing in common.

Letters: W windows, n positions of a window, O = 4 orders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workbench.errors import RunError
from workbench.given_files import require_regular
from workbench.pairs import align
from workbench.positions import FLOORS, POSITIONS, FloorScores, PositionScores, read_floors, read_positions
from workbench.records import RunRecord
from workbench.uncertainty import NUM_ORDERS, Linearised

MAX_NAMED = 3
"""Runs that one warning names; the rest are counted."""


@dataclass(frozen=True)
class ScoreFiles:
    """What lay beside the records, by run id. Only of completed runs: nothing else is compared."""

    positions: dict[str, PositionScores] = field(default_factory=dict)
    floors: dict[str, FloorScores] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_scores(runs: Iterable[tuple[Path, RunRecord]]) -> ScoreFiles:
    """Position scores and n-gram tables of completed runs; a file that is missing, damaged or of another
    evaluation than the record's last gives a warning (one for all runs with the same trouble)."""
    found, troubles = ScoreFiles(), dict[str, list[str]]()
    known: dict[bytes, FloorScores] = {}
    for folder, record in runs:
        if record.status != "completed" or record.final is None:
            continue
        name, what = POSITIONS, "compared"
        try:
            found.positions[record.run_id] = _positions(folder, record)
            name, what = FLOORS, "compared with n-gram tables"
            if record.floors:
                found.floors[record.run_id] = _floors(folder, found.positions[record.run_id], known)
        except RunError as error:
            reason = " ".join(str(error).split(";")[0].split()).replace(str(folder / name), name)
            words = f"{what} without pairs and with wider intervals, because {reason}"
            troubles.setdefault(words, []).append(f"{folder.parent.name}/{folder.name}")
    for trouble, labels in troubles.items():
        found.warnings.append(f"{_listed(labels)}: {trouble}")
    return found


def _there(path: Path) -> None:
    if not path.exists():
        raise RunError(f"there is no {path.name}, which older versions did not write")


def _positions(folder: Path, record: RunRecord) -> PositionScores:
    _there(folder / POSITIONS)
    scores = read_positions(folder / POSITIONS)
    _check(scores, record)
    return scores


def _floors(folder: Path, scores: PositionScores, known: dict[bytes, FloorScores]) -> FloorScores:
    """``known``: of other runs, by content. Runs of one evaluation have the same tables: read and kept once."""
    _there(folder / FLOORS)
    content = hashlib.sha256(_bytes(folder / FLOORS)).digest()
    floors = known.get(content) or read_floors(folder / FLOORS)
    known[content] = floors
    shape = (len(floors.starts), *scores.values.shape[1:])
    if floors.fingerprint != scores.fingerprint or any(t.shape != shape for t in floors.tables.values()):
        raise RunError(f"{FLOORS} belongs to other positions than {POSITIONS}")
    return floors


def _bytes(path: Path) -> bytes:
    try:
        require_regular(path)
        return path.read_bytes()
    except OSError:
        return b""  # the reader says what is wrong


def _check(scores: PositionScores, record: RunRecord) -> None:
    """Raises RunError where the scores are not those of the record's last evaluation, or not scores."""
    final = record.final
    assert final is not None
    windows = len(scores.starts)
    shapes = scores.values.ndim == 3 and scores.values.shape[2:] == (NUM_ORDERS,)
    if not (shapes and len(scores.values) == windows == len(scores.clusters) and np.isfinite(scores.values).all()):
        raise RunError(f"{POSITIONS} holds no finite (windows, positions, {NUM_ORDERS}) scores")
    if (scores.fingerprint, scores.step) != (final.fingerprint, final.step):
        raise RunError(
            f"{POSITIONS} belongs to another evaluation (step {scores.step}, {scores.fingerprint}) than the "
            f"last one (step {final.step}, {final.fingerprint})"
        )


def _listed(labels: Sequence[str]) -> str:
    named, rest = ", ".join(labels[:MAX_NAMED]), len(labels) - MAX_NAMED
    return f"{named} and {rest} more runs" if rest > 1 else f"{named}, {labels[-1]}" if rest == 1 else named


@dataclass(frozen=True)
class PairedScores:
    """Runs at the windows that all of them were scored on."""

    values: dict[str, npt.NDArray[np.float32]]
    """(W, n, O) by run id."""
    clusters: npt.NDArray[np.int64]
    """(W,)."""
    most_windows: int
    """Of one of these runs; more than W where they differ."""
    linear: dict[int, Linearised] = field(default_factory=dict, compare=False, repr=False)
    """What was found so far, by the identity of the array."""

    @property
    def num_windows(self) -> int:
        return len(self.clusters)

    @property
    def num_positions(self) -> int:
        return self.num_windows * int(next(iter(self.values.values())).shape[1])

    @property
    def num_clusters(self) -> int:
        return len(np.unique(self.clusters))

    def holds(self, run_ids: Iterable[str]) -> bool:
        return all(run_id in self.values for run_id in run_ids)

    def linearise(self, values: npt.NDArray[np.floating], clusters: npt.NDArray[np.integer]) -> Linearised:
        """``Linearised.of`` one of ``values``, found once: the best run of a group is compared with all others."""
        found = self.linear.get(id(values))
        if found is None:
            found = self.linear[id(values)] = Linearised.of(values, clusters)
        return found

    def of(self, run_ids: Iterable[str]) -> list[npt.NDArray[np.float32]]:
        return [self.values[run_id] for run_id in run_ids]


def pair_up(positions: Mapping[str, PositionScores], run_ids: Iterable[str]) -> tuple[PairedScores | None, str]:
    """The runs that have scores, at their common windows; and in words why there are none.

    The caller sees to it that the runs have one evaluation fingerprint."""
    there = {run_id: positions[run_id] for run_id in run_ids if run_id in positions}
    if not there:
        return None, "no run kept its scores position by position"
    try:
        shared = align(list(there.values()), list(there))
    except RunError as error:
        return None, str(error)
    most = max(len(scores.starts) for scores in there.values())
    return PairedScores(dict(zip(there, shared.values, strict=True)), shared.clusters, most), ""
