"""Gradient norms of a run: do they explode, or have spikes? Imports no torch.

A ``TrainPoint`` holds the norm, before clipping, of one step: the last one of its logging interval. So these norms
are a regular sample of the steps, about 200 of a run; what happened between them is not seen, and the share of
clipped steps is an estimate. That share is told but is no sign by itself: a gradient that is always shortened by
much the same factor trains as well, and ordinary runs at alpha = 1 have a median norm of about 1, the default of
``optim.clip``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.records import Diagnostic, TrainPoint

LEAST_POINTS = 20
"""Logged steps after the warm-up, fewer of which say nothing."""
NEIGHBOURS = 5
"""Logged steps on each side that a norm is compared with: in ordinary training norms drift by a factor of ten."""
SPIKE = 5.0
"""Times the median of its neighbours, above which a norm is a spike. In ordinary runs of several scores,
optimizers and kinds of model the largest was 2.6 times, with thirty times the learning rate 20."""
GROWTH = 10.0
"""Median of the last quarter over that of the first, above which norms have exploded; ordinary: at most 1.2."""
FAR = 10.0
"""Times the clipping threshold, above which the median norm has exploded; ordinary: at most 4.4 (alpha = 1.5)."""


@dataclass(frozen=True)
class GradientNorms:
    """Of the logged steps after the warm-up, before clipping."""

    num_points: int
    median: float
    largest: float
    spike: float
    """Largest ratio of a norm to the median of its neighbours."""
    spike_step: int
    """Where that was."""
    num_spikes: int
    growth: float
    """Median of the last quarter of the points over that of the first."""
    clipped: float
    """Share of the points above the clipping threshold."""


def gradient_norms(points: Sequence[TrainPoint], *, warmup_steps: int, clip: float) -> GradientNorms | None:
    """None with fewer than ``LEAST_POINTS`` logged steps after the warm-up."""
    kept = [point for point in points if point.step > warmup_steps]
    norms = [point.grad_norm for point in kept]
    if len(norms) < LEAST_POINTS:
        return None
    ratios = [_ratio(norm, _neighbours(norms, i)) for i, norm in enumerate(norms)]
    spike = max(ratios)
    quarter = len(norms) // 4
    return GradientNorms(
        num_points=len(norms),
        median=statistics.median(norms),
        largest=max(norms),
        spike=spike,
        spike_step=kept[ratios.index(spike)].step,
        num_spikes=sum(ratio > SPIKE for ratio in ratios),
        growth=_ratio(statistics.median(norms[-quarter:]), norms[:quarter]),
        clipped=sum(norm > clip for norm in norms) / len(norms),
    )


def _neighbours(norms: list[float], i: int) -> list[float]:
    return norms[max(0, i - NEIGHBOURS) : i] + norms[i + 1 : i + 1 + NEIGHBOURS]


def _ratio(norm: float, others: list[float]) -> float:
    middle = statistics.median(others)
    return norm / middle if middle > 0.0 else float(norm > 0.0)


def diagnose_gradient_norms(points: Sequence[TrainPoint], *, warmup_steps: int, clip: float) -> list[Diagnostic]:
    """After the warm-up: norms that grew ``GROWTH`` times from the first to the last quarter, a median of ``FAR``
    times the clipping threshold, or norms of ``SPIKE`` times the median of their neighbours."""
    found = gradient_norms(points, warmup_steps=warmup_steps, clip=clip)
    if found is None:
        return []
    signs = []
    if found.growth > GROWTH:
        signs.append(f"grew {found.growth:.3g} times from the first to the last quarter")
    if found.median > FAR * clip:
        signs.append(f"had a median of {found.median / clip:.3g} times optim.clip")
    if found.num_spikes:
        spikes = "spike" if found.num_spikes == 1 else "spikes"
        signs.append(
            f"had {found.num_spikes} {spikes} of more than {SPIKE:g} times the logged steps around, the largest "
            f"{found.spike:.3g} times at step {found.spike_step}"
        )
    if not signs:
        return []
    return [
        Diagnostic(
            code="gradient_norm",
            message=f"gradient norms {', and '.join(signs)} (before clipping; {found.num_points} logged steps "
            f"after the warm-up: median {found.median:.3g}, largest {found.largest:.3g}, {found.clipped:.0%} "
            f"above optim.clip {clip:g}): lower optim.lr, lengthen optim.warmup_fraction, or raise a "
            "model.head.alpha below 1; with an alpha above 1, whose gradients are longer, raise optim.clip",
        )
    ]
