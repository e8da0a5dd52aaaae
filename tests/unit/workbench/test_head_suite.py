"""The suite of heads refuses each head that is wrong in one respect, by the test that is meant for it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tests.suites.own_head import EXAMPLE, KIND
from workbench import own_heads
from workbench.errors import ConfigError
from workbench.testing import ContractSuite, HeadSuite, OneModeSuite, build
from workbench.testing.head_suite import perturbed, watched

LOSS = "        return -(logits.log_softmax(-1) + each).logsumexp(-1) / self.latent_dim\n"
SAMPLE = "        return mean[at, chosen] + noise_scale * std[at, chosen] * noise\n"
BROKEN = [
    (
        "shapes_and_dtypes",
        LOSS,
        LOSS.replace("return ", "return (").replace("\n", ").sum()\n"),
        r"loss \(mine.py, line 51\) must return \(7,\) here, gave \(\)",
    ),
    (
        "shapes_and_dtypes",
        SAMPLE,
        SAMPLE.replace("noise\n", "noise.double()\n"),
        r"sample \(mine.py, line 58\) must return float32, gave float64",
    ),
    ("a_fresh_head_has_a_finite_loss_and_gradient", LOSS, LOSS.replace("\n", " / 0\n"), "fresh weights"),
    (
        "every_parameter_is_trained",
        "        mark_outermost",
        "        self.spare = nn.Linear(3, 3)\n        mark_outermost",
        "no gradient for spare.weight, spare.bias;",
    ),
    (
        "gradients_reach_the_hidden_states_each_position_its_own",
        "self.middle(self.hidden_norm(hidden))",
        "self.middle(self.hidden_norm(hidden.detach()))",
        "no gradient for the hidden states",
    ),
    (
        "gradients_reach_the_hidden_states_each_position_its_own",
        LOSS,
        LOSS.replace("each)", "each + mean.mean())"),
        "depends on the hidden states of others",
    ),
    ("the_generator_decides_the_loss", "sample(rng=rng)", "mean", "is the target's spread used"),
    (
        "the_generator_decides_the_samples_and_moves_on",
        "generator=rng, device=hidden.device)\n        return mean",
        "device=hidden.device)\n        return mean",
        "not all randomness comes from rng",
    ),
    (
        "ambient_randomness_is_not_used",
        "        at = ",
        "        torch.rand(1)\n        at = ",
        "torch's own generator was used",
    ),
    (
        "training_mode_changes_neither_loss_nor_samples",
        LOSS,
        LOSS.replace("\n", " * (1 + self.training)\n"),
        "loss differs between",
    ),
    (
        "training_mode_changes_neither_loss_nor_samples",
        SAMPLE,
        SAMPLE.replace("noise\n", "noise * (1 + self.training)\n"),
        "sample differs between",
    ),
    (
        "samples_differ_between_draws_and_between_positions",
        "(num_samples, *mean[:, 0].shape)",
        "(num_samples, 1, self.latent_dim)",
        "of 2000 differ",
    ),
    (
        "samples_of_a_position_are_uncorrelated_with_those_of_others",
        SAMPLE,
        SAMPLE.replace("std[at, chosen] * noise", "std[at, chosen] * (noise + 0.5 * noise[:, :1])"),
        "two equal positions",
    ),
    (
        "samples_of_a_position_are_uncorrelated_with_those_of_others",
        SAMPLE,
        SAMPLE.replace("std[at, chosen] * noise", "std[at, chosen] * (noise + noise.roll(1, 0))"),
        "one after the other",
    ),
    (
        "less_noise_less_spread_and_none_none",
        "noise_scale * std",
        "std",
        "0.1 draws spread",
    ),
    (
        "less_noise_less_spread_and_none_none",
        SAMPLE,
        SAMPLE.replace("noise_scale * std[at, chosen]", "max(noise_scale, 1e-3) * std[at, chosen]"),
        "noise_scale=0 draws differ",
    ),
    ("scaling_the_noise_by_1_is_the_default", "noise_scale=1.0", "noise_scale=0.9", "are not those without it"),
    (
        "a_target_without_spread_leaves_everything_finite",
        LOSS,
        LOSS.replace("\n", " / (target.std.mean(-1) > 1e-6)\n"),
        "not finite or not there: loss",
    ),
    (
        "mixed_precision_changes_the_loss_little",
        LOSS,
        LOSS.replace("\n", " + torch.is_autocast_enabled('cpu')\n"),
        "in mixed precision",
    ),
]
"""A test of the suite, what the example head has there, what stands in its place, and what is said."""


def suite_of(folder: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> HeadSuite:
    """Of the example with a text replaced."""
    source = EXAMPLE.read_text(encoding="utf-8")
    assert source.count(old) == 1
    (folder / "mine.py").write_text(source.replace(old, new), encoding="utf-8")
    monkeypatch.setenv(own_heads.VARIABLE, str(folder / "mine.py"))
    suite = HeadSuite()
    monkeypatch.setattr(suite, "kind", KIND, raising=False)
    return suite


def run(suite: ContractSuite, name: str) -> None:
    test = getattr(suite, f"test_{name}")
    wanted = inspect.signature(test).parameters
    given: dict[str, object] = {"head": watched(perturbed(suite.build())), "autocast": False}
    test(**{name: value for name, value in given.items() if name in wanted})


@pytest.mark.parametrize(
    ("name", "old", "new", "said"), BROKEN, ids=[f"{name}: {said}" for name, *_, said in BROKEN]
)
def test_a_broken_head_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str, said: str
) -> None:
    with pytest.raises(AssertionError, match=said):
        run(suite_of(tmp_path, monkeypatch, old, new), name)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("None", r"sample \(mine.py, line 58\) must return \(3, 7, 2\) here, gave NoneType"),
        ("mean", r"sample \(mine.py, line 58\) must return \(3, 7, 2\) here, gave \(7, 16, 2\)"),
    ],
)
@pytest.mark.parametrize(
    "name", ["scaling_the_noise_by_1_is_the_default", "training_mode_changes_neither_loss_nor_samples"]
)
def test_what_is_no_sample_is_named_by_whatever_test_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, given: str, said: str
) -> None:
    with pytest.raises(AssertionError, match=said):
        run(suite_of(tmp_path, monkeypatch, SAMPLE, f"        return {given}\n"), name)


def test_no_test_of_the_suite_is_without_a_head_that_it_refuses() -> None:
    """But the short trainings, for whose checks there are wrong distributions (test_heads.py)."""
    tests = {name.removeprefix("test_") for name in vars(ContractSuite) if name.startswith("test_")}
    assert {name for name, *_ in BROKEN} == tests


@pytest.mark.parametrize("kind", ["energy", "diffusion", "flow"])
def test_a_head_is_built_from_its_kind_and_fields(kind: str) -> None:
    head = build(kind, num_blocks=3)
    assert (head.config.kind, head.config.num_blocks) == (kind, 3)
    assert build(kind).config.num_blocks == 2


def test_a_suite_without_a_head_says_what_is_missing() -> None:
    class TestMine(OneModeSuite):
        pass

    with pytest.raises(NotImplementedError, match="TestMine wants the name of a head as kind, or its own build"):
        TestMine().build()
    with pytest.raises(ConfigError, match="'nonesuch' given; a head of your own: offer it with calm --heads"):
        build("nonesuch")
