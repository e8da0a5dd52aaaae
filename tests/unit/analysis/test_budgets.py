"""The best of each group, budget by budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.budgets import budget_table, by_budget, sentence
from analysis.comparison import compare
from analysis.table import RunTable, load_runs
from tests.suites.run_folders import make_run_folder

SCORES = {1e12: {1: 1.2, 2: 0.8, None: 3.0}, 3e12: {1: 2.0, 2: 1.95, None: 5.0}, 9e12: {1: 3.0, 2: 6.0, None: 8.0}}
"""Budget, then K (None: baseline): K = 2 overtakes."""


def study(root: Path, scores: dict[float, dict[int | None, float]]) -> RunTable:
    number = 0
    for budget, row in scores.items():
        for k, score in row.items():
            for width, loss in ((64, 0.0), (128, 0.4)):
                number += 1
                kind: dict[str, Any] = {"kind": "baseline"} if k is None else {"chunk_size": k, "latent_dim": 16}
                options = {"num_points": 2, "num_evaluations": 2, "plots": False, "num_windows": None}
                created = f"2026-01-01T00:{number:02d}:00+00:00"
                make_run_folder(
                    root / "s" / f"r{number:02d}",
                    **options,
                    **kind,
                    width=width,
                    brierlm=score - loss,
                    train_flops=budget,
                    created=created,
                )
    return load_runs(root, ["s"])


def test_the_best_size_of_each_group_at_each_budget(tmp_path: Path) -> None:
    table = study(tmp_path, SCORES)
    comparison = compare(table)
    found = by_budget(table, comparison)
    assert [one.flops for one in found] == [1e12, 3e12, 9e12]
    assert [one.winner for one in found] == [1, 1, 2]
    for one in found:
        assert set(one.best) == {1, 2, None}
        assert all(runs["model.backbone.width"].tolist() == [64] for runs in one.best.values())
    last = found[-1].gap
    assert last is not None
    assert last.value == pytest.approx(3.0)
    assert last.comparisons == 6  # all pairs of the four CALM settings there
    shown = budget_table(found, comparison)
    assert shown is not None
    assert shown.columns == ["budget (FLOPs)", "token baseline", "K = 1", "K = 2", "best CALM"]
    assert str(shown.rows[1][-1]).startswith("K = 1, not told from K = 2")
    assert str(shown.rows[2][-1]).startswith("K = 2, above K = 1")
    assert str(shown.rows[2][1]).endswith("(D 64, 2)")
    words = sentence(found, comparison)
    assert "K = 1 at 3.00×10¹² (not clear)" in words
    assert words.endswith("K = 2 at 9.00×10¹².")


def test_one_budget_needs_no_such_table(tmp_path: Path) -> None:
    table = study(tmp_path, {1e12: SCORES[1e12]})
    assert by_budget(table, compare(table)) == []
    assert budget_table([], compare(table)) is None


def test_a_score_that_is_only_a_bound_decides_nothing(tmp_path: Path) -> None:
    table = study(tmp_path, {1e12: {1: 3.0, 2: 0.0}, 3e12: {1: 4.0, 2: 3.5}})
    comparison = compare(table)
    found = by_budget(table, comparison)
    assert found[0].gap is None
    shown = budget_table(found, comparison)
    assert shown is not None
    assert shown.rows[0][-1] == "K = 1 (not told from K = 2: a score is only a bound)"
