"""FLOPs and parameters of heads from outside: measured counts are those of the heads that are counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.suites.counted import inference_parts, training_parts
from tests.suites.own_head import EXAMPLE, KIND, write_head
from tests.suites.small import VOCAB, build_calm, small_config
from workbench import flops, own_heads
from workbench.compute_account import account
from workbench.config import CalmConfig
from workbench.errors import ConfigError
from workbench.head_flops import COUNTS
from workbench.head_sections import HEAD_SECTIONS
from workbench.heads import HEADS
from workbench.heads.measured import MeasuredCounts

WIDTH, LATENT = 24, 6


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_heads.VARIABLE, str(EXAMPLE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("energy", {"num_samples": 3, "num_targets": 7, "noise_dim": 10}),
        ("flow", {"num_draws": 3, "num_calls": 4}),
        ("diffusion", {"num_draws": 3, "num_calls": 5, "num_steps": 20}),
    ],
)
def test_measured_is_what_is_counted_by_hand(kind: str, fields: dict[str, Any]) -> None:
    config = HEAD_SECTIONS[kind].model_validate({"num_blocks": 2, **fields})
    measured, counted = MeasuredCounts(HEADS[kind], config, WIDTH, LATENT), COUNTS[kind](config, WIDTH, LATENT)
    assert measured.num_matrix_weights == counted.num_matrix_weights
    assert measured.num_vector_weights == counted.num_vector_weights
    assert sorted(measured.inner_matrices) == sorted(counted.inner_matrices)
    for positions in (1, 11):
        parts = counted.training(positions).values()
        # both passes together: the energy loss computes a part of its gradient in the forward pass
        assert measured.training(positions)["head"].total == sum(part.total for part in parts)
        for draws in (1, 9):
            assert measured.sampling(positions, draws) == counted.sampling(positions, draws)


class TestTheExample:
    @staticmethod
    def config() -> Any:
        return small_config(head={"kind": KIND, "num_components": 5})

    def test_the_account_is_what_an_instrumented_run_does(self) -> None:
        config = self.config()
        model = build_calm(config, spread=False)
        assert flops.parameters(config, VOCAB)["head"] == model.parameter_groups()["head"]
        assert training_parts(model, config)["head"] == flops.train_step_costs(config, VOCAB)["head"].total
        inference, real = account(config, vocab=VOCAB).inference, inference_parts(model, config)
        for name in ("head_per_draw", "per_round"):
            assert getattr(inference, name) == pytest.approx(real[name]), name

    def test_it_is_the_closed_form_of_its_two_maps(self) -> None:
        config = self.config()
        assert isinstance(config.model, CalmConfig)
        counts = flops.calm_head_counts(config)
        width, out = 32, 5 * (1 + 2 * 6)
        weights = width * 2 * width + 2 * width * out
        assert counts.num_matrix_weights == weights
        assert counts.num_vector_weights == 2 * width + 2 * width + out
        assert counts.training(10)["head"].total == 3 * 2 * 10 * weights
        assert counts.sampling(10, 3) == counts.sampling(10, 300) == 2 * 10 * weights
        assert counts.inner_matrices == [(2 * width, width)]
        assert counts.num_draws == 1
        assert flops.published_head(config) == (0, weights)


SQUARE = (
    "(self.mean * hidden.mean(-1, True) - target.mean)",
    "(hidden @ hidden.T).mean() * (self.mean - target.mean)",
)
OWN_COUNTS = """    section = Config
    @classmethod
    def counts(cls, config, width, latent_dim):
        from workbench.head_flops import EnergyCounts
        from workbench.config import EnergyHeadConfig
        return EnergyCounts(EnergyHeadConfig(num_blocks=2), width, latent_dim)
"""


def test_a_head_that_does_not_grow_in_proportion_must_count_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALM_HEADS", str(write_head(tmp_path / "mine.py", SQUARE)))
    config = small_config(head={"kind": "constant"})
    with pytest.raises(ConfigError, match=r"ConstantHead.loss: .* define the classmethod ConstantHead.counts"):
        flops.describe(config)
    path = write_head(tmp_path / "own.py", SQUARE, ("    section = Config\n", OWN_COUNTS))
    monkeypatch.setenv("CALM_HEADS", str(path))
    energy = small_config(head={"kind": "energy", "noise_dim": 64})
    assert flops.parameters(config, VOCAB) == flops.parameters(energy, VOCAB)
