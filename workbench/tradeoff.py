"""Accuracy against collision: how right and how sharp the draws of each sampler are (METHOD section 6).

At every scored position the first chunk is drawn by each sampler at each of its settings. *Accuracy* is the
probability of the true chunk, *collision* the probability that two draws agree: the better sampler is right more
often at the same collision rate. For the token baseline at a softmax temperature both are computed from its
probabilities.

Letters: W windows, n positions of a window, K chunk size, S draws of a sampler at a position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workbench.brier import MAX_ELEMENTS, distribution_agreement
from workbench.chunk_samplers import HiddenSource
from workbench.clock import now
from workbench.config import EvalConfig, TradeoffConfig
from workbench.evaluate import batches
from workbench.grid import Grid
from workbench.language_model import DistributionContext, DistributionModel, LanguageModel
from workbench.layers import generator
from workbench.model import Calm
from workbench.records import TradeoffPoint
from workbench.temperature import BATCH_SIZE, Tempered, batch, exact
from workbench.uncertainty import cluster_residuals, cluster_se

Progress = Callable[[int, int], None]


def tradeoff(
    model: LanguageModel,
    config: EvalConfig,
    asked: TradeoffConfig,
    grid: Grid,
    *,
    done: Sequence[TradeoffPoint] = (),
    keep: Callable[[TradeoffPoint], None] = lambda point: None,
    progress: Progress | None = None,
) -> list[TradeoffPoint]:
    """Every sampler at every setting of ``asked`` on the first windows of the grid. Points that are ``done`` are
    not drawn again; ``keep`` is told each point as soon as there is one. ``progress(done, wanted)`` counts
    settings."""
    windows = grid.first(asked.num_windows)
    if isinstance(model, Calm):
        found = _sampled(model, config, asked, windows, done, progress)
    else:
        assert isinstance(model, DistributionModel)
        found = _softmax(model, config, asked, windows, progress)
    points = []
    for point in found:
        points.append(point)
        keep(point)
    return points


# ---- a CALM: draws --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Setting:
    """One point of a curve."""

    sampler: str
    temperature: float | None = None
    batch_size: int | None = None
    noise_scale: float | None = None

    def draw(self, source: HiddenSource, asked: TradeoffConfig, rng: torch.Generator) -> Tempered:
        if self.sampler == "exact":
            assert self.temperature is not None
            return exact(
                source,
                temperature=self.temperature,
                rng=rng,
                budget=asked.exact_budget,
                on_spent="batch",
                batch_size=max(asked.batch_sizes, default=BATCH_SIZE),
            )
        if self.sampler == "batch":
            assert self.temperature is not None
            assert self.batch_size is not None
            return batch(source, temperature=self.temperature, batch_size=self.batch_size, rng=rng)
        return exact(source, temperature=1.0, rng=rng)


def _settings(asked: TradeoffConfig) -> list[_Setting]:
    exact_ones = [_Setting("exact", temperature=tau) for tau in asked.temperatures]
    batches_ = [
        _Setting("batch", temperature=tau, batch_size=size)
        for size in asked.batch_sizes
        for tau in asked.temperatures
        if tau < 1.0  # one of N at random: what "exact" draws at 1
    ]
    return exact_ones + batches_ + [_Setting("noise", noise_scale=scale) for scale in asked.noise_scales]


@dataclass
class _Sums:
    """What the draws of one setting came to, over batches of windows."""

    accuracy: list[npt.NDArray[np.float64]]
    collision: list[npt.NDArray[np.float64]]
    calls: float = 0.0
    fallback: float = 0.0
    seconds: float = 0.0
    drawn: int = 0


def _sampled(
    model: Calm,
    config: EvalConfig,
    asked: TradeoffConfig,
    grid: Grid,
    done: Sequence[TradeoffPoint],
    progress: Progress | None,
) -> Iterator[TradeoffPoint]:
    settings = _settings(asked)
    earlier = {_Setting(p.sampler, p.temperature, p.batch_size, p.noise_scale): p for p in done}
    places = list(_places(model, grid))
    _add(
        _Sums([], []), model, settings[-1], asked, *places[0][1:], generator(0, device=model.device)
    )  # the first time takes longer
    for number, setting in enumerate(settings):
        sums = _Sums([], [])
        if setting not in earlier:
            for start, hidden, truth in places:
                rng = generator(config.seed, "tradeoff", number, start, device=model.device)
                _add(sums, model, setting, asked, hidden, truth, rng)
        yield earlier.get(setting) or _point(setting, sums, model.chunk_size, grid)
        if progress is not None:
            progress(number + 1, len(settings))


@torch.no_grad()
def _places(model: Calm, grid: Grid) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(number of its first window, hidden states (b, n, D) before the scored positions, true chunks (b, n, K))."""
    k = model.chunk_size
    positions = torch.from_numpy(grid.positions).to(model.device)
    for start, windows in batches(grid, model.device):
        hidden = model.read(windows).hidden[:, positions // k - 1]
        yield start, hidden, model.chunks(windows)[:, positions // k]


@torch.no_grad()
def _add(
    sums: _Sums,
    model: Calm,
    setting: _Setting,
    asked: TradeoffConfig,
    hidden: Tensor,
    truth: Tensor,
    rng: torch.Generator,
) -> None:
    scale = 1.0 if setting.noise_scale is None else setting.noise_scale
    source = HiddenSource(model, hidden.flatten(0, 1), noise_scale=scale)
    began = now(model.device)
    drawn = [setting.draw(source, asked, rng) for _ in range(asked.num_samples)]
    sums.seconds += now(model.device) - began
    chunks = torch.stack([one.chunks for one in drawn])  # (S, b*n, K)
    right = (chunks == truth.flatten(0, 1)).all(-1).double().mean(0)
    same = (chunks.unsqueeze(1) == chunks).all(-1).double().sum((0, 1)) - len(drawn)  # ordered pairs
    shape = truth.shape[:2]
    sums.accuracy.append(right.view(shape).cpu().numpy())
    sums.collision.append((same / (len(drawn) * (len(drawn) - 1))).view(shape).cpu().numpy())
    sums.calls += sum(float(one.calls.sum()) for one in drawn)
    sums.fallback += sum(float(one.fallback.sum()) for one in drawn)
    sums.drawn += chunks.shape[0] * chunks.shape[1]


def _point(setting: _Setting, sums: _Sums, num_tokens: int, grid: Grid) -> TradeoffPoint:
    accuracy, accuracy_se = _mean(np.concatenate(sums.accuracy), grid)
    collision, collision_se = _mean(np.concatenate(sums.collision), grid)
    return TradeoffPoint(
        sampler=setting.sampler,  # type: ignore[arg-type]
        temperature=setting.temperature,
        batch_size=setting.batch_size,
        noise_scale=setting.noise_scale,
        num_tokens=num_tokens,
        accuracy=accuracy,
        accuracy_se=accuracy_se,
        collision=collision,
        collision_se=collision_se,
        calls_per_chunk=sums.calls / sums.drawn,
        fallback_share=sums.fallback / sums.drawn,
        seconds_per_token=sums.seconds / (sums.drawn * num_tokens),
        num_positions=len(grid.windows) * len(grid.positions),
    )


def _mean(values: npt.NDArray[np.float64], grid: Grid) -> tuple[float, float]:
    """In per cent, with its clustered standard error; ``values`` (W, n)."""
    residual = cluster_residuals((values - values.mean()).mean(1), grid.clusters)
    return 100 * float(values.mean()), 100 * float(cluster_se(residual))


# ---- a token baseline: probabilities --------------------------------------------------------------------


def _softmax(
    model: LanguageModel, config: EvalConfig, asked: TradeoffConfig, grid: Grid, progress: Progress | None
) -> Iterator[TradeoffPoint]:
    assert isinstance(model, DistributionModel)
    longest = max(asked.num_tokens)
    positions = torch.from_numpy(grid.positions).to(model.device)
    read = [(start, windows, model.read(windows)) for start, windows in batches(grid, model.device)]
    size = max(1, MAX_ELEMENTS // (len(read[0][1]) * longest * model.row_elements))
    for number, tau in enumerate(asked.temperatures):
        right, same, seconds = [], [], 0.0
        for start, windows, context in read:
            rng = generator(config.seed, "tradeoff", number, start, device=model.device)
            parts = positions.split(size)
            seen = [
                distribution_agreement(context, windows, part, num_tokens=longest, rng=rng, temperature=tau)
                for part in parts
            ]
            right.append(torch.cat([part.accuracy for part in seen], 1).double().cpu().numpy())
            same.append(torch.cat([part.collision for part in seen], 1).double().cpu().numpy())
            seconds += sum(_time_of_draw(model, context, windows, part, tau, rng) for part in parts)
        yield from _softmax_points(np.concatenate(right), np.concatenate(same), seconds, tau, asked, grid)
        if progress is not None:
            progress(number + 1, len(asked.temperatures))


def _softmax_points(
    right: npt.NDArray[np.float64],
    same: npt.NDArray[np.float64],
    seconds: float,
    tau: float,
    asked: TradeoffConfig,
    grid: Grid,
) -> Iterator[TradeoffPoint]:
    """Of each length, from both rates (W, n, t)."""
    num_positions = right[..., 0].size
    for length in asked.num_tokens:
        accuracy, accuracy_se = _mean(right[..., length - 1], grid)
        collision, collision_se = _mean(same[..., length - 1], grid)
        yield TradeoffPoint(
            sampler="softmax",
            temperature=tau,
            num_tokens=length,
            accuracy=accuracy,
            accuracy_se=accuracy_se,
            collision=collision,
            collision_se=collision_se,
            calls_per_chunk=1.0,
            seconds_per_token=seconds / num_positions,
            num_positions=num_positions,
        )


def _time_of_draw(
    model: LanguageModel,
    context: DistributionContext,
    windows: Tensor,
    positions: Tensor,
    tau: float,
    rng: torch.Generator,
) -> float:
    """Seconds to draw one token at each position from the hidden states: output layer, softmax, draw."""
    began = now(model.device)
    log_probs = context.log_probs((positions - 1).expand(windows.shape[0], -1)) / tau
    torch.multinomial(log_probs.softmax(-1).flatten(0, 1), 1, generator=rng)
    return now(model.device) - began
