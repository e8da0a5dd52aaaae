from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.frontier import frontier, frontiers, pareto


def brute_force(cost: list[float], score: list[float]) -> list[bool]:
    points = list(zip(cost, score, strict=True))
    return [not any(c <= a and s >= b and (c, s) != (a, b) for c, s in points) for a, b in points]


def test_hand_made_frontier_with_a_dominated_point() -> None:
    assert pareto([1, 2, 3, 4], [1.0, 3.0, 2.0, 4.0]).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("cost", "score", "wanted"),
    [
        ([1, 1], [2, 2], [True, True]),  # equal points do not dominate each other
        ([1, 1], [2, 3], [False, True]),  # equal cost
        ([1, 2], [3, 3], [True, False]),  # equal score
        ([2, 1, 1, 2], [5, 3, 3, 5], [True, True, True, True]),
        ([1, 2], [float("nan"), 1], [False, True]),
        ([], [], []),
    ],
)
def test_ties_and_gaps(cost: list[float], score: list[float], wanted: list[bool]) -> None:
    assert pareto(cost, score).tolist() == wanted


def test_agrees_with_brute_force_on_many_ties() -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 25):
        cost, score = rng.integers(0, 5, size).tolist(), rng.integers(0, 5, size).tolist()
        assert pareto(cost, score).tolist() == brute_force(cost, score)


def test_order_of_points_does_not_matter() -> None:
    points = [(1.0, 1.0), (2.0, 2.0), (2.0, 1.5), (3.0, 2.0)]
    kept = set()
    for order in itertools.permutations(points):
        mask = pareto([c for c, _ in order], [s for _, s in order])
        kept.add(frozenset(p for p, keep in zip(order, mask, strict=True) if keep))
    assert kept == {frozenset({(1.0, 1.0), (2.0, 2.0)})}


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one score per cost"):
        pareto([1.0], [1.0, 2.0])


def evaluations(rows: list[tuple[str, str, float, float, str]], fingerprint: str = "f") -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["run_id", "kind", "train_flops", "brierlm", "phase"])
    extra = [4.0 if kind == "calm" else 0.0 for kind in frame["kind"]]
    return frame.assign(
        fingerprint=fingerprint, weak_orders="", train_flops_with_autoencoder=frame["train_flops"] + extra
    )


POINTS = evaluations(
    [
        ("a", "calm", 1.0, 0.0, "constant"),  # cut off: on no frontier
        ("a", "calm", 2.0, 1.0, "constant"),
        ("a", "calm", 2.5, 9.0, "warmup"),
        ("a", "calm", 2.6, 9.0, "decaying"),
        ("a", "calm", 3.0, 5.0, "decayed"),
        ("b", "baseline", 4.0, 2.0, "constant"),
        ("b", "baseline", 5.0, 1.5, "constant"),
    ]
)


def test_phases_are_never_mixed() -> None:
    assert frontier(POINTS, kind="constant")["brierlm"].tolist() == [1.0, 2.0]
    assert frontier(POINTS, kind="decayed")["brierlm"].tolist() == [5.0]
    both = frontiers(POINTS)
    assert set(both["phase"]) == {"constant", "decayed"}
    assert (both["phase"] == both["kind_of_point"]).all()
    assert both[both["models"] == "CALM"]["brierlm"].tolist() == [1.0, 5.0]


def test_the_autoencoder_charged_in_full_changes_the_frontier() -> None:
    # 2 + 4 > 4: the CALM point is now dearer than a better baseline
    assert frontier(POINTS, cost="train_flops_with_autoencoder")["run_id"].tolist() == ["b"]


def test_a_score_that_is_only_bounded_is_on_no_frontier() -> None:
    bounded = POINTS.assign(weak_orders=["4" if score == 1.0 else "" for score in POINTS["brierlm"]])
    assert frontier(bounded, kind="constant")["brierlm"].tolist() == [2.0]


def test_mixed_fingerprints_are_refused() -> None:
    with pytest.raises(ValueError, match="fingerprints"):
        frontier(pd.concat([POINTS, evaluations([("c", "calm", 1.0, 1.0, "constant")], "g")]))


def test_nothing_gives_an_empty_table() -> None:
    assert len(frontiers(POINTS.head(0))) == 0
    with pytest.raises(ValueError, match="kind must be"):
        frontier(POINTS, kind="warmup")


def test_a_smaller_rounding_error_of_the_budget_is_no_merit():
    cost, score = [1.000, 1.003, 1.004, 2.0, 2.5], [1.5, 7.3, 7.4, 7.5, 9.0]
    assert pareto(cost, score).all()
    assert pareto(cost, score, same_cost=0.01).tolist() == [False, False, True, True, True]
