"""A trained run scored again: other positions, more samples, another split, a wished-for error.

What was scored is kept in the run's folder as evaluation-FINGERPRINT-sSEED-wWINDOWS.json and the estimates of
every position beside it, so that it is not computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import files, records
from workbench.config import EvalConfig
from workbench.config_file import build_config, load_config
from workbench.errors import ConfigError, RunError
from workbench.evaluate import Background, Grid, evaluate, evaluation_grid, floors
from workbench.home import Home
from workbench.positions import POSITIONS, PositionScores, read_positions, write_positions
from workbench.records import Evaluation
from workbench.saved_runs import SavedRun, load_run


@dataclass(frozen=True)
class Rescored:
    name: str
    config: EvalConfig
    evaluation: Evaluation
    positions: PositionScores
    background: Background
    capacity: int
    """Windows that the split has."""


def rescore(
    run_dir: Path,
    home: Home,
    overrides: Mapping[str, Any],
    *,
    reuse: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Rescored:
    """Score a run with the ``eval.*`` settings it was trained with, changed by ``overrides``.

    ``reuse``: take what an earlier call left in the folder where it has the same rules, seed, checkpoint and
    number of windows. Raises ConfigError for other overrides, RunError where the run has no weights, DataError
    where the split is too short."""
    foreign = [field for field in overrides if not field.startswith("eval.")]
    if foreign:
        raise ConfigError(f"calm evaluate changes eval.* only, {foreign[0]} given; train a run with it instead")
    config = build_config(load_config(run_dir / records.CONFIG).to_dict(), overrides).eval
    saved = load_run(run_dir, home)
    grid = evaluation_grid(config, saved.corpus)
    known = _known(run_dir, _stem(grid, config), saved, grid, config) if reuse else None
    if known is None:
        scores = evaluate(
            saved.model,
            config,
            grid,
            corpus=saved.corpus,
            phase=saved.phase,
            step=saved.step,
            tokens=saved.tokens,
            flops=saved.train_flops,
            to_target=True,
            progress=progress,
        )
        stem = _stem(scores.grid, config)
        write_positions(run_dir / f"positions-{stem}.npz", scores.positions)
        if not overrides and not (run_dir / POSITIONS).exists():  # a run of an older version
            write_positions(run_dir / POSITIONS, scores.positions)
        files.write_atomic(run_dir / f"evaluation-{stem}.json", scores.evaluation.model_dump_json(indent=1) + "\n")
        known, grid = (scores.evaluation, scores.positions), scores.grid
    evaluation, positions = known
    background = floors(saved.corpus, config, grid, home.cache)
    return Rescored(saved.record.name, config, evaluation, positions, background, grid.capacity)


def _stem(grid: Grid, config: EvalConfig) -> str:
    return f"{grid.fingerprint}-s{config.seed}-w{len(grid.windows)}"


def _known(
    run_dir: Path, stem: str, saved: SavedRun, grid: Grid, config: EvalConfig
) -> tuple[Evaluation, PositionScores] | None:
    if config.target_se is not None:
        return None
    try:
        positions = read_positions(run_dir / f"positions-{stem}.npz")
        evaluation = Evaluation.model_validate(files.read_json(run_dir / f"evaluation-{stem}.json"))
    except (RunError, OSError, ValueError):
        return None
    same = positions.fingerprint == grid.fingerprint and positions.step == evaluation.step == saved.step
    return (evaluation, positions) if same and len(positions.starts) == len(grid.starts) else None
