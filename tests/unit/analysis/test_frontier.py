from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.frontier import (
    CLOSE,
    DOMINATED,
    ON,
    UNKNOWN,
    InPairs,
    Paired,
    beaten_by,
    by_seed,
    choose_kind,
    common_quantile,
    frontier,
    frontiers,
    last_points,
    pareto,
    reaches,
    select,
    with_status,
)
from workbench.seeds import SeedNoise


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


def test_a_cost_that_is_not_known_is_on_no_frontier() -> None:
    """Of imported weights, whose training nobody has told: they are not the cheapest ones."""
    free = evaluations([("x", "calm", 0.0, 50.0, "constant"), ("y", "calm", np.nan, 60.0, "constant")])
    assert frontier(pd.concat([POINTS, free]), kind="constant")["brierlm"].tolist() == [1.0, 2.0]


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


# ---- respecting errors ------------------------------------------------------------------------------


def points(cost: list[float], score: list[float], se: float | list[float] = 0.1) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run_id": [f"r{i}" for i in range(len(cost))],
            "kind": "calm",
            "K": 4,
            "step": range(len(cost)),
            "phase": "constant",
            "fingerprint": "f",
            "train_flops": cost,
            "brierlm": score,
            "brierlm_se": se,
            "weak_orders": "",
        }
    )


def test_beaten_agrees_with_brute_force() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        n = int(rng.integers(1, 40))
        cost = rng.integers(1, 8, n) * rng.choice([1.0, 1.005], n)
        score, reach = rng.normal(3, 1, n).round(1), rng.choice([0.1, 0.3, 1.0, 2.0, np.nan], n)
        beyond = score[None, :] - score[:, None] - np.hypot(reach[None, :], reach[:, None])
        beyond[(cost[None, :] > cost[:, None] * 1.01) | np.isnan(beyond)] = -np.inf
        found = beaten_by(cost, score, reach)
        assert (found >= 0).tolist() == (beyond.max(axis=1) > 0).tolist()
        beaten = np.flatnonzero(found >= 0)
        assert np.allclose(beyond[beaten, found[beaten]], beyond.max(axis=1)[beaten])


def test_a_point_is_dominated_only_beyond_the_interval_of_the_difference() -> None:
    # two points: 1.96 * sqrt(2) * 0.1 = 0.277
    near = with_status(points([1.0, 2.0], [5.0, 4.75]))
    assert near["status"].tolist() == [ON, CLOSE]
    assert near["gap"].tolist() == pytest.approx([0.0, 0.25])
    assert near["gap_low"].iloc[1] == pytest.approx(0.25 - 0.27718, abs=1e-4)
    far = with_status(points([1.0, 2.0], [5.0, 4.70]))
    assert far["status"].tolist() == [ON, DOMINATED]
    assert far["gap_low"].iloc[1] == pytest.approx(0.30 - 0.27718, abs=1e-4)


def test_a_dearer_point_dominates_nothing_and_ties_stay() -> None:
    found = with_status(points([2.0, 1.0, 1.0], [9.0, 3.0, 3.0]))
    assert found["train_flops"].tolist() == [1.0, 1.0, 2.0]
    assert found["status"].tolist() == [ON, ON, ON]
    alone = with_status(points([1.0], [3.0]))
    assert alone[["status", "gap", "gap_low", "gap_high"]].to_numpy().tolist() == [[ON, 0.0, 0.0, 0.0]]
    assert with_status(points([], []))["status"].tolist() == []


def test_the_one_that_dominates_need_not_be_the_highest() -> None:
    """The highest has a wide error, another one below it a narrow one."""
    found = with_status(points([1.0, 1.0, 1.0], [9.0, 6.0, 5.0], [4.0, 0.1, 0.1])).sort_values("step")
    assert found["status"].tolist() == [ON, CLOSE, DOMINATED]
    assert found["gap"].iloc[2] == pytest.approx(1.0)
    assert found["gap_low"].iloc[2] > 0


def test_without_errors_nothing_is_dominated() -> None:
    assert with_status(points([1.0, 2.0], [5.0, 1.0], float("nan")))["status"].tolist() == [ON, UNKNOWN]
    assert with_status(points([1.0, 2.0], [5.0, 1.0], 0.0))["status"].tolist() == [ON, UNKNOWN]


def test_the_interval_is_corrected_for_the_number_of_points() -> None:
    few = with_status(points([1.0, 2.0], [5.0, 4.7]))
    many = with_status(points([1.0, 2.0, *[3.0] * 50], [5.0, 4.7, *[1.0] * 50]))
    assert few["status"].iloc[1] == DOMINATED
    assert many["status"].iloc[1] == CLOSE
    assert many["status"].iloc[2] == DOMINATED


def test_the_truly_best_is_kept_and_the_clearly_worse_is_not() -> None:
    """Twenty points at one cost, the first two the best: how often one of them is called dominated."""
    rng, lost, caught = np.random.default_rng(2), 0, 0
    true = np.array([5.0, 5.0, *np.linspace(4.9, 4.0, 18)])
    for _ in range(80):
        found = with_status(points([1.0] * 20, (true + 0.1 * rng.standard_normal(20)).tolist()))
        status = found.sort_values("step")["status"].tolist()
        lost += status[0] == DOMINATED
        caught += status[-1] == DOMINATED
    assert lost <= 4  # 5 %
    assert caught >= 76


def test_training_noise_counts_and_is_less_over_several_seeds() -> None:
    noise = SeedNoise(sd=0.2, low=0.1, high=0.4, sd_training=0.2, sd_evaluation=0.0, dof=10, num_settings=5)
    rows = points([1.0, 2.0], [5.0, 4.4])
    assert with_status(rows)["status"].tolist() == [ON, DOMINATED]
    assert with_status(rows, noise=noise)["status"].tolist() == [ON, CLOSE]
    assert with_status(rows.assign(num_seeds=16), noise=noise)["status"].tolist() == [ON, DOMINATED]
    half = reaches(rows, noise)
    assert half[0] == pytest.approx(np.hypot(1.95996 * 0.1, 2.22814 * 0.2), abs=1e-4)


def test_the_quantile_of_the_largest_of_many_with_one_estimate_of_their_error() -> None:
    assert common_quantile(3, 1) == pytest.approx(3.18245, abs=1e-4)  # Student's t
    assert common_quantile(0, 5) == float("inf")
    rng = np.random.default_rng(0)
    for dof, num in ((3, 45), (8, 20)):
        largest = rng.standard_normal((40_000, num)).max(axis=1)
        share = (largest / np.sqrt(rng.chisquare(dof, len(largest)) / dof) > common_quantile(dof, num)).mean()
        assert share == pytest.approx(0.025, abs=0.003)


def test_the_kind_that_more_runs_have_is_shown_and_ends_of_decays_among_equals() -> None:
    rows = evaluations(
        [
            ("a", "calm", 1.0, 1.0, "constant"),
            ("a", "calm", 2.0, 2.0, "constant"),
            ("a", "calm", 3.0, 3.0, "decayed"),
        ]
    )
    assert choose_kind(rows) == "decayed"
    more = pd.concat([rows, evaluations([("b", "calm", 1.0, 1.0, "constant")])])
    assert choose_kind(more) == "constant"
    assert choose_kind(more.assign(brierlm=0.0)) == ""
    chosen = select(more)
    assert chosen.kind == "constant"
    assert chosen.points["brierlm"].tolist() == [1.0, 2.0, 1.0]
    assert chosen.notes == ["1 points of the other kind, which has a frontier of its own"]
    assert last_points(chosen.points.assign(step=[5, 9, 2]))["brierlm"].tolist() == [1.0, 2.0]


def test_zeros_bounds_and_unknown_costs_are_left_out_and_said() -> None:
    rows = points([1.0, 2.0, 3.0, float("nan"), 5.0], [0.0, 2.0, 3.0, 4.0, 5.0])
    rows.loc[1, "weak_orders"] = "4"
    chosen = select(rows)
    assert chosen.points["brierlm"].tolist() == [3.0, 5.0]
    assert chosen.notes == [
        "2 of the points left out: their BrierLM is 0 or only a bound",
        "1 of the points left out: their cost was not recorded",
    ]
    with pytest.raises(ValueError, match="fingerprints"):
        select(pd.concat([rows, rows.assign(fingerprint="g")]))
    with pytest.raises(ValueError, match="cost must be a column"):
        select(rows, cost="seconds")
    with pytest.raises(ValueError, match="kind must be"):
        select(rows, kind="warmup")


def test_seeds_of_a_setting_are_put_together_checkpoint_by_checkpoint() -> None:
    rows = points([1.0, 2.0, 1.0, 2.0, 2.0], [3.0, 5.0, 4.0, 7.0, 6.0], [0.1, 0.1, 0.1, 0.7, 0.2])
    rows["run_id"], rows["step"] = ["a", "a", "b", "b", "c"], [10, 20, 10, 20, 20]
    merged = by_seed(rows, {"a": 0, "b": 0, "c": 1})
    assert merged["brierlm"].tolist() == [3.5, 6.0, 6.0]
    assert merged["num_seeds"].tolist() == [2, 2, 1]
    assert merged["run_id"].tolist() == ["a", "a", "c"]
    assert merged["brierlm_se"].tolist() == pytest.approx([0.1, 0.5, 0.2])
    assert list(merged.columns) == [*rows.columns, "num_seeds"]


@pytest.mark.parametrize("change", [{"weak_orders": "4"}, {"brierlm": 0.0}])
def test_a_bound_of_one_seed_makes_the_setting_a_bound_at_that_checkpoint(change: dict[str, object]) -> None:
    rows = points([1.0, 2.0, 1.0, 2.0, 2.0], [3.0, 5.0, 4.0, 7.0, 6.0])
    rows["run_id"], rows["step"] = ["a", "a", "b", "b", "c"], [10, 20, 10, 20, 20]
    for name, value in change.items():
        rows.loc[2, name] = value  # the mean without it would be 3, too high
    chosen = select(by_seed(rows, {"a": 0, "b": 0}))
    assert chosen.points["brierlm"].tolist() == [6.0, 6.0]
    assert chosen.notes == ["1 of the points left out: their BrierLM is 0 or only a bound"]


def in_pairs(places: list[int], ahead: float, half: float) -> Paired:
    """Of two points, by ascending cost, the first of which leads."""
    lead = np.array([[0.0, -ahead], [ahead, 0.0]])
    return lambda _: InPairs(np.array(places), lead, np.full((2, 2), half))


def test_a_pair_with_shared_positions_has_the_paired_test_alone() -> None:
    rows = points([1.0, 2.0], [5.0, 4.70])
    assert with_status(rows)["status"].tolist() == [ON, DOMINATED]
    found = with_status(rows, paired=in_pairs([0, 1], 0.3, 0.4))
    assert found["status"].tolist() == [ON, CLOSE]
    assert found[["gap", "gap_low", "gap_high"]].iloc[1].tolist() == pytest.approx([0.3, -0.1, 0.7])
    near = with_status(points([1.0, 2.0], [5.0, 4.75]), paired=in_pairs([0, 1], 0.25, 0.1))
    assert near["status"].tolist() == [ON, DOMINATED]
    assert near["gap_low"].iloc[1] == pytest.approx(0.15)


def test_a_pair_without_shared_positions_keeps_the_test_of_independent_errors() -> None:
    rows = points([1.0, 2.0, 3.0], [5.0, 4.9, 4.2])
    found = with_status(rows, paired=in_pairs([1, 2], 0.7, 9.0))
    assert found["status"].tolist() == [ON, CLOSE, DOMINATED]  # the last by the first, which has no positions
    assert found["gap"].tolist() == pytest.approx([0.0, 0.1, 0.8])


@pytest.mark.slow
def test_with_pairs_the_best_is_still_kept_at_95_per_cent() -> None:
    """Two equal points, the paired error independent of the other: either test alone errs in 5 %."""
    rng, lost = np.random.default_rng(5), 0
    for _ in range(600):
        first, second = rng.standard_normal(2)
        apart = rng.standard_normal()
        rows = points([1.0, 1.0], [50 + first, 50 + second], 1.0)
        shown = with_status(rows, paired=in_pairs([0, 1], apart, 1.95996))
        lost += int((shown["status"] == DOMINATED).sum())
    assert lost <= 26  # of 600: 15 and three standard errors of 3.8; either of two tests gives 45
