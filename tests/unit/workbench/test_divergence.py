"""When a run is lost: made-up points, and the same verdict whenever it was interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest

from workbench.config_file import build_config
from workbench.divergence import ABOVE_BEST, ABOVE_START, GRADIENTS, WINDOW, DivergedError, Watcher, collapsed
from workbench.records import AutoencoderReport, TrainPoint

WARMUP = 10
NUM = 200


def points(loss: Callable[[int], float], norm: Callable[[int], float] = lambda step: 1.0) -> list[TrainPoint]:
    common = {"tokens": 0, "train_flops": 0.0, "lr": 1e-3, "tokens_per_second": 1.0, "seconds": 0.0}
    return [
        TrainPoint(step=step, loss=loss(step), grad_norm=norm(step), **common)  # type: ignore[arg-type]
        for step in range(1, NUM + 1)
    ]


def verdict(given: Iterable[TrainPoint], earlier: Sequence[TrainPoint] = ()) -> str | None:
    watcher = Watcher(warmup_steps=WARMUP, earlier=earlier)
    for point in given:
        try:
            watcher.see(point)
        except DivergedError as error:
            return str(error)
    return None


def learning(step: int) -> float:
    return 1.0 + 5.0 * math.exp(-step / 40)


class TestVerdict:
    def test_learning_is_left_alone(self) -> None:
        assert verdict(points(learning)) is None

    def test_worse_than_untrained(self) -> None:
        text = verdict(points(lambda step: 6.0 if step < 50 else 6.0 * (ABOVE_START + 0.1)))
        assert text is not None
        assert "1.6 times what it was before training (6)" in text
        assert f"step {50 + WINDOW // 2}" in text, "as soon as most of a window is bad"

    def test_what_was_learnt_is_lost(self) -> None:
        text = verdict(points(lambda step: learning(step) if step < 150 else ABOVE_BEST * 1.3))
        assert text is not None
        assert "times as much" in text
        assert "gradient" not in text

    def test_gradients_explode(self) -> None:
        text = verdict(points(learning, lambda step: 0.5 if step < 100 else 0.5 * GRADIENTS * 1.1))
        assert text is not None
        assert "gradient norm before clipping (median of 20 logged points) is 55 after 0.5, 110 times" in text

    def test_spikes_are_left_alone(self) -> None:
        assert verdict(points(lambda s: 100.0 if s % 3 == 0 else learning(s))) is None
        assert verdict(points(learning, lambda step: 1e6 if step % 3 == 0 else 1.0)) is None

    def test_the_warm_up_is_not_judged(self) -> None:
        assert verdict(points(lambda step: 100.0 if 1 < step <= WARMUP else 5.0)) is None

    def test_a_loss_that_starts_at_0_or_below_is_no_reference(self) -> None:
        assert verdict(points(lambda step: -1.0 + step / 1000)) is None

    @pytest.mark.parametrize("cut", [1, 5, WARMUP, 37, 60, 61, 68])
    def test_interrupted_anywhere_it_says_the_same(self, cut: int) -> None:
        bad = points(lambda step: learning(step) if step < 60 else 20.0)
        whole = verdict(bad)
        assert whole is not None
        assert verdict(bad[cut:], earlier=bad[:cut]) == whole


def report(**changes: object) -> AutoencoderReport:
    values: dict[str, object] = {
        "hash": "h",
        "chunk_size": 4,
        "latent_dim": 2,
        "kl_floor": 0.5,
        "token_accuracy": 0.99,
        "posterior_accuracy": 0.98,
        "noise_accuracy": [],
        "kl_per_dim": [1.0, 0.0],
        "std_per_dim": [0.1, 1.0],
        "num_collapsed": 1,
        "train_flops": 1.0,
        "train_seconds": 1.0,
        "num_chunks": 10,
    }
    return AutoencoderReport.model_validate({**values, **changes})


class TestCollapsed:
    tokens = np.array([7] * 3 + [1, 2, 3, 4, 5, 6, 8], dtype=np.uint16)
    """The most frequent one is 30 %."""

    def test_one_dimension_that_carries_something_is_enough(self) -> None:
        assert collapsed(report(), self.tokens) is None

    def test_all_dimensions(self) -> None:
        why = collapsed(report(num_collapsed=2), self.tokens)
        assert why is not None
        assert "none of the autoencoder's 2 latent dimensions" in why

    def test_no_better_than_the_most_frequent_token(self) -> None:
        why = collapsed(report(token_accuracy=0.3), self.tokens)
        assert why is not None
        assert "30.00% of held-out tokens right, always the most frequent one would get 30.00%" in why
        assert collapsed(report(token_accuracy=0.31), self.tokens) is None


class TestConfiguration:
    def test_the_switch_leaves_the_hash_of_older_runs(self) -> None:
        """Without the field, as an older version hashed it."""
        config = build_config({"train": {"train_tokens": 1000}}).resolved()
        tree = config.hashed()
        assert config.train.stop_diverged
        assert "stop_diverged" not in tree["train"]
        off = config.model_copy(update={"train": config.train.model_copy(update={"stop_diverged": False})})
        assert off.hashed()["train"]["stop_diverged"] is False
        assert off.hash() != config.hash()
