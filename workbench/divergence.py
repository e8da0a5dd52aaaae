"""Runs that no more training can save: a loss or gradients that have exploded, a collapsed autoencoder.

Judged by the logged points alone (``metrics.jsonl``), so a run that was interrupted gets the verdict that it would
have got anyway. A loss that is not a number is seen by the trainer itself, at once. Imports no torch.

The rule must never stop a run that learns. In 75 tiny ones of every head, score and optimizer, the median loss of
WINDOW points after the warm-up was at most 1.11 times the first point's and 1.11 times the lowest such median
before, and the median gradient norm at most 7 times its lowest (tests/bench/false_alarms.py). A rate so high that
nothing is learnt but nothing explodes either is left to the pruner and to ``below_floor``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from workbench.records import AutoencoderReport, TrainPoint

WINDOW = 20
"""Logged points that a verdict rests on: a tenth of a run."""
ABOVE_START = 1.5
"""Median loss over that of the first point: the model is worse than an untrained one."""
ABOVE_BEST = 3.0
"""Median loss over the lowest one before: what was learnt is lost."""
GRADIENTS = 100.0
"""Median gradient norm, before clipping, over the lowest one before."""
COLLAPSED_KL = 0.05
"""A latent dimension whose mean KL on held-out chunks is below this many nats carries nothing."""


class DivergedError(Exception):
    """Loss or gradients have exploded; the text says which and by how much."""


class Watcher:
    """Fed every logged point, those from before an interruption first."""

    def __init__(self, *, warmup_steps: int, earlier: Sequence[TrainPoint] = ()) -> None:
        self.warmup_steps = warmup_steps
        self.first: float | None = None
        """Loss of the first logged point."""
        self.losses: list[float] = []
        """The last WINDOW of them after the warm-up."""
        self.norms: list[float] = []
        self.least_loss = self.least_norm = float("inf")
        """Medians of WINDOW points."""
        for point in earlier:
            self._add(point)

    def see(self, point: TrainPoint) -> None:
        """Raises DivergedError where the run is lost."""
        self._add(point)
        why = self._verdict()
        if why is not None:
            raise DivergedError(f"{why}, at step {point.step}")

    def _add(self, point: TrainPoint) -> None:
        if self.first is None:
            self.first = point.loss
        if point.step <= self.warmup_steps:
            return
        if len(self.losses) == WINDOW:
            self.least_loss = min(self.least_loss, statistics.median(self.losses))
            self.least_norm = min(self.least_norm, statistics.median(self.norms))
        self.losses = [*self.losses, point.loss][-WINDOW:]
        self.norms = [*self.norms, point.grad_norm][-WINDOW:]

    def _verdict(self) -> str | None:
        if len(self.losses) < WINDOW or self.first is None:
            return None
        loss, norm = statistics.median(self.losses), statistics.median(self.norms)
        of = f"median of {WINDOW} logged points"
        if 0 < ABOVE_START * self.first < loss:
            return (
                f"the loss ({of}) is {loss:.4g}, {loss / self.first:.3g} times what it was before training "
                f"({self.first:.4g})"
            )
        if 0 < ABOVE_BEST * self.least_loss < loss:
            more = loss / self.least_loss
            return f"the loss ({of}) is {loss:.4g} after {self.least_loss:.4g}, {more:.3g} times as much"
        if 0 < GRADIENTS * self.least_norm < norm:
            return (
                f"the gradient norm before clipping ({of}) is {norm:.4g} after {self.least_norm:.4g}, "
                f"{norm / self.least_norm:.3g} times as much"
            )
        return None


def collapsed(report: AutoencoderReport, held_out: npt.NDArray[np.integer]) -> str | None:
    """Why no head can be trained on an autoencoder's latent vectors; None where one can. ``held_out``: the tokens
    of the split that it was evaluated on."""
    if report.num_collapsed == report.latent_dim:
        return (
            f"none of the autoencoder's {report.latent_dim} latent dimensions carries information (KL below "
            f"{COLLAPSED_KL:g} nats each)"
        )
    blind = most_frequent_share(held_out)
    if report.token_accuracy <= blind:
        return (
            f"the autoencoder gets {report.token_accuracy:.2%} of held-out tokens right, always the most frequent "
            f"one would get {blind:.2%}"
        )
    return None


def most_frequent_share(tokens: npt.NDArray[np.integer]) -> float:
    """What the best decoder that sees nothing gets right."""
    return float(np.bincount(tokens).max() / len(tokens)) if len(tokens) else 0.0
