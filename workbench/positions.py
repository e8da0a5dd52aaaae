"""Brier estimates of every position, kept beside a run: what pairs of runs are compared by. Imports no torch.

Letters: W windows, n positions of a window, O = 4 orders.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench import files
from workbench.errors import RunError
from workbench.given_files import require_regular

POSITIONS, FLOORS = "positions.npz", "floors.npz"
_TABLE = "table:"


@dataclass(frozen=True)
class PositionScores:
    """One evaluation, position by position."""

    fingerprint: str
    values: npt.NDArray[np.float32]
    """(W, n, O): unbiased estimates of Brier(P, y), fractions; means over rounds."""
    clusters: npt.NDArray[np.int64]
    """(W,): windows with the same number are one cluster of the standard error."""
    starts: npt.NDArray[np.int64]
    """(W,): token offset of each window in its split; what windows of two evaluations are matched by."""
    step: int = 0
    rounds: int = 1
    cross_entropy: npt.NDArray[np.float32] | None = None
    """(W,): nats per token, mean over a window's scored tokens; token baselines only."""


@dataclass(frozen=True)
class FloorScores:
    """N-gram tables on the same windows (exact)."""

    fingerprint: str
    starts: npt.NDArray[np.int64]
    tables: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """unigram, bigram, trigram: (W, n, O)."""


def write_positions(path: Path, scores: PositionScores) -> None:
    arrays = {name: getattr(scores, name) for name in ("values", "clusters", "starts")}
    if scores.cross_entropy is not None:
        arrays["cross_entropy"] = scores.cross_entropy
    numbers = {name: np.int64(getattr(scores, name)) for name in ("step", "rounds")}
    _write(path, {**arrays, **numbers, "fingerprint": np.str_(scores.fingerprint)})


def read_positions(path: Path) -> PositionScores:
    """Raises RunError where the file is missing or damaged."""
    data = _read(path, "values", "clusters", "starts", "step", "rounds", "fingerprint")
    _require_windows(path, data["starts"], "values", data["values"])
    if data["clusters"].shape != data["starts"].shape:
        raise _refused(path, f"clusters has shape {data['clusters'].shape}, starts {data['starts'].shape}")
    return PositionScores(
        fingerprint=str(data["fingerprint"]),
        values=data["values"],
        clusters=data["clusters"],
        starts=data["starts"],
        step=int(data["step"]),
        rounds=int(data["rounds"]),
        cross_entropy=data.get("cross_entropy"),
    )


def write_floors(path: Path, scores: FloorScores) -> None:
    tables = {_TABLE + name: values for name, values in scores.tables.items()}
    _write(path, {**tables, "starts": scores.starts, "fingerprint": np.str_(scores.fingerprint)})


def read_floors(path: Path) -> FloorScores:
    """Raises RunError where the file is missing or damaged."""
    data = _read(path, "starts", "fingerprint")
    tables = {name.removeprefix(_TABLE): values for name, values in data.items() if name.startswith(_TABLE)}
    for name, values in tables.items():
        _require_windows(path, data["starts"], name, values)
    return FloorScores(str(data["fingerprint"]), data["starts"], tables)


def _write(path: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    files.write_atomic(path, buffer.getvalue())


_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What numpy and zipfile raise for a file that was cut or altered: some of it lies in the archive's own fields."""


def _refused(path: Path, reason: str) -> RunError:
    return RunError(f"{path} cannot be read ({reason}); score the run again with `calm evaluate`")


def _require_windows(path: Path, starts: npt.NDArray[Any], name: str, values: npt.NDArray[Any]) -> None:
    """Raises RunError unless ``values`` is (W, n, O) for W ``starts``."""
    if starts.ndim != 1 or values.ndim != 3 or len(values) != len(starts) or values.dtype.kind != "f":
        shapes = f"{name} has shape {values.shape} of {values.dtype}, starts {starts.shape}"
        raise _refused(path, shapes)


def _read(path: Path, *wanted: str) -> dict[str, npt.NDArray[Any]]:
    try:
        require_regular(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            data = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise RunError(
            f"{path.parent} has no {path.name}: it was not evaluated yet, or by an older version; "
            "`calm evaluate RUN` scores it"
        ) from None
    except _DAMAGE as error:
        files.raise_unreadable(path, error)
        unknown = isinstance(error, TypeError) or "pickle" in str(error)  # numpy says how to load it unsafely
        raise _refused(path, "it is no archive of arrays" if unknown else str(error)) from None
    missing = [name for name in wanted if name not in data]
    if missing:
        raise RunError(f"{path} lacks {', '.join(missing)}; score the run again with `calm evaluate`")
    return data
