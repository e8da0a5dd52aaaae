"""What every generative head must do. Inherit ``HeadSuite`` and give it ``build``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.suites.small import rng
from workbench.heads.base import Head
from workbench.posterior import Posterior

HIDDEN, LATENT = 16, 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed))


def posterior(num: int, seed: int = 5) -> Posterior:
    return Posterior(random(num, LATENT, seed=seed), torch.full((num, LATENT), -1.0))


def perturbed(head: Head) -> Head:
    """Weights moved off their initial values, so that no last layer is zero any more."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng(parameter.numel()))
    return head


def weight(condition: Tensor) -> Tensor:
    """Of the upper mode."""
    return torch.where(condition > 0, 0.7, 0.3)


def two_modes(condition: Tensor, generator: torch.Generator) -> Posterior:
    """The known conditional distribution: c = +-1 decides everything. First dimension: two modes at
    c +- 1, each with deviation 0.2, the upper one with weight 0.7 for c = 1 and 0.3 for c = -1. Second: one normal
    distribution with mean 2 c and deviation 0.6 for c = 1, 0.2 for c = -1."""
    upper = torch.rand(condition.shape, generator=generator) < weight(condition)
    mean = torch.stack([condition + torch.where(upper, 1.0, -1.0), 2 * condition], -1)
    second = torch.where(condition > 0, 0.6, 0.2)
    return Posterior(mean, torch.stack([torch.full_like(second, 0.2), second], -1).log())


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| without bias: 0 for equal distributions and for no others."""
    within = [torch.cdist(z, z).sum().item() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return 2 * torch.cdist(x, y).mean().item() - sum(within)


LARGEST_DISTANCE = 0.01
"""Energy distance to the truth that a short training must reach. 4,000 draws of the truth itself: 0.0005; heads
that pass: up to 0.004. Equal weights: 0.12; a mode missing: 0.23 and more; deviations doubled: 0.033 and 0.08."""


def distance_to_truth(samples: Tensor, c: float) -> float:
    """Energy distance of samples (S, 2) to as many draws of the distribution under condition c."""
    generator = rng(3)
    return energy_distance(samples, two_modes(torch.full((len(samples),), c), generator).sample(rng=generator))


def check_mixture(samples: Tensor, c: float) -> None:
    """Samples (S, 2) under condition c are those of ``two_modes``, as far as a short training gets."""
    first, second = samples[:, 0] - c, samples[:, 1]
    upper, lower = first[first > 0], first[first < 0]
    assert len(upper) / len(samples) == pytest.approx(weight(torch.tensor(c)).item(), abs=0.07)
    for mode, centre in ((upper, 1.0), (lower, -1.0)):
        assert mode.median().item() == pytest.approx(centre, abs=0.1)
        assert (mode - mode.median()).abs().median().item() == pytest.approx(0.135, rel=0.5)
    assert (first.abs() < 0.5).float().mean().item() < 0.1
    assert second.mean().item() == pytest.approx(2 * c, abs=0.1)
    assert second.std().item() == pytest.approx(0.6 if c > 0 else 0.2, rel=0.3)
    assert distance_to_truth(samples, c) < LARGEST_DISTANCE


class HeadSuite:
    """Contract of ``workbench.heads.base.Head``."""

    steps = 1600
    lr = 5e-3
    batch = 128

    def build(self) -> Head:
        """An initialised head for HIDDEN and LATENT dimensions."""
        raise NotImplementedError

    @pytest.fixture
    def head(self) -> Head:
        return perturbed(self.build())

    def test_shapes_and_dtypes(self, head: Head) -> None:
        loss = head.loss(random(7, HIDDEN), posterior(7), rng=rng())
        samples = head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
        assert loss.shape == (7,)
        assert samples.shape == (3, 7, LATENT)
        assert loss.dtype == samples.dtype == torch.float32

    def test_a_fresh_head_has_a_finite_loss_and_gradient(self) -> None:
        head = self.build()
        loss = head.loss(random(7, HIDDEN), posterior(7), rng=rng())
        loss.mean().backward()
        gradients = [p.grad for p in head.parameters() if p.grad is not None]
        assert loss.isfinite().all()
        assert gradients
        assert all(g.isfinite().all() for g in gradients)

    def test_every_parameter_is_trained(self, head: Head) -> None:
        head.loss(random(7, HIDDEN), posterior(7), rng=rng()).mean().backward()
        untouched = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
        assert not untouched

    def test_gradients_reach_the_hidden_states_each_position_its_own(self, head: Head) -> None:
        hidden = random(7, HIDDEN).requires_grad_()
        head.loss(hidden, posterior(7), rng=rng())[2].backward()
        assert hidden.grad is not None
        assert hidden.grad[2].abs().min() > 0
        assert not hidden.grad[[0, 1, 3, 4, 5, 6]].any()

    def test_the_generator_decides_the_loss(self, head: Head) -> None:
        hidden, target = random(7, HIDDEN), posterior(7)
        first = head.loss(hidden, target, rng=rng(0))
        assert torch.equal(first, head.loss(hidden, target, rng=rng(0)))
        assert not torch.equal(first, head.loss(hidden, target, rng=rng(1)))

    def test_the_generator_decides_the_samples_and_moves_on(self, head: Head) -> None:
        hidden, moving = random(7, HIDDEN), rng(0)
        first = head.sample(hidden, num_samples=3, rng=moving)
        assert torch.equal(first, head.sample(hidden, num_samples=3, rng=rng(0)))
        assert not torch.equal(first, head.sample(hidden, num_samples=3, rng=rng(1)))
        assert not torch.equal(first, head.sample(hidden, num_samples=3, rng=moving))

    def test_ambient_randomness_is_not_used(self, head: Head) -> None:
        hidden = random(7, HIDDEN)
        state = torch.get_rng_state()
        head.loss(hidden, posterior(7), rng=rng())
        head.sample(hidden, num_samples=2, rng=rng())
        assert torch.equal(state, torch.get_rng_state())

    def test_training_mode_changes_neither_loss_nor_samples(self, head: Head) -> None:
        hidden, target = random(7, HIDDEN), posterior(7)
        losses, samples = [], []
        for mode in (True, False):
            head.train(mode)
            losses.append(head.loss(hidden, target, rng=rng()))
            samples.append(head.sample(hidden, num_samples=3, rng=rng()))
        assert torch.equal(losses[0], losses[1])
        assert torch.equal(samples[0], samples[1])

    def test_samples_differ_between_draws_and_between_positions(self, head: Head) -> None:
        samples = head.sample(random(1, HIDDEN).expand(50, -1), num_samples=40, rng=rng()).flatten(0, 1)
        assert len(torch.unique(samples, dim=0)) == 2000

    def test_samples_of_a_position_are_uncorrelated_with_those_of_others(self, head: Head) -> None:
        samples = head.sample(random(1, HIDDEN).expand(2, -1), num_samples=2000, rng=rng())[..., 0]  # (S, 2)
        assert abs(torch.corrcoef(samples.T)[0, 1].item()) < 0.08
        successive = torch.stack([samples[:-1, 0], samples[1:, 0]])
        assert abs(torch.corrcoef(successive)[0, 1].item()) < 0.08

    def test_less_noise_less_spread_and_none_none(self, head: Head) -> None:
        """A tenth of the noise: a head that normalises its noise hardly notices half of it."""
        hidden = random(7, HIDDEN)
        full, little, none = (
            head.sample(hidden, num_samples=200, rng=rng(), noise_scale=scale).std(0) for scale in (1.0, 0.1, 0.0)
        )
        assert (little < 0.7 * full).all()
        assert (little > 0.02 * full).all()
        assert none.max() < 1e-5

    def test_scaling_the_noise_by_1_is_the_default(self, head: Head) -> None:
        hidden = random(7, HIDDEN)
        scaled = head.sample(hidden, num_samples=3, rng=rng(), noise_scale=1.0)
        assert torch.equal(scaled, head.sample(hidden, num_samples=3, rng=rng()))

    @pytest.mark.parametrize("autocast", [False, True])
    def test_a_target_without_spread_leaves_everything_finite(self, head: Head, autocast: bool) -> None:
        hidden = random(7, HIDDEN).requires_grad_()
        target = Posterior(random(7, LATENT, seed=5), torch.full((7, LATENT), -20.0))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = head.loss(hidden, target, rng=rng())
            samples = head.sample(hidden, num_samples=2, rng=rng())
        loss.mean().backward()
        assert loss.dtype == samples.dtype == torch.float32
        assert loss.isfinite().all()
        assert samples.isfinite().all()
        assert hidden.grad is not None
        assert hidden.grad.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())

    def test_mixed_precision_changes_the_loss_little(self, head: Head) -> None:
        hidden, target = random(40, HIDDEN), posterior(40)
        plain = head.loss(hidden, target, rng=rng()).mean()
        with torch.autocast("cpu", torch.bfloat16):
            loss = head.loss(hidden, target, rng=rng()).mean()
        torch.testing.assert_close(loss, plain, rtol=0.05, atol=0.05)

    @pytest.mark.slow
    def test_a_short_training_reaches_both_modes_their_weights_and_spreads(self) -> None:
        head, generator = self.build(), rng(1)
        direction = random(HIDDEN, seed=9)
        optimizer = torch.optim.AdamW(head.parameters(), lr=self.lr, betas=(0.9, 0.95))
        for step in range(self.steps):
            condition = torch.where(torch.rand(self.batch, generator=generator) < 0.5, 1.0, -1.0)
            target = two_modes(condition, generator)
            loss = head.loss(condition.unsqueeze(1) * direction, target, rng=generator).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] = self.lr * min(1.0, 2 * (1 - (step + 1) / self.steps))
        condition = torch.tensor([1.0, -1.0])
        with torch.no_grad():
            samples = head.sample(condition.unsqueeze(1) * direction, num_samples=4000, rng=rng(2))
        check_mixture(samples[:, 0], 1.0)
        check_mixture(samples[:, 1], -1.0)
