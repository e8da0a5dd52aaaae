"""A trained run scored again: other positions, more samples, another split, a wished-for error.

What was scored is kept in the run's folder as evaluation-FINGERPRINT-sSEED-wWINDOWS.json (-hHASH is added where
the head sampled by other settings than in training) and the estimates of every position beside it, so that it is
not computed twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import files, formats, records
from workbench.call_curve import call_curve
from workbench.config import EvalConfig, content_hash
from workbench.config_file import build_config, stored_config
from workbench.errors import NotFiniteError, RunError, UnreadableError
from workbench.evaluate import Background, Grid, evaluate, evaluation_grid, floors
from workbench.home import Home
from workbench.model import Calm
from workbench.positions import FLOORS, POSITIONS, PositionScores, read_positions, write_floors, write_positions
from workbench.records import CallPoint, Evaluation, RunRecord, TradeoffPoint
from workbench.saved_runs import SavedRun, load_run
from workbench.tradeoff import tradeoff


@dataclass(frozen=True)
class Rescored:
    name: str
    config: EvalConfig
    evaluation: Evaluation
    positions: PositionScores
    background: Background
    capacity: int
    """Windows that the split has."""
    call_curve: list[CallPoint]
    """Where ``eval.network_calls`` was among the overrides."""
    tradeoff: list[TradeoffPoint]
    """Where ``eval.tradeoff`` was among the overrides."""


def rescore(
    run_dir: Path,
    home: Home,
    overrides: Mapping[str, Any],
    *,
    reuse: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Rescored:
    """Score a run with the ``eval.*`` settings it was trained with, changed by ``overrides``, which may also be
    settings of the head's sampling (``model.head.num_calls``).

    ``reuse``: take what an earlier call left in the folder where it has the same rules, seed, checkpoint and
    number of windows. Raises ConfigError for other overrides, RunError where the run has no weights or what
    it makes is not finite, DataError where the split is too short."""
    rules = {field: value for field, value in overrides.items() if field.startswith("eval.")}
    sampling = {field: value for field, value in overrides.items() if field not in rules}
    trained = stored_config(run_dir / records.CONFIG)
    config = build_config(trained.to_dict(), rules).eval
    saved = load_run(run_dir, home, sampling)
    how = "" if saved.config.model == trained.model else "-h" + content_hash(saved.config.model.model_dump(), 8)
    grid = evaluation_grid(config, saved.corpus)
    known = _known(run_dir, _stem(grid, config, how), saved, grid, config) if reuse else None
    if known is None:
        with _of_run(run_dir):
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
        stem = _stem(scores.grid, config, how)
        write_positions(run_dir / f"positions-{stem}.npz", scores.positions)
        if not overrides and not (run_dir / POSITIONS).exists():  # a run of an older version
            write_positions(run_dir / POSITIONS, scores.positions)
        files.write_atomic(run_dir / f"evaluation-{stem}.json", scores.evaluation.model_dump_json(indent=1) + "\n")
        known, grid = (scores.evaluation, scores.positions), scores.grid
    evaluation, positions = known
    background = floors(saved.corpus, config, grid, home.cache)
    if not overrides and saved.record.status == "completed" and saved.record.final is None:
        _keep_as_final(run_dir, saved.record, evaluation, background)
    stem = _stem(grid, config, how)
    with _of_run(run_dir):
        curve, points = _sampling(run_dir, stem, saved, grid, config, evaluation, rules, progress)
    return Rescored(saved.record.name, config, evaluation, positions, background, grid.capacity, curve, points)


@contextlib.contextmanager
def _of_run(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except NotFiniteError as error:
        raise RunError(
            f"{run_dir} cannot be scored: {error}; leave the head's settings as they were in training, or train "
            "another run with a lower optim.lr"
        ) from None


def _keep_as_final(run_dir: Path, record: RunRecord, evaluation: Evaluation, background: Background) -> None:
    """The first evaluation of a run that was not trained here (imported weights) is the one at its end."""
    write_floors(run_dir / FLOORS, background.scores)
    files.rewrite_json_lines(run_dir / records.EVALUATIONS, [evaluation.model_dump()])
    update = {"final": evaluation, "floors": background.floors, "overlap": background.overlap}
    records.write_record(run_dir, record.model_copy(update=update))


def _sampling(
    run_dir: Path,
    stem: str,
    saved: SavedRun,
    grid: Grid,
    config: EvalConfig,
    evaluation: Evaluation,
    asked: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> tuple[list[CallPoint], list[TradeoffPoint]]:
    """What was asked for of other numbers of calls and samplers, kept as sampling-....json."""
    curve: list[CallPoint] = []
    points: list[TradeoffPoint] = []
    names = {name.split(".")[1] for name in asked}
    if names & {"network_calls", "solvers"} and isinstance(saved.model, Calm):
        whole = saved.config.model_copy(update={"eval": config})
        vocab = saved.corpus.vocab_size
        curve = call_curve(saved.model, whole, grid, vocab=vocab, known=evaluation, progress=progress)
    if "tradeoff" in names and config.tradeoff is not None:
        points = tradeoff(saved.model, config, config.tradeoff, grid, progress=progress)
    if curve or points:
        found = {"call_curve": [p.model_dump() for p in curve], "tradeoff": [p.model_dump() for p in points]}
        files.write_json(run_dir / f"sampling-{stem}.json", found)
    return curve, points


def _stem(grid: Grid, config: EvalConfig, how: str) -> str:
    return f"{grid.fingerprint}-s{config.seed}-w{len(grid.windows)}{how}"


def _known(
    run_dir: Path, stem: str, saved: SavedRun, grid: Grid, config: EvalConfig
) -> tuple[Evaluation, PositionScores] | None:
    if config.target_se is not None:
        return None
    try:
        positions = read_positions(run_dir / f"positions-{stem}.npz")
        evaluation = Evaluation.model_validate(
            formats.evaluation_line(files.read_json(run_dir / f"evaluation-{stem}.json"))
        )
    except UnreadableError:  # what is there would be written over
        raise
    except (RunError, OSError, ValueError) as error:
        files.raise_unreadable(run_dir / f"evaluation-{stem}.json", error)
        return None
    same = positions.fingerprint == grid.fingerprint and positions.step == evaluation.step == saved.step
    return (evaluation, positions) if same and len(positions.starts) == len(grid.starts) else None
