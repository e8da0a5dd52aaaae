"""Scores position by position for hand-made runs: what ``workbench.runner`` keeps beside a record.

All runs of one evaluation share how easy each window is; the rest is a run's own. The means over positions are
exactly the record's Brier-n, their scatter over windows its errors.

Letters: W windows, n positions of a window, O = 4 orders.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workbench import records
from workbench.positions import FLOORS, POSITIONS, FloorScores, PositionScores, write_floors, write_positions

NUM_WINDOWS, NUM_POSITIONS = 96, 24
WINDOW_TOKENS = 256
MAX_WINDOWS = 512
SHARED = 0.9
"""Share of a window's deviation (as a correlation) that all runs have in common."""

Floats = npt.NDArray[np.float64]


@cache
def _common() -> Floats:
    """(MAX_WINDOWS,) how easy each window is."""
    return np.random.default_rng(7).normal(size=MAX_WINDOWS)


def make_values(
    brier: list[float], se: list[float], *, seed: int, num_windows: int = NUM_WINDOWS, own: bool = True
) -> npt.NDArray[np.float32]:
    """(W, n, O) with the given means and standard errors over windows, both in per cent. Without ``own`` only what
    all runs share."""
    rng = np.random.default_rng(seed)
    share = SHARED if own else 1.0
    deviation = share * _common()[:num_windows, None] + np.sqrt(1 - share**2) * rng.normal(size=(num_windows, 4))
    deviation = (deviation - deviation.mean(0)) / deviation.std(0, ddof=1)
    within = rng.normal(size=(num_windows, NUM_POSITIONS, 4))
    within -= within.mean(1, keepdims=True)
    scale = np.asarray(se) * np.sqrt(num_windows)
    values = np.asarray(brier) + scale * deviation[:, None] + 2 * scale * within
    return (values / 100).astype(np.float32)


def starts(num_windows: int = NUM_WINDOWS) -> npt.NDArray[np.int64]:
    return np.arange(num_windows, dtype=np.int64) * WINDOW_TOKENS


def write_score_files(run_dir: Path, *, num_windows: int = NUM_WINDOWS) -> None:
    """positions.npz and floors.npz of the record's last evaluation; nothing where it has none."""
    record = records.read_record(run_dir)
    final = record.final
    if final is None:
        return
    seed = int.from_bytes(record.run_id.encode()[-6:], "big") + record.seed
    scores = PositionScores(
        fingerprint=final.fingerprint,
        values=make_values(final.brier.brier, final.brier.brier_se, seed=seed, num_windows=num_windows),
        clusters=np.arange(num_windows, dtype=np.int64),
        starts=starts(num_windows),
        step=final.step,
    )
    write_positions(run_dir / POSITIONS, scores)
    tables = {
        name: make_values(floor.brier, [0.02 * b for b in floor.brier], seed=0, num_windows=num_windows, own=False)
        for name, floor in record.floors.items()
    }
    write_floors(run_dir / FLOORS, FloorScores(final.fingerprint, starts(num_windows), tables))
