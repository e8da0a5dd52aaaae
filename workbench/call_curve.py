"""BrierLM of a trained CALM by the number of network calls that its head may take for a sample.

One training, many points: the number of calls, the solver and the spacing of times are settings of sampling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from workbench import flops
from workbench.config import CalmConfig, RunConfig
from workbench.evaluate import head_sampling, score_windows
from workbench.grid import Grid
from workbench.head_sections import sampling_variants
from workbench.model import Calm
from workbench.records import CallPoint, Evaluation
from workbench.uncertainty import summarise

ENERGY = "energy"


def call_curve(
    model: Calm,
    config: RunConfig,
    grid: Grid,
    *,
    vocab: int,
    known: Evaluation | None = None,
    done: Sequence[CallPoint] = (),
    keep: Callable[[CallPoint], None] = lambda point: None,
    progress: Callable[[int, int], None] | None = None,
) -> list[CallPoint]:
    """The model scored on the grid with each budget of ``eval.network_calls`` by each of ``eval.solvers``.

    Budgets that come to the same number of calls are scored once: of an energy head there is one point. ``known``:
    an evaluation of the model as it is on this grid, which is not repeated; nor are points that are ``done``.
    ``keep`` is told each point as soon as there is one. ``config`` must be resolved and be the model's.
    ``progress(done, wanted)`` counts windows."""
    variants = _variants(model, config.eval.network_calls, config.eval.solvers)
    wanted, points = len(variants) * len(grid.windows), []
    earlier = {(point.solver, point.network_calls): point for point in done}
    for number, variant in enumerate(variants):
        before = number * len(grid.windows)
        how = head_sampling(variant)
        point = earlier.get((how["solver"] or _kind(variant), how["network_calls"]))
        if point is None:
            report = None if progress is None else _shifted(progress, before, wanted)
            point = _point(variant, config, grid, vocab, known, report)
        points.append(point)
        keep(point)
        if progress is not None:
            progress(before + len(grid.windows), wanted)
    return points


def _point(
    model: Calm,
    config: RunConfig,
    grid: Grid,
    vocab: int,
    known: Evaluation | None,
    progress: Callable[[int], None] | None,
) -> CallPoint:
    start, how = time.perf_counter(), head_sampling(model)
    same_windows = known is not None and known.brier.num_windows == len(grid.windows)
    if known is not None and same_windows and {name: getattr(known, name) for name in how} == how:
        brier, seconds = known.brier, known.seconds
    else:
        scored = score_windows(model, config.eval, grid, progress=progress)
        brier, seconds = summarise(scored.values, grid.clusters), time.perf_counter() - start
    return CallPoint(
        network_calls=how["network_calls"],
        solver=how["solver"] or _kind(model),
        infer_flops_per_token=flops.infer_flops_per_token(sampling_config(config, model), vocab),
        brier=brier,
        seconds=seconds,
    )


def _kind(model: Calm) -> str:
    """Stands for the solver of a head that has none."""
    kind: str = model.network.head.config.kind
    return kind


def _variants(model: Calm, budgets: Sequence[int], solvers: Sequence[str]) -> list[Calm]:
    """One for each solver and number of calls; of a head without such settings the model itself."""
    if not budgets:
        return []
    found = sampling_variants(model.network.head.config, budgets, solvers)
    return [model.with_sampling(solver=head.solver, num_calls=head.num_calls) for head in found] or [model]


def sampling_config(config: RunConfig, model: Calm) -> RunConfig:
    """The configuration with the sampling settings of the model's head."""
    assert isinstance(config.model, CalmConfig)
    section = config.model.model_copy(update={"head": model.network.head.config})
    return config.model_copy(update={"model": section})


def _shifted(progress: Callable[[int, int], None], before: int, wanted: int) -> Callable[[int], Any]:
    return lambda done: progress(before + done, wanted)
