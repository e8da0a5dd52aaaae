"""The bottleneck panel in words."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from workbench.bottleneck_words import losses, lost, where_lost
from workbench.records import Bottleneck


def panel(**fields: Any) -> Bottleneck:
    """K = 4; Brier-4: 98 by the autoencoder, 90 with noise, 5 by the model."""
    return Bottleneck.model_validate(
        {
            "num_positions": 1536,
            "num_samples": 32,
            "brier": [30.0, 20.04, 10.0, 5.0],
            "autoencoder_brier": [99.9, 99.5, 99.0, 98.0],
            "noisy_brier": [97.0, 95.0, 93.0, 90.0],
            "head_noise": 0.314,
            "posterior_noise": 0.25,
            "mode_accuracy": [40.0, 30.0, 20.0, 10.0],
            "sample_accuracy": [33.0, 22.0, 11.0, 4.0],
            "shuffled_brier": [2.0, -1.0, -3.0, -0.04],
            "effective_rank_posterior": 20.12,
            "effective_rank_samples": 9.0,
            "latent_dim": 32,
            **fields,
        }
    )


def test_rows() -> None:
    """Word for word: catches exchanged fields, shares shown as per cent, and hyphens for minus signs."""
    assert lost(panel())[:-1] == [
        ("measured on", "1,536 positions, 32 samples each"),
        ("Brier-n for n =", "1 / 2 / 3 / 4"),
        ("autoencoder alone", "99.9 / 99.5 / 99.0 / 98.0 %"),
        ("with the head's noise", "97.0 / 95.0 / 93.0 / 90.0 %"),
        ("the model", "30.0 / 20.0 / 10.0 / 5.0 %"),
        ("with another window's context", "2.0 / −1.0 / −3.0 / 0.0 %"),
        ("gain from its own context", "28.0 / 21.0 / 13.0 / 5.0 %"),
        ("samples that are right", "33.0 / 22.0 / 11.0 / 4.0 %"),
        ("most frequent of them is right", "40.0 / 30.0 / 20.0 / 10.0 %"),
        ("noise per latent dimension", "head 0.31, posterior 0.25"),
        ("effective rank of the latents", "posterior 20.1, head 9.0 of 32"),
    ]
    assert lost(panel())[-1] == ("where it is lost", where_lost(panel()))


def test_a_chunk_of_one_token_has_one_order() -> None:
    lists = ("brier", "autoencoder_brier", "noisy_brier", "mode_accuracy", "sample_accuracy", "shuffled_brier")
    rows = dict(lost(panel(**{name: [50.0] for name in lists})))
    assert rows["Brier-n for n ="] == "1"
    assert rows["the model"] == "50.0 %"
    assert rows["where it is lost"].startswith("Brier-1 lacks 50.0 points")


def test_parts_add_up() -> None:
    found = losses(panel())
    assert list(found.values()) == [2.0, 8.0, 85.0]
    assert sum(found.values()) == 100 - panel().brier[-1]


def ending(autoencoder: float, noisy: float, model: float) -> str:
    last = {"autoencoder_brier": autoencoder, "noisy_brier": noisy, "brier": model}
    return where_lost(panel(**{name: [99.0, 99.0, 99.0, value] for name, value in last.items()}))


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            (98, 90, 5),
            "Brier-4 lacks 95.0 points of 100 (the autoencoder 2.0, the head's noise 8.0, the head's prediction "
            "85.0): most is lost in the head's prediction, which includes what the text leaves open.",
        ),
        (
            (20, 15, 5),
            "Brier-4 lacks 95.0 points of 100 (the autoencoder 80.0, the head's noise 5.0, the head's prediction "
            "10.0): most is lost in the autoencoder.",
        ),
        (
            (98, 30, 5),
            "Brier-4 lacks 95.0 points of 100 (the autoencoder 2.0, the head's noise 68.0, the head's prediction "
            "25.0): most is lost in the head's noise.",
        ),
        (
            (60, 30, 10),
            "Brier-4 lacks 90.0 points of 100 (the autoencoder 40.0, the head's noise 30.0, the head's prediction "
            "20.0): no part loses most of it, the largest is the autoencoder.",
        ),
        (
            (90, 91, -10),  # noise that mends by chance; a score below 0
            "Brier-4 lacks 110.0 points of 100 (the autoencoder 10.0, the head's noise −1.0, the head's "
            "prediction 101.0): most is lost in the head's prediction, which includes what the text leaves open.",
        ),
        ((100, 100, 100), "Nothing is lost: Brier-4 is 100 %."),
    ],
)
def test_the_sentence_names_the_part_that_the_numbers_name(scores: tuple[float, ...], sentence: str) -> None:
    assert ending(*scores) == sentence


def test_the_words_need_no_torch() -> None:
    code = "import sys, workbench.bottleneck_words; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
