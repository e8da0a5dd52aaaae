"""Samplers of the diffusion head with the exact denoiser of a Gaussian target.

Everything is then linear in the noise, so that mean and variance of the samples follow exactly from what each
noise draw does to them, and no sample is needed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from workbench.heads.diffusion_samplers import SAMPLERS, Denoiser
from workbench.heads.noise_schedule import NoiseSchedule, cosine_schedule, kept_steps, linear_schedule

MEAN, STD = 1.5, 0.4


def exact(chain: NoiseSchedule) -> Denoiser:
    """E[z | x_t] for z ~ N(MEAN, STD^2), and the place of the variance of p(x_(t-1) | x_t) in its range."""
    signals, marginals = chain.alpha_bars.sqrt(), chain.alpha_bars * STD**2 + 1 - chain.alpha_bars
    left = STD**2 * (1 - chain.alpha_bars) / marginals  # Var(z | x_t)
    variances = chain.posterior_variances + chain.posterior_from_latent**2 * left
    low, high = chain.log_variance_range
    places = (variances.log() - low) / (high - low)

    def denoise(state: Tensor, t: int) -> tuple[Tensor, Tensor]:
        latent = MEAN + signals[t] * STD**2 / marginals[t] * (state - signals[t] * MEAN)
        return latent, places[t].expand_as(state)

    return denoise


def moments(solver: str, chain: NoiseSchedule, *, denoise: Denoiser | None = None) -> tuple[float, float]:
    """Mean and standard deviation of the samples: entry i has 1 for the i-th noise draw and 0 for the others, the
    last entry has none."""
    unit = iter(torch.eye(len(chain) + 1, dtype=torch.float64)[:-1])
    found = SAMPLERS[solver](denoise or exact(chain), lambda: next(unit), chain)
    effects = found[:-1] - found[-1]
    return found[-1].item(), effects.square().sum().sqrt().item()


def head_chain(num_calls: int, spacing: str = "uniform", schedule: NoiseSchedule | None = None) -> NoiseSchedule:
    return (schedule or cosine_schedule(1000)).respaced(kept_steps(1000, num_calls, spacing))


@pytest.mark.parametrize("spacing", ["uniform", "dense_start", "dense_end"])
@pytest.mark.parametrize("solver", SAMPLERS)
def test_mean_and_spread_of_the_target_are_reproduced(solver: str, spacing: str) -> None:
    mean, std = moments(solver, head_chain(200, spacing))
    assert mean == pytest.approx(MEAN, abs=2e-3)
    assert std == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize("solver", SAMPLERS)
def test_more_calls_are_more_accurate(solver: str) -> None:
    errors = [abs(moments(solver, head_chain(num_calls))[1] / STD - 1) for num_calls in (2, 4, 8, 20, 100, 1000)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 4e-3


@pytest.mark.parametrize("solver", SAMPLERS)
def test_the_linear_schedule_has_a_little_signal_left_at_its_start(solver: str) -> None:
    """sqrt(alpha_bar) = 0.0064 of the target's mean is missing in the noise that is started from."""
    mean, std = moments(solver, head_chain(1000, schedule=linear_schedule(1000)))
    assert mean == pytest.approx(MEAN, abs=0.01)
    assert std == pytest.approx(STD, rel=0.01)


@pytest.mark.parametrize("solver", SAMPLERS)
def test_one_call_is_the_prediction_from_noise(solver: str) -> None:
    chain = head_chain(1)
    mean, std = moments(solver, chain)
    assert mean == pytest.approx(exact(chain)(torch.zeros(1), 0)[0].item(), rel=1e-6)
    assert mean == pytest.approx(MEAN, rel=1e-6)
    assert std < 1e-3


def chain_through(lambdas: Tensor) -> NoiseSchedule:
    """lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)), falling."""
    alpha_bars = torch.sigmoid(2 * lambdas)
    return NoiseSchedule(1 - alpha_bars / torch.cat([alpha_bars.new_ones(1), alpha_bars[:-1]]))


def ode_error(solver: str, lengths: Tensor) -> float:
    """Of a deterministic sampler, with steps of such lengths from lambda = -3 to 3, against the exact flow, along
    which (x_t - sqrt(alpha_bar) MEAN) / marginal deviation stays the same. Both end with the same prediction."""
    chain = chain_through(3 - 6 * torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]) / lengths.sum())
    signals, deviations = chain.alpha_bars.sqrt(), (chain.alpha_bars * STD**2 + 1 - chain.alpha_bars).sqrt()
    start = torch.tensor([0.7, -1.2], dtype=torch.float64)
    carried = signals[0] * MEAN + (start - signals[-1] * MEAN) / deviations[-1] * deviations[0]
    expected, _ = exact(chain)(carried, 0)
    return (SAMPLERS[solver](exact(chain), lambda: start, chain) - expected).abs().max().item()


@pytest.mark.parametrize("pattern", [[1.0, 1.0], [1.0, 3.0]])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm2m", 2)])
def test_the_error_falls_at_the_solvers_order(solver: str, order: int, pattern: list[float]) -> None:
    """Steps of equal length, or every second one three times as long."""
    lengths = torch.tensor(pattern, dtype=torch.float64)
    errors = [ode_error(solver, lengths.repeat(num_pairs)) for num_pairs in (20, 40, 80)]
    measured = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert measured == pytest.approx([order, order], abs=0.2)


@pytest.mark.parametrize(("solver", "draws"), [("ddpm", 5), ("ddim", 1), ("dpm2m", 1)])
def test_noise_is_drawn_at_every_step_but_the_last_or_once(solver: str, draws: int) -> None:
    chain, drawn = head_chain(5), []

    def draw() -> Tensor:
        drawn.append(1)
        return torch.ones(2, dtype=torch.float64)

    SAMPLERS[solver](exact(chain), draw, chain)
    assert len(drawn) == draws


@pytest.mark.parametrize("place", [0.0, 1.0, 0.3])
def test_the_learned_place_decides_the_noise_of_an_ancestral_step(place: float) -> None:
    """Two steps; z is predicted as the state, so that the last step hands on what the first one made."""
    chain = head_chain(2)
    _, std = moments("ddpm", chain, denoise=lambda state, t: (state, torch.full_like(state, place)))
    low, high = chain.posterior_variances[1].item(), chain.betas[1].item()
    kept = chain.posterior_from_latent[1].item() + chain.posterior_from_noisy[1].item()
    assert std**2 - kept**2 == pytest.approx(low ** (1 - place) * high**place, rel=1e-9)


def test_ancestral_sampling_without_learned_variance_is_seen() -> None:
    """The check of the spread can fail: with the posterior's variance in few calls it is too small."""
    chain = head_chain(20)
    right = moments("ddpm", chain)[1]
    wrong = moments("ddpm", chain, denoise=lambda state, t: (exact(chain)(state, t)[0], torch.zeros_like(state)))[
        1
    ]
    assert wrong < 0.98 * right
