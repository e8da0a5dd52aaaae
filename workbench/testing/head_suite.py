"""What every generative head must do. Inherit ``HeadSuite`` and give it ``kind``, or override ``build``.

Letters: n positions, D width, L latent dimension, S draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from workbench.head_sections import head_section
from workbench.heads import build_head
from workbench.heads.base import Head
from workbench.layers import initialise
from workbench.own_heads import place_of_method
from workbench.posterior import Posterior
from workbench.testing.two_modes import check_means, check_mixture, rng, two_modes

HIDDEN, LATENT = 16, 2
"""D and L of the heads that are tested."""
NUM_LAYERS = 8
"""Of the backbone, for fields that are chosen by it."""
DRAWS = 4000
"""S of a trained head, under each condition."""


def build(kind: str, **fields: Any) -> Head:
    """An initialised head for HIDDEN and LATENT dimensions, the workbench's or one that is offered
    (``workbench.own_heads``). Raises ConfigError for a kind that is not here."""
    section = head_section(kind).model_validate(fields)
    section = section.model_copy(update=section.chosen(NUM_LAYERS))
    head = build_head(section, hidden_dim=HIDDEN, latent_dim=LATENT)  # type: ignore[arg-type]
    initialise(head, "fan_in", rng=rng())
    return head


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed))


def posterior(num: int, seed: int = 5) -> Posterior:
    return Posterior(random(num, LATENT, seed=seed), torch.full((num, LATENT), -1.0))


def perturbed(head: Head) -> Head:
    """Weights moved off their initial values, so that no last layer is zero any more."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng(parameter.numel())))
    return head


class ContractSuite:
    """Contract of ``workbench.heads.base.Head``, as far as it can be told without a training. Takes a second."""

    kind: ClassVar[str] = ""
    """Of the head, as in configurations."""
    fields: ClassVar[Mapping[str, Any]] = {}
    """Of its section, where they are not the defaults."""
    steps: ClassVar[int] = 1600
    """Of the short training, which leaves this suite out."""
    lr: ClassVar[float] = 5e-3
    batch: ClassVar[int] = 128

    def build(self) -> Head:
        """An initialised head for HIDDEN and LATENT dimensions."""
        if not self.kind:
            raise NotImplementedError(f"{type(self).__name__} wants the name of a head as kind, or its own build")
        return build(self.kind, **self.fields)

    @pytest.fixture(autouse=True)
    def _one_thread(self) -> Iterator[None]:
        """Tensors this small take longer with several, and many times as long on a busy machine."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    @pytest.fixture
    def head(self) -> Head:
        return watched(perturbed(self.build()))

    def test_shapes_and_dtypes(self, head: Head) -> None:
        _require(head, "loss", head.loss(random(7, HIDDEN), posterior(7), rng=rng()), (7,))
        samples = head.sample(random(7, HIDDEN), num_samples=3, rng=rng())
        _require(head, "sample", samples, (3, 7, LATENT))

    def test_a_fresh_head_has_a_finite_loss_and_gradient(self) -> None:
        head = watched(self.build())
        loss = head.loss(random(7, HIDDEN), posterior(7), rng=rng())
        loss.mean().backward()
        gradients = [p.grad for p in head.parameters() if p.grad is not None]
        assert loss.isfinite().all(), "the loss of a head with fresh weights is not finite"
        assert gradients, "no parameter has a gradient"
        assert all(g.isfinite().all() for g in gradients), "a gradient of a head with fresh weights is not finite"

    def test_every_parameter_is_trained(self, head: Head) -> None:
        head.loss(random(7, HIDDEN), posterior(7), rng=rng()).mean().backward()
        untouched = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
        assert not untouched, f"the loss has no gradient for {', '.join(untouched)}; leave them out, or use them"

    def test_gradients_reach_the_hidden_states_each_position_its_own(self, head: Head) -> None:
        hidden = random(7, HIDDEN).requires_grad_()
        head.loss(hidden, posterior(7), rng=rng())[2].backward()
        assert hidden.grad is not None, "the loss has no gradient for the hidden states: nothing below is trained"
        assert hidden.grad[2].abs().min() > 0, "the loss of a position does not depend on all of its hidden state"
        others = hidden.grad[[0, 1, 3, 4, 5, 6]]
        assert not others.any(), "the loss of a position depends on the hidden states of others"

    def test_the_generator_decides_the_loss(self, head: Head) -> None:
        hidden, target = random(7, HIDDEN), posterior(7)
        first = head.loss(hidden, target, rng=rng(0))
        again = head.loss(hidden, target, rng=rng(0))
        assert torch.equal(first, again), "the same generator gave another loss: not all randomness comes from rng"
        other = head.loss(hidden, target, rng=rng(1))
        assert not torch.equal(first, other), "another generator gave the same loss: is the target's spread used?"

    def test_the_generator_decides_the_samples_and_moves_on(self, head: Head) -> None:
        hidden, moving = random(7, HIDDEN), rng(0)
        first = head.sample(hidden, num_samples=3, rng=moving)
        again = head.sample(hidden, num_samples=3, rng=rng(0))
        assert torch.equal(first, again), "the same generator gave other draws: not all randomness comes from rng"
        other = head.sample(hidden, num_samples=3, rng=rng(1))
        assert not torch.equal(first, other), "another generator gave the same draws"
        later = head.sample(hidden, num_samples=3, rng=moving)
        assert not torch.equal(first, later), "a second call with one generator gave the same draws again"

    def test_ambient_randomness_is_not_used(self, head: Head) -> None:
        hidden = random(7, HIDDEN)
        state = torch.get_rng_state()
        head.loss(hidden, posterior(7), rng=rng())
        head.sample(hidden, num_samples=2, rng=rng())
        assert torch.equal(state, torch.get_rng_state()), "torch's own generator was used; rng is to be passed on"

    def test_training_mode_changes_neither_loss_nor_samples(self, head: Head) -> None:
        hidden, target = random(7, HIDDEN), posterior(7)
        losses, samples = [], []
        for mode in (True, False):
            head.train(mode)
            losses.append(head.loss(hidden, target, rng=rng()))
            samples.append(head.sample(hidden, num_samples=3, rng=rng()))
        assert torch.equal(losses[0], losses[1]), "loss differs between .train() and .eval()"
        assert torch.equal(samples[0], samples[1]), "sample differs between .train() and .eval()"

    def test_samples_differ_between_draws_and_between_positions(self, head: Head) -> None:
        samples = head.sample(random(1, HIDDEN).expand(50, -1), num_samples=40, rng=rng()).flatten(0, 1)
        different = len(torch.unique(samples, dim=0))
        assert different == 2000, f"40 draws at 50 equal positions: {different} of 2000 differ, all are to"

    def test_samples_of_a_position_are_uncorrelated_with_those_of_others(self, head: Head) -> None:
        samples = head.sample(random(1, HIDDEN).expand(2, -1), num_samples=2000, rng=rng())[..., 0]  # (S, 2)
        successive = torch.stack([samples[:-1, 0], samples[1:, 0]])
        for pairs, what in ((samples.T, "two equal positions"), (successive, "a position, one after the other,")):
            found = torch.corrcoef(pairs)[0, 1].item()
            assert abs(found) < 0.08, f"2000 draws of {what} correlate with {found:.3f}; below 0.08 wanted"

    def test_less_noise_less_spread_and_none_none(self, head: Head) -> None:
        """A tenth of the noise: a head that normalises its noise hardly notices half of it."""
        hidden = random(7, HIDDEN)
        full, little, none = (
            head.sample(hidden, num_samples=200, rng=rng(), noise_scale=scale).std(0) for scale in (1.0, 0.1, 0.0)
        )
        assert full.min() > 0, "200 draws of a position are all the same in a dimension"
        ratio = little / full
        assert ratio.max() < 0.7, (
            f"with noise_scale=0.1 draws spread {ratio.max():.2f} times as far; below 0.7 wanted"
        )
        assert ratio.min() > 0.02, (
            f"with noise_scale=0.1 draws spread {ratio.min():.2g} times as far; above 0.02 wanted"
        )
        assert none.max() < 1e-5, "with noise_scale=0 draws differ; all randomness is to be multiplied by it"

    def test_scaling_the_noise_by_1_is_the_default(self, head: Head) -> None:
        hidden = random(7, HIDDEN)
        scaled = head.sample(hidden, num_samples=3, rng=rng(), noise_scale=1.0)
        default = head.sample(hidden, num_samples=3, rng=rng())
        assert torch.equal(scaled, default), "draws with noise_scale=1 are not those without it"

    @pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
    def test_a_target_without_spread_leaves_everything_finite(self, head: Head, autocast: bool) -> None:
        hidden = random(7, HIDDEN).requires_grad_()
        target = Posterior(random(7, LATENT, seed=5), torch.full((7, LATENT), -20.0))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = head.loss(hidden, target, rng=rng())
            samples = head.sample(hidden, num_samples=2, rng=rng())
        _require(head, "loss", loss, (7,))
        _require(head, "sample", samples, (2, 7, LATENT))
        loss.mean().backward()
        found = {"loss": loss, "sample": samples, "gradient of the hidden states": hidden.grad}
        found |= {f"gradient of {name}": parameter.grad for name, parameter in head.named_parameters()}
        wrong = [name for name, value in found.items() if value is None or not value.isfinite().all()]
        assert not wrong, f"for a target without spread, not finite or not there: {', '.join(wrong)}"

    def test_mixed_precision_changes_the_loss_little(self, head: Head) -> None:
        hidden, target = random(40, HIDDEN), posterior(40)
        plain = head.loss(hidden, target, rng=rng()).mean().item()
        with torch.autocast("cpu", torch.bfloat16):
            loss = head.loss(hidden, target, rng=rng()).mean().item()
        assert loss == pytest.approx(plain, rel=0.05, abs=0.05), (
            f"the mean loss is {plain:.4g}, and {loss:.4g} in mixed precision; within 5% or 0.05 wanted"
        )

    def trained_samples(self) -> tuple[Tensor, Tensor]:
        """DRAWS draws (S, 2) under each condition, 1 and -1, after a short training on ``two_modes``."""
        head, generator = watched(self.build()), rng(1)
        direction = random(HIDDEN, seed=9)
        # Fused: of networks this small, a third of the time goes into the optimizer's single steps.
        optimizer = torch.optim.AdamW(head.parameters(), lr=self.lr, betas=(0.9, 0.95), fused=True)
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
            samples = head.sample(condition.unsqueeze(1) * direction, num_samples=DRAWS, rng=rng(2))
        return samples[:, 0], samples[:, 1]


class HeadSuite(ContractSuite):
    """For a head that can learn any distribution."""

    def test_a_short_training_reaches_both_modes_their_weights_and_spreads(self) -> None:
        upper, lower = self.trained_samples()
        check_mixture(upper, 1.0)
        check_mixture(lower, -1.0)


class OneModeSuite(ContractSuite):
    """For a head that can have one mode only and whose loss is least at the mean, as a squared error or a normal
    distribution's likelihood: it cannot match ``two_modes``, but must find its conditional means. Not for one that
    finds medians, as an absolute error or a Laplace distribution: inherit ``ContractSuite`` for it."""

    def test_a_short_training_reaches_the_conditional_means(self) -> None:
        upper, lower = self.trained_samples()
        check_means(upper, 1.0)
        check_means(lower, -1.0)


def watched(head: Head) -> Head:
    """The same head, whose ``loss`` and ``sample`` say so where they return no tensor of the right shape: what a
    test does with another one would fail with words that name neither."""
    loss, sample = head.loss, head.sample

    def watched_loss(hidden: Tensor, *given: Any, **named: Any) -> Tensor:
        found = loss(hidden, *given, **named)
        _require_shape(head, "loss", found, (len(hidden),))
        return found

    def watched_sample(hidden: Tensor, *given: Any, num_samples: int, **named: Any) -> Tensor:
        found = sample(hidden, *given, num_samples=num_samples, **named)
        _require_shape(head, "sample", found, (num_samples, len(hidden), LATENT))
        return found

    head.loss, head.sample = watched_loss, watched_sample  # type: ignore[method-assign]
    return head


def _require_shape(head: Head, method: str, given: Any, shape: tuple[int, ...]) -> None:
    gave = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
    place = place_of_method(type(head), method)
    assert gave == shape, f"{method} ({place}) must return {shape} here, gave {gave}"


def _require(head: Head, method: str, given: Tensor, shape: tuple[int, ...]) -> None:
    _require_shape(head, method, given, shape)
    dtype = str(given.dtype).removeprefix("torch.")
    place = place_of_method(type(head), method)
    assert given.dtype == torch.float32, f"{method} ({place}) must return float32, gave {dtype}"
