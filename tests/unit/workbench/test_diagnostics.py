"""Each sign of METHOD section 8 is found where it is and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.config import RunConfig
from workbench.diagnostics import (
    diagnose_autoencoder,
    diagnose_beginning,
    diagnose_config,
    diagnose_evaluation,
    diagnose_overlap,
    diagnose_training,
    identical_draws,
    not_finite,
)
from workbench.records import AutoencoderReport, Brier, Evaluation, Floor, NoisePoint, Overlap, TrainPoint

FLOORS = {
    "unigram": Floor(brier=[5, 0.5, 0.1, 0.05], brierlm=0.2),
    "bigram": Floor(brier=[15, 2, 0.5, 0.1], brierlm=0.7),
    "trigram": Floor(brier=[25, 9, 3, 1], brierlm=5.6),
}


def autoencoder(**fields: Any) -> AutoencoderReport:
    noise = [NoisePoint(noise=s / 10, accuracy=1 - 0.0005 * s) for s in range(6)]
    healthy = {
        "hash": "h", "chunk_size": 4, "latent_dim": 3, "kl_floor": 0.5, "token_accuracy": 0.9999,
        "posterior_accuracy": 0.999, "noise_accuracy": noise, "kl_per_dim": [2.0, 1.5, 1.0],
        "std_per_dim": [0.2, 0.2, 0.3], "num_collapsed": 0, "train_flops": 1.0, "train_seconds": 1.0,
        "num_chunks": 10,
    }  # fmt: skip
    return AutoencoderReport.model_validate({**healthy, **fields})


def evaluation(**fields: Any) -> Evaluation:
    brier = {
        "brier": [27.0, 10.0, 5.0, 2.0], "brier_se": [0.5, 0.4, 0.3, 0.2], "brierlm": 7.2, "brierlm_se": 0.3,
        "num_positions": 100, "num_clusters": 10, "score": 7.2,
    }  # fmt: skip
    brier.update({name: fields.pop(name) for name in list(fields) if name in brier})
    healthy = {
        "step": 1, "tokens": 1, "train_flops": 1.0, "phase": "constant", "fingerprint": "f",
        "brier": Brier.model_validate(brier), "head_loss": 4.0, "head_loss_shuffled": 4.5,
        "head_loss_gain_se": 0.01,
    }  # fmt: skip
    return Evaluation.model_validate({**healthy, **fields})


def codes(found: list[Any]) -> list[str]:
    return [diagnostic.code for diagnostic in found]


def test_healthy_runs_have_none() -> None:
    assert diagnose_autoencoder(autoencoder()) == []
    assert diagnose_evaluation(evaluation(), FLOORS) == []
    baseline = evaluation(head_loss=None, head_loss_shuffled=None, head_loss_gain_se=None)
    assert diagnose_evaluation(baseline, FLOORS) == []


def test_collapse() -> None:
    (found,) = diagnose_autoencoder(autoencoder(num_collapsed=2))
    assert found.code == "collapse"
    assert "2 of 3" in found.message
    assert "kl_floor" in found.message


def test_poor_reconstruction() -> None:
    (found,) = diagnose_autoencoder(autoencoder(token_accuracy=0.95))
    assert found.code == "reconstruction"
    assert "95.00%" in found.message


def test_brittle_decoder() -> None:
    noise = [NoisePoint(noise=0.0, accuracy=0.9999), NoisePoint(noise=0.1 * 3, accuracy=0.9)]
    (found,) = diagnose_autoencoder(autoencoder(noise_accuracy=noise))
    assert found.code == "brittle_decoder"
    assert "90.00%" in found.message


@pytest.mark.parametrize(
    "fields",
    [
        {"brierlm": 0.0, "brierlm_se": 0.1, "brier": [9.0, 1.0, 0.5, -0.1]},
        {"brierlm": 6.0, "brierlm_se": 3.1},
        {"brier": [27.0, 10.0, 5.0, 0.39]},
    ],
)
def test_brierlm_that_cannot_be_told_from_zero(fields: dict[str, Any]) -> None:
    found = diagnose_evaluation(evaluation(**fields), {})
    assert codes(found) == ["brierlm_zero"]


def test_the_order_that_is_lost_is_named() -> None:
    (found,) = diagnose_evaluation(evaluation(brier=[27.0, 10.0, 5.0, 0.3]), {})
    assert "Brier-4 0.30 ± 0.20" in found.message
    assert "Brier-3" not in found.message


@pytest.mark.parametrize(("brierlm", "table"), [(5.6, "trigram"), (1.0, "trigram"), (0.0, "trigram")])
def test_below_a_floor(brierlm: float, table: str) -> None:
    found = diagnose_evaluation(evaluation(brierlm=brierlm, brierlm_se=0.001), FLOORS)
    (below,) = [f for f in found if f.code == "below_floor"]
    assert table in below.message
    assert "5.60" in below.message


def test_above_the_bigram_table_only() -> None:
    found = diagnose_evaluation(evaluation(brierlm=0.65, brierlm_se=0.01), {k: FLOORS[k] for k in ("unigram",)})
    assert codes(found) == []


@pytest.mark.parametrize("shuffled", [4.0, 4.019, 3.5])
def test_a_head_that_ignores_its_context(shuffled: float) -> None:
    assert codes(diagnose_evaluation(evaluation(head_loss_shuffled=shuffled), {})) == ["ignores_context"]


def seen(token_share: float, **fields: Any) -> Overlap:
    values = {"span_bytes": 50, "window_share": 0.01, "longest": "To be, or\nnot", "longest_tokens": 612}
    return Overlap.model_validate({**values, "token_share": token_share, **fields})


@pytest.mark.parametrize("share", [0.0, 0.0199, 0.02])
def test_a_little_recurring_text_is_ordinary(share: float) -> None:
    assert diagnose_overlap(seen(share, window_share=0.019)) == []


def test_text_seen_in_training() -> None:
    (found,) = diagnose_overlap(seen(0.0412))
    assert found.code == "seen_text"
    for part in ("4.12%", "1.00%", "50 bytes", "612 tokens", r"'To be, or\nnot'", "data.corpus"):
        assert part in found.message
    (found,) = diagnose_overlap(seen(0.0201, longest=""))
    assert "''" not in found.message


def with_head(**head: Any) -> RunConfig:
    return RunConfig.model_validate({"model": {"kind": "calm", "head": head}})


def test_an_alpha_below_one() -> None:
    (found,) = diagnose_config(with_head(alpha=0.8))
    assert found.code == "alpha_below_one"
    for part in ("model.head.alpha 0.8", "explode", "train/grad_norm", "an alpha from 1 on"):
        assert part in found.message


@pytest.mark.parametrize(
    "config",
    [
        with_head(),
        with_head(alpha=1.0001),
        with_head(alpha=0.8, distance="quadric"),
        with_head(kind="flow"),
        RunConfig.model_validate({"model": {"kind": "baseline"}}),
    ],
)
def test_others_have_no_alpha_or_one_from_one_on(config: RunConfig) -> None:
    assert diagnose_config(config) == []
    assert diagnose_training(config, [], 0) == []


def test_training_is_judged_by_its_gradient_norms_and_the_clipping_threshold() -> None:
    points = [
        TrainPoint(
            step=i, tokens=i, train_flops=i, loss=1.0, grad_norm=20.0, lr=1e-3, tokens_per_second=1.0, seconds=1.0
        )
        for i in range(1, 61)
    ]
    config = with_head(alpha=0.8)
    (found,) = diagnose_training(config, points, 20)
    assert found.code == "gradient_norm"
    assert "40 logged steps" in found.message
    wide = config.model_copy(update={"optim": config.optim.model_copy(update={"clip": 30.0})})
    assert diagnose_training(wide, points, 20) == []


def test_the_others_say_why() -> None:
    assert "loss nan at step 3" in not_finite("loss nan at step 3").message
    assert identical_draws().code == "identical_draws"


def test_a_run_that_goes_on_with_other_code_of_its_own_head_is_told() -> None:
    def own(code: str) -> dict[str, Any]:
        return {"own_head": {"kind": "mine", "source": "mine.py", "code_hash": code}}

    assert diagnose_beginning({**own("a"), "earlier": [own("a"), {"python": "3.10"}]}) == []
    (found,) = diagnose_beginning({**own("b"), "earlier": [own("a"), own("a")]})
    assert found.code == "other_head_code"
    assert "begun with other code of the head 'mine': mine.py with hash a, mine.py here has b" in found.message
    assert len(diagnose_beginning({**own("b"), "initial": {"name": "x", **own("a")}, "earlier": [own("a")]})) == 1
