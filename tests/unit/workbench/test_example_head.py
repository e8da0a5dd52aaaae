"""The Gaussian-mixture head of examples/: the contract of all heads, its loss in closed form, its sampler."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from tests.suites.own_head import EXAMPLE, KIND
from tests.suites.small import rng
from workbench import own_heads
from workbench.head_sections import head_section
from workbench.heads import build_head
from workbench.heads.base import Head
from workbench.layers import initialise
from workbench.posterior import Posterior
from workbench.testing.head_suite import HIDDEN, LATENT, HeadSuite, perturbed, posterior, random


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_heads.VARIABLE, str(EXAMPLE))


def mixture_head(**fields: Any) -> Any:
    config = head_section(KIND).model_validate(fields)
    head = build_head(config, hidden_dim=HIDDEN, latent_dim=LATENT)  # type: ignore[arg-type]
    initialise(head, "fan_in", rng=rng(0))
    return head


class TestGaussianMixtureHead(HeadSuite):
    steps, lr = 400, 1e-2

    def build(self) -> Head:
        head: Head = mixture_head(num_components=8)
        return head


def truth(head: Any, hidden: Tensor) -> MixtureSameFamily:
    logits, mean, std = head.mixture(hidden)
    return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(mean, std), 1))


@pytest.mark.parametrize("components", [1, 5])
def test_the_loss_is_the_negative_log_likelihood(components: int) -> None:
    head, hidden = perturbed(mixture_head(num_components=components)), random(7, HIDDEN)
    points = Posterior(random(7, LATENT, seed=5), torch.full((7, LATENT), -40.0))  # without spread: one z each
    expected = -truth(head, hidden).log_prob(points.mean) / LATENT
    torch.testing.assert_close(head.loss(hidden, points, rng=rng()), expected)


def test_the_loss_is_that_of_the_posteriors_samples() -> None:
    """With one component of N(m, s^2): the mean over z of -log p is in closed form."""
    head, hidden = perturbed(mixture_head(num_components=1)), random(1, HIDDEN)
    target = posterior(1)
    _, mean, std = (part.squeeze(1) if part.ndim == 3 else part for part in head.mixture(hidden))
    expected = (
        0.5 * (((target.mean - mean) ** 2 + target.std**2) / std**2)
        + std.log()
        + 0.5 * torch.log(torch.tensor(2 * torch.pi))
    ).mean()
    many = Posterior(target.mean.expand(40_000, -1), target.log_std.expand(40_000, -1))
    losses = head.loss(hidden.expand(40_000, -1), many, rng=rng())
    assert losses.mean().item() == pytest.approx(expected.item(), abs=4 * losses.std().item() / 200)


def test_components_are_drawn_by_their_weights() -> None:
    """Chi-square over 20,000 draws at each of three positions; means far apart say which component it was."""
    head = mixture_head(num_components=4)
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5], [2.0, 0.0, 0.0, -2.0], [0.0, 0.0, 0.0, 0.0]])
    mean = (100.0 * torch.arange(4.0)).view(1, 4, 1).expand(3, 4, LATENT)
    head.mixture = lambda hidden: (logits, mean, torch.ones(3, 4, LATENT))
    draws = head.sample(random(3, HIDDEN), num_samples=20_000, rng=rng())
    chosen = (draws[..., 0] / 100).round().long()  # (S, 3)
    for position in range(3):
        counts = torch.bincount(chosen[:, position], minlength=4).double()
        expected = 20_000 * logits[position].softmax(-1).double()
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, 3)


def test_draws_within_a_component_are_normal_and_independent() -> None:
    head = mixture_head(num_components=1)
    std = torch.tensor([0.5, 2.0]).view(1, 1, LATENT)
    head.mixture = lambda hidden: (torch.zeros(1, 1), torch.full((1, 1, LATENT), 3.0), std)
    z = (head.sample(random(1, HIDDEN), num_samples=20_000, rng=rng())[:, 0] - 3.0) / std[0]
    edges = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0, 1, 21)[1:-1])
    for dim in range(LATENT):
        counts = torch.bincount(torch.bucketize(z[:, dim].contiguous(), edges), minlength=20).double()
        assert ((counts - 1000) ** 2 / 1000).sum() < chi2.ppf(0.999, 19)
    assert abs(torch.corrcoef(z.T)[0, 1].item()) < 0.03


def test_a_standard_deviation_never_falls_below_the_smallest() -> None:
    head = perturbed(mixture_head(smallest_std=0.3))
    assert head.mixture(100 * random(50, HIDDEN))[2].min() >= 0.3


def test_it_has_at_most_40_lines_of_code() -> None:
    """Without docstrings, comments and blank lines."""
    source = EXAMPLE.read_text(encoding="utf-8")
    text = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(source.splitlines(), 1)
    code = [line for number, line in lines if number not in text and line.strip() and line.strip()[0] != "#"]
    assert 20 < len(code) <= 40
