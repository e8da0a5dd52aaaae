"""The posterior: closed forms and KL clipping at its boundary."""

from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.distributions import Normal, kl_divergence

from tests.suites.small import rng
from workbench.posterior import Posterior, clipped_kl


def random_posterior(*shape: int) -> Posterior:
    return Posterior(torch.randn(shape, generator=rng(1)), 0.5 * torch.randn(shape, generator=rng(2)) - 1)


def with_kl(*values: float) -> Posterior:
    """Unit variances and means such that KL_i = mean^2 / 2 has these values (one chunk)."""
    mean = torch.tensor([[math.sqrt(2 * v) for v in values]])
    return Posterior(mean, torch.zeros_like(mean))


def test_kl_is_that_of_two_normal_distributions() -> None:
    posterior = random_posterior(3, 5, 4)
    expected = kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl_per_dim(), expected)


def test_samples_have_the_posteriors_mean_and_deviation_and_depend_on_the_generator_alone() -> None:
    posterior = Posterior(torch.full((20_000, 2), 3.0), torch.tensor([-1.0, 0.5]).expand(20_000, 2))
    sample = posterior.sample(rng=rng(0))
    assert torch.equal(sample, posterior.sample(rng=rng(0)))
    assert not torch.equal(sample, posterior.sample(rng=rng(1)))
    torch.testing.assert_close(sample.mean(0), torch.tensor([3.0, 3.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(sample.std(0), torch.tensor([-1.0, 0.5]).exp(), atol=0, rtol=0.03)


def test_flatten_and_index_keep_mean_and_deviation_together() -> None:
    posterior = random_posterior(3, 5, 4)
    part = posterior[:, 1:].flatten()
    assert part.mean.shape == part.log_std.shape == (12, 4)
    assert torch.equal(part.mean[4], posterior.mean[1, 1])
    assert torch.equal(part.log_std[4], posterior.log_std[1, 1])


def test_mean_and_deviation_of_different_shapes_are_refused() -> None:
    with pytest.raises(TypeCheckError):
        Posterior(torch.zeros(2, 3), torch.zeros(2, 4))


def test_kl_below_the_floor_counts_as_the_floor_and_above_as_itself() -> None:
    assert clipped_kl(with_kl(0.0, 0.49, 0.5, 0.51, 2.0), 0.5).item() == pytest.approx(0.5 * 3 + 0.51 + 2.0)
    assert clipped_kl(with_kl(0.0, 0.49, 2.0), 0.0).item() == pytest.approx(2.49)


def test_each_chunk_is_clamped_before_the_mean_over_chunks() -> None:
    # one dimension with KL 0 in one chunk and 1 in the other; clamping the mean 0.5 would give 0.6
    posterior = Posterior(torch.tensor([[0.0], [math.sqrt(2.0)]]), torch.zeros(2, 1))
    assert clipped_kl(posterior, 0.6).item() == pytest.approx((0.6 + 1.0) / 2)


def test_no_gradient_reaches_a_dimension_below_the_floor() -> None:
    mean = torch.tensor([[0.5, 1.5], [1.5, 0.5]], requires_grad=True)
    log_std = torch.zeros(2, 2, requires_grad=True)
    clipped_kl(Posterior(mean, log_std + 0.1), 0.5).backward()
    below = torch.tensor([[True, False], [False, True]])
    for gradient in (mean.grad, log_std.grad):
        assert gradient is not None
        assert torch.equal(gradient == 0, below)
