"""Autoencoders compared by the language models trained on them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from analysis.comparison import compare
from analysis.downstream import downstream, downstream_figure, downstream_table, sentences
from analysis.style import house_style
from analysis.table import RunTable, load_runs
from tests.suites.run_folders import make_run_folder


def study(root: Path, *runs: dict[str, Any]) -> RunTable:
    for i, options in enumerate(runs):
        created = f"2026-01-01T00:{i:02d}:00+00:00"
        common = {"num_points": 2, "num_evaluations": 2, "plots": False, "num_windows": None, "created": created}
        make_run_folder(root / "s" / f"r{i:02d}", **{**common, **options})
    return load_runs(root, ["s"])


SIZES = {8: 2.0, 16: 3.5, 32: 3.0, 64: 2.5, 128: 1.5}
"""Latent dimension to BrierLM: the best is not the largest, which reconstructs best."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    runs = [
        {"latent_dim": size, "brierlm": score + 0.1 * seed, "seed": seed}
        for size, score in SIZES.items()
        for seed in (0, 1)
    ]
    return study(tmp_path_factory.mktemp("home"), *runs, {"kind": "baseline", "brierlm": 9.0})


def test_each_autoencoder_once_with_its_seeds_best_score_first(table: RunTable) -> None:
    found = downstream(table, compare(table))
    assert found is not None
    assert found.columns == ["autoencoder.latent_dim"]
    assert found.frame["latent_dim"].tolist() == [16, 32, 64, 8, 128]
    assert found.frame["num_seeds"].tolist() == [2] * 5
    assert found.frame["brierlm"].tolist() == pytest.approx([3.55, 3.05, 2.55, 2.05, 1.55])
    levels = table.autoencoders
    for _, row in found.frame.iterrows():
        at = levels[(levels["latent_dim"] == row["latent_dim"]) & np.isclose(levels["noise"], 0.3)]
        assert row["noise_accuracy"] == at["accuracy"].iloc[0]


def test_the_p_value_is_that_of_all_permutations(table: RunTable) -> None:
    found = downstream(table, compare(table))
    assert found is not None
    x, y = found.frame["noise_accuracy"].to_numpy(), found.frame["brierlm"].to_numpy()
    observed = spearmanr(x, y).statistic
    every = np.array([spearmanr(order, y).statistic for order in permutations(x)])
    low, high = (every <= observed + 1e-9).mean(), (every >= observed - 1e-9).mean()
    assert found.rank == pytest.approx(observed)
    assert found.p_value == pytest.approx(min(1.0, 2 * min(low, high)))


def test_where_reconstruction_would_have_chosen_another_it_says_so(table: RunTable) -> None:
    found = downstream(table, compare(table))
    assert found is not None
    words = " ".join(sentences(found))
    assert "Best downstream: L 16 (BrierLM 3.55" in words
    assert "Best under noise: L 128" in words
    assert "reconstruction alone would have chosen another" in words
    assert "no more than by chance" in words
    assert "No dimension collapsed" in words
    with house_style():
        picture = downstream_figure(found)
    assert picture is not None
    assert "L = 128" in picture.svg
    shown = downstream_table(found)
    assert shown.columns[0] == "L"
    assert [row[0] for row in shown.rows] == ["16", "32", "64", "8", "128"]


@pytest.mark.slow
def test_the_same_best_and_collapsed_dimensions_are_said(tmp_path: Path) -> None:
    runs = [{"kl_floor": floor, "brierlm": score} for floor, score in ((0.5, 3.0), (0.0, 1.0), (2.0, 2.0))]
    table = study(tmp_path, *runs)
    found = downstream(table, compare(table))
    assert found is not None
    words = " ".join(sentences(found))
    assert "Collapsed dimensions: λ 0: 8 of 32." in words
    assert "Too few different autoencoders" in words


def test_nothing_is_said_where_more_than_the_autoencoder_differs(tmp_path: Path) -> None:
    runs = [{"latent_dim": 8 * k, "chunk_size": k} for k in (1, 2, 4)]  # a rule, not a comparison
    table = study(tmp_path, *runs)
    assert downstream(table, compare(table)) is None
    assert downstream(study(tmp_path / "two", *runs[:2]), compare(table)) is None
