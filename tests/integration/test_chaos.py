"""The short forms of what ``make chaos`` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import kills, two_hosts
from tests.suites import postgres


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    outcome = kills.chaos(tmp_path, kills=3, cells=4, workers=2, steps=150, seed=2, shown=False, longest_wait=1.0)
    assert outcome.kills.total() == 3
    assert outcome.good, outcome.table()
    assert outcome.trials["complete"] == 4


@pytest.mark.slow
@postgres.NEEDED
def test_a_study_on_two_hosts_outlives_one_of_them(tmp_path: Path) -> None:
    outcome = two_hosts.chaos(tmp_path, trials=4, steps=100, seed=0)
    assert outcome.good, outcome.table()
    assert outcome.complete.total() == 4
    assert outcome.given_out_again == 1
