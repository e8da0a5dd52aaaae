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


def two_modes(condition: Tensor, generator: torch.Generator) -> Posterior:
    """The known conditional distribution: c = +-1 decides everything. First dimension: two modes at
    c +- 1, each with deviation 0.2, equally likely. Second: one normal distribution with mean 2 c and
    deviation 0.6 for c = 1, 0.2 for c = -1."""
    sign = torch.where(torch.rand(condition.shape, generator=generator) < 0.5, 1.0, -1.0)
    mean = torch.stack([condition + sign, 2 * condition], -1)
    second = torch.where(condition > 0, 0.6, 0.2)
    return Posterior(mean, torch.stack([torch.full_like(second, 0.2), second], -1).log())


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

    @pytest.mark.slow
    def test_a_short_training_reaches_mean_spread_and_both_modes(self) -> None:
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
        for index, (c, second_std) in enumerate(((1.0, 0.6), (-1.0, 0.2))):
            self.check_two_modes(samples[:, index, 0] - c)
            assert samples[:, index, 1].mean().item() == pytest.approx(2 * c, abs=0.1)
            assert samples[:, index, 1].std().item() == pytest.approx(second_std, rel=0.35)

    def check_two_modes(self, samples: Tensor) -> None:
        """Modes at -1 and 1 with deviation 0.2, equally likely, next to nothing between them."""
        upper, lower = samples[samples > 0], samples[samples < 0]
        assert len(upper) / len(samples) == pytest.approx(0.5, abs=0.1)
        for mode, centre in ((upper, 1.0), (lower, -1.0)):
            assert mode.median().item() == pytest.approx(centre, abs=0.1)
            assert (mode - mode.median()).abs().median().item() == pytest.approx(0.135, rel=0.5)
        assert (samples.abs() < 0.5).float().mean().item() < 0.15
