"""What a trained model is asked besides its evaluation: other numbers of network calls, other samplers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from workbench.call_curve import call_curve
from workbench.config import RunConfig
from workbench.errors import NotFiniteError
from workbench.grid import Grid
from workbench.language_model import LanguageModel
from workbench.model import Calm
from workbench.progress import Display
from workbench.records import CallPoint, Diagnostic, RunRecord, TradeoffPoint
from workbench.tradeoff import tradeoff


def compare_sampling(
    model: LanguageModel,
    config: RunConfig,
    grid: Grid,
    vocab: int,
    record: RunRecord,
    save: Callable[[], None],
    display: Display,
) -> None:
    """Fill in the record's ``call_curve`` and ``tradeoff``, as far as ``eval.network_calls`` and ``eval.tradeoff``
    ask for them. It may take minutes: ``save`` is called after each point, and what the record holds is not done
    again. What is not finite ends the comparison, not the run, whose own evaluation is: a diagnostic says so."""

    def keep(point: CallPoint | TradeoffPoint) -> None:
        kept: list[Any] = record.call_curve if isinstance(point, CallPoint) else record.tradeoff
        kept.append(point)
        save()

    calls, samplers = record.call_curve, record.tradeoff
    if isinstance(model, Calm) and config.eval.network_calls:
        record.call_curve = []
        with _noting(record, "eval.network_calls"):
            call_curve(
                model,
                config,
                grid,
                vocab=vocab,
                known=record.final,
                done=calls,
                keep=keep,
                progress=_progress(display, "evaluating by network calls (windows)"),
            )
    if config.eval.tradeoff is not None:
        record.tradeoff = []
        with _noting(record, "eval.tradeoff"):
            tradeoff(
                model,
                config.eval,
                config.eval.tradeoff,
                grid,
                done=samplers,
                keep=keep,
                progress=_progress(display, "comparing samplers (settings)"),
            )


@contextlib.contextmanager
def _noting(record: RunRecord, asked: str) -> Iterator[None]:
    try:
        yield
    except NotFiniteError as error:
        message = f"the comparison that {asked} asks for is not complete: {error}; leave its last setting out"
        record.diagnostics.append(Diagnostic(code="not_finite", message=message))


def _progress(display: Display, name: str) -> Callable[[int, int], None]:
    begun = False

    def report(done: int, wanted: int) -> None:
        nonlocal begun
        if not begun:
            display.stage(name, wanted)
            begun = True
        display.advance(done)

    return report
