"""The diffusion's chain: closed forms against single steps and Bayes' rule by brute force; respacing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from workbench.heads.noise_schedule import (
    SCHEDULES,
    NoiseSchedule,
    cosine_schedule,
    kept_steps,
    linear_schedule,
)

SPACINGS = ["uniform", "dense_start", "dense_end"]
CHAINS = {
    "cosine": cosine_schedule(1000),
    "linear": linear_schedule(1000),
    "short": cosine_schedule(20),
    "respaced": cosine_schedule(1000).respaced(kept_steps(1000, 20, "uniform")),
}


def exponent(x: Tensor, mean: float, variance: float) -> Tensor:
    """Log density of a normal distribution, up to a constant."""
    return -((x - mean) ** 2) / (2 * variance)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=list(CHAINS))
def test_single_steps_compose_to_the_closed_form(chain: NoiseSchedule) -> None:
    """x_t = sqrt(1 - beta) x_(t-1) + sqrt(beta) noise, the mean's factor and the variance carried along."""
    factor, variance, factors, variances = 1.0, 0.0, [], []
    for beta in chain.betas.tolist():
        factor, variance = factor * math.sqrt(1 - beta), (1 - beta) * variance + beta
        factors.append(factor)
        variances.append(variance)
    torch.testing.assert_close(chain.alpha_bars.sqrt(), torch.tensor(factors, dtype=torch.float64))
    torch.testing.assert_close(1 - chain.alpha_bars, torch.tensor(variances, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "t"), [("cosine", 1), ("cosine", 400), ("linear", 900), ("short", 19), ("respaced", 7)]
)
def test_the_posterior_is_bayes_rule(name: str, t: int) -> None:
    """q(x_(t-1) | x_t, z) ~ q(x_t | x_(t-1)) q(x_(t-1) | z), normalised on a grid."""
    chain, z, noisy = CHAINS[name], 0.8, -0.3
    beta, before = chain.betas[t].item(), chain.alpha_bars_before[t].item()
    centre = chain.posterior_from_latent[t].item() * z + chain.posterior_from_noisy[t].item() * noisy
    width = math.sqrt(chain.posterior_variances[t].item())
    grid = torch.linspace(centre - 12 * width, centre + 12 * width, 20_001, dtype=torch.float64)
    log_density = exponent(math.sqrt(1 - beta) * grid, noisy, beta) + exponent(
        grid, math.sqrt(before) * z, 1 - before
    )
    density = log_density.softmax(0)
    mean = (density * grid).sum().item()
    variance = (density * (grid - mean) ** 2).sum().item()
    assert mean == pytest.approx(centre, abs=1e-6 * width)
    assert variance == pytest.approx(width**2, rel=1e-6)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=list(CHAINS))
def test_the_first_step_leads_back_to_the_latent_vector_itself(chain: NoiseSchedule) -> None:
    assert chain.posterior_from_latent[0].item() == pytest.approx(1.0, rel=1e-9)
    assert chain.posterior_from_noisy[0].item() == 0.0
    assert chain.posterior_variances[0].item() == 0.0


@pytest.mark.parametrize("chain", CHAINS.values(), ids=list(CHAINS))
def test_the_learned_range_goes_from_the_posteriors_variance_to_beta(chain: NoiseSchedule) -> None:
    low, high = chain.log_variance_range
    assert low.isfinite().all()
    assert (low <= high).all()
    torch.testing.assert_close(low[1:].exp(), chain.posterior_variances[1:])
    torch.testing.assert_close(high.exp(), chain.betas)
    assert low[0] == low[1]


def test_a_chain_of_one_step_has_a_range_too() -> None:
    low, high = cosine_schedule(1000).respaced([999]).log_variance_range
    assert low.tolist() == high.tolist()
    assert low.isfinite().all()


def test_the_cosine_schedule_is_its_formula_up_to_the_largest_beta() -> None:
    schedule = cosine_schedule(1000)
    level = lambda t: math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    for t in (0, 1, 250, 500, 998):
        assert schedule.alpha_bars[t].item() == pytest.approx(level(t + 1) / level(0), rel=1e-9)
    assert schedule.betas[-1].item() == 0.999
    assert (schedule.betas[:-1] < 0.999).all()
    assert schedule.alpha_bars[-1].item() < 1e-8


def test_the_linear_schedule_has_the_published_ends_and_about_the_same_noise_for_other_lengths() -> None:
    schedule = linear_schedule(1000)
    assert schedule.betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert schedule.alpha_bars[-1].item() == pytest.approx(4.04e-5, rel=0.01)
    assert linear_schedule(500).alpha_bars[-1].log().item() == pytest.approx(math.log(4.04e-5), rel=0.05)


@pytest.mark.parametrize("num_steps", [2, 3, 10, 5000])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_of_any_length_are_proper(kind: str, num_steps: int) -> None:
    schedule = SCHEDULES[kind](num_steps)
    assert len(schedule) == num_steps
    assert ((schedule.betas > 0) & (schedule.betas < 1)).all()
    assert (schedule.alpha_bars.diff() < 0).all()


@pytest.mark.parametrize("steps", [[999], [0, 999], [3, 17, 400, 999], list(range(1000))])
def test_a_respaced_chain_has_the_same_marginals_at_the_kept_steps(steps: list[int]) -> None:
    whole = cosine_schedule(1000)
    torch.testing.assert_close(whole.respaced(steps).alpha_bars, whole.alpha_bars[steps])


def test_all_steps_kept_is_the_chain_itself() -> None:
    whole = cosine_schedule(1000)
    torch.testing.assert_close(whole.respaced(range(1000)).betas, whole.betas)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_steps", [2, 37, 1000])
def test_kept_steps_are_different_ascending_and_end_with_the_last(num_steps: int, spacing: str) -> None:
    for num_calls in range(1, num_steps + 1, 1 if num_steps < 100 else 83):
        steps = kept_steps(num_steps, num_calls, spacing)
        assert len(steps) == num_calls
        assert steps == sorted(set(steps))
        assert steps[0] >= 0
        assert steps[-1] == num_steps - 1
    assert kept_steps(num_steps, num_steps, spacing) == list(range(num_steps))


def test_where_kept_steps_are_dense() -> None:
    assert kept_steps(1000, 4, "uniform") == [249, 499, 749, 999]
    end, start = kept_steps(1000, 4, "dense_end"), kept_steps(1000, 4, "dense_start")
    assert end == [61, 249, 561, 999]
    assert start == [437, 749, 937, 999]
