from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.ablation import categories, effects
from analysis.claims import controlled_pairs, group_gaps
from analysis.comparison import cells, compare
from analysis.dimension import Dimension
from analysis.table import RunTable, load_runs
from analysis.verdict import headline, standings
from tests.suites.run_folders import make_run_folder
from workbench import files, records


def study(root: Path, *runs: dict[str, Any]) -> RunTable:
    for i, options in enumerate(runs):
        created = f"2026-01-01T00:{i:02d}:00+00:00"
        make_run_folder(
            root / "s" / f"r{i:02d}", **{"num_points": 2, "plots": False, "created": created, **options}
        )
    return load_runs(root, ["s"])


def test_fingerprints_are_not_mixed(tmp_path: Path) -> None:
    a, b = {"fingerprint": "aaaa"}, {"fingerprint": "bbbb", "brierlm": 99.0}
    comparison = compare(study(tmp_path, a | {"seed": 1}, a, b))
    assert comparison.fingerprint == "aaaa"
    assert comparison.fingerprints == {"aaaa": 2, "bbbb": 1}
    assert set(comparison.evaluations["fingerprint"]) == {"aaaa"}
    assert len(comparison.finals) == 2
    assert any("fingerprint bbbb instead of aaaa" in reason for _, reason in comparison.left_out)


def test_end_points_of_one_kind_and_one_budget(tmp_path: Path) -> None:
    table = study(
        tmp_path,
        {"decayed": True, "seed": 1},
        {"decayed": True, "seed": 2},
        {"decayed": False},
        {"train_flops": 3e12},
        {"role": "check"},
        {"status": "pruned", "reason": "too low"},
    )
    comparison = compare(table)
    assert comparison.phase == "decayed"
    assert comparison.finals["run_id"].tolist() == ["r00", "r01"]
    reasons = [reason for _, reason in comparison.left_out]
    assert sorted(reasons) == sorted(
        [
            "sensitivity check (shown in its own table)",
            "pruned: too low",
            "its end point is constant, the compared ones are decayed",
            "its budget is 3.00×10¹² training FLOPs, the compared one is 1.00×10¹² training FLOPs",
        ]
    )
    assert "r04" not in set(comparison.evaluations["run_id"])


def test_cells_differ_in_anything_but_the_seed(tmp_path: Path) -> None:
    table = study(tmp_path, {"seed": 0}, {"seed": 1}, {"latent_dim": 64}, {"kind": "baseline"})
    assert [len(cell) for cell in cells(table.runs, table.config_columns)] == [2, 1, 1]
    noise = compare(table).noise
    assert noise is not None
    assert (noise.num_settings, noise.dof) == (1, 1)


def test_the_best_is_the_setting_with_the_best_mean_not_the_luckiest_run(tmp_path: Path) -> None:
    one = [{"latent_dim": 32, "seed": seed, "brierlm": value} for seed, value in enumerate((5.0, 3.0, 3.1))]
    other = [{"latent_dim": 64, "seed": seed, "brierlm": value} for seed, value in enumerate((4.0, 4.2, 4.1))]
    comparison = compare(study(tmp_path, *one, *other))
    best = comparison.best(comparison.calm)
    assert best is not None
    assert (best["autoencoder.latent_dim"], best["brierlm"]) == (64, pytest.approx(4.2))


def test_a_seed_counts_once(tmp_path: Path) -> None:
    """The same seed twice is the same run twice: it would look like training without noise."""
    comparison = compare(study(tmp_path, {"seed": 0}, {"seed": 0}, {"seed": 1}))
    assert [setting.run_ids for setting in comparison.settings] == [["r00", "r02"]]
    assert comparison.noise is not None
    assert comparison.noise.dof == 1


def grid(root: Path, scores: dict[tuple[int, int], float]) -> RunTable:
    """Runs over (K, latent dimension) with given scores; two seeds each."""
    return study(
        root,
        *[
            {"chunk_size": k, "latent_dim": latent, "seed": seed, "brierlm": score + 0.02 * seed}
            for (k, latent), score in scores.items()
            for seed in (0, 1)
        ],
    )


def test_effects_are_adjusted_for_the_other_parameters(tmp_path: Path) -> None:
    # K = 2 was not tried with the best latent dimension: its raw mean is lower, its effect is +1
    one = {(1, 8): 2.0, (1, 16): 4.0, (1, 32): 6.0, (1, 64): 8.0, (1, 128): 12.0}
    two = {(2, 8): 3.05, (2, 16): 4.95, (2, 32): 7.0, (2, 64): 9.0}
    table = grid(tmp_path, one | two)
    found = {effect.parameter: effect for effect in effects(compare(table), table.runs, table.config_columns)}
    assert set(found) == {"model.chunk_size", "autoencoder.latent_dim"}
    effect = found["model.chunk_size"]
    by_value = {value.value: value for value in effect.values}
    assert by_value["1"].mean.value > by_value["2"].mean.value
    assert (by_value["1"].num_cells, by_value["1"].num_runs) == (5, 10)
    assert effect.reference == "2"
    assert by_value["1"].difference is not None
    assert by_value["1"].difference.value == pytest.approx(-1.0, abs=0.05)
    assert by_value["1"].verdict == "worse"
    assert effect.verdict == "2 is better than every other value"


def test_equal_scores_are_indistinguishable(tmp_path: Path) -> None:
    scores = {(k, latent): 3.0 + 0.05 * ((k + latent) % 3) for k in (1, 2, 4) for latent in (8, 16, 32)}
    table = grid(tmp_path, scores)
    for effect in effects(compare(table), table.runs, table.config_columns):
        assert effect.verdict.startswith("the values are indistinguishable")


def test_the_headline_says_which_fit_it_quotes_and_refers_to_the_controlled_pairs(tmp_path: Path) -> None:
    table = grid(tmp_path, {(k, latent): k + 0.1 * latent for k in (1, 2, 4) for latent in (8, 16, 32)})
    comparison = compare(table)
    places, found = standings(comparison, table.floors), effects(comparison, table.runs, table.config_columns)
    pairs = controlled_pairs(comparison)
    (words,) = [w for w in headline(comparison, places, found, pairs).lead if "additive" in w]
    assert words.startswith("By the additive, unpaired fit over all settings that completed, chunk size K: 4 is")
    # three pairs of K at each of three latent dimensions; counting the nine pairs of the latter would make 18
    assert len(pairs) == 18
    assert "the 9 controlled pairs that differ in it alone (under “Settings compared”) do not assume" in words
    own = [pair for pair in pairs if pair.parameter == "model.chunk_size"]
    others = [pair for pair in pairs if pair.parameter != "model.chunk_size"]
    (one,) = [w for w in headline(comparison, places, found, own[:1]).lead if "additive" in w]
    assert "the controlled pair that differs in it alone (under “Settings compared”) does not assume" in one
    for without in ([], others):
        (words,) = [w for w in headline(comparison, places, found, without).lead if "additive" in w]
        assert "controlled" not in words


def test_too_few_cells_decide_nothing(tmp_path: Path) -> None:
    table = grid(tmp_path, {(1, 8): 1.0, (2, 16): 5.0})
    for effect in effects(compare(table), table.runs, table.config_columns):
        assert effect.verdict == "not decidable from this study"
        assert "too few completed cells" in effect.note


def test_many_numbers_are_cut_into_three_groups(tmp_path: Path) -> None:
    table = study(tmp_path, *[{"kl_floor": 0.1 * i} for i in range(1, 10)])
    labels = categories(table.runs["autoencoder.kl_floor"])
    assert list(labels.cat.categories) == ["0.1 to 0.3", "0.4 to 0.6", "0.7 to 0.9"]
    assert labels.value_counts().tolist() == [3, 3, 3]


def test_verdict_with_and_without_baselines(tmp_path: Path) -> None:
    runs = [{"chunk_size": 1, "brierlm": 2.0}, {"chunk_size": 4, "brierlm": 4.0}]
    table = study(tmp_path / "a", *runs)
    comparison = compare(table)
    places = standings(comparison, table.floors)
    words = " ".join(headline(comparison, places, []).lead)
    assert "The best single run has K = 4; it is above the best run with K = 1" in words
    assert "No token baseline completed" in words
    table = study(tmp_path / "b", *runs, {"kind": "baseline", "brierlm": 9.0})
    comparison = compare(table)
    places = standings(comparison, table.floors)
    verdict = headline(comparison, places, [])
    assert "K = 1, 4: the best run is below the best token baseline" in " ".join(verdict.lead)
    assert "training noise is unknown" in verdict.caution
    four = next(place for place in places if place.key == 4)
    assert four.floor_words() == "above unigram and bigram, below trigram"
    assert four.to_baseline is not None
    assert four.to_baseline.value == pytest.approx(-5.0)


def test_noise_measured_on_baselines_only_is_said(tmp_path: Path) -> None:
    table = study(tmp_path, {}, {"kind": "baseline"}, {"kind": "baseline", "seed": 1})
    comparison = compare(table)
    assert comparison.noise_kinds == ("baseline",)
    assert "no CALM was repeated" in headline(comparison, standings(comparison, table.floors), []).caution


def test_a_budget_in_tokens_is_not_called_equal_compute(tmp_path: Path) -> None:
    budget = {"train.train_flops": None, "train.train_tokens": 1_000_000}
    table = study(tmp_path, {"overrides": budget}, {"kind": "baseline", "brierlm": 9.0, "overrides": budget})
    comparison = compare(table)
    words = " ".join(headline(comparison, standings(comparison, table.floors), []).lead)
    assert "at 1,000,000 training tokens, which is not equal compute" in words


def test_close_runs_are_not_told_apart(tmp_path: Path) -> None:
    table = study(tmp_path, {"chunk_size": 1, "brierlm": 3.9}, {"chunk_size": 4, "brierlm": 4.0})
    comparison = compare(table)
    words = " ".join(headline(comparison, standings(comparison, table.floors), []).lead)
    assert "indistinguishable from the best with K = 1" in words


def none_above_0(root: Path, *runs: dict[str, Any], scores: Sequence[float]) -> RunTable:
    """Runs with a BrierLM of 0 whose smooth scores are these."""
    table = study(root, *[{"brierlm": 0.0, **run} for run in runs])
    table.runs["score"] = list(scores)
    return table


@pytest.mark.slow
@pytest.mark.parametrize("bounded", [False, True])
def test_where_nothing_can_be_told_from_0_none_is_called_best_and_the_objective_ranks(
    tmp_path: Path, *, bounded: bool
) -> None:
    """As ``calm study status`` does, whose best trial is the one with the highest objective."""
    values = [{"chunk_size": k} for k in (1, 2, 4)]
    table = none_above_0(tmp_path / "a", *values, scores=(2.31, 2.56, 2.4))
    if bounded:
        table.runs["brierlm"], table.runs["brierlm_high"] = [0.3, 0.1, 0.0], 1.2
    table.runs["weak_orders"] = "4"
    comparison = compare(table)
    lead = headline(comparison, standings(comparison, table.floors), []).lead[0]
    assert lead.startswith(
        "No CALM setting's BrierLM can be told from 0, so none can be called best; by the study's objective, "
        "a smooth score near 0, K = 2 is first (2.56), before K = 4 (2.40); in BrierLM: indistinguishable ("
        "difference "
    )
    assert [gap.first for gap in group_gaps(comparison)] == [2, 2, 4]
    # one that can be told from 0 is the best again, whatever the smooth score of another
    table.runs.loc[0, ["brierlm", "score", "weak_orders"]] = 2.0, 2.0, ""
    comparison = compare(table)
    lead = headline(comparison, standings(comparison, table.floors), []).lead[0]
    assert lead.startswith("The best single run has K = 1")


def test_neither_is_one_of_a_single_group(tmp_path: Path) -> None:
    table = none_above_0(tmp_path, *[{"seed": s, "latent_dim": n} for n in (8, 16) for s in (0, 1)],
                         scores=(2.0, 2.2, 2.1, 2.3))  # fmt: skip
    comparison = compare(table)
    one = Dimension("model.chunk_size", ("4",), dict.fromkeys(table.runs["run_id"], "4"))
    comparison = replace(comparison, dimension=one)
    places = standings(comparison, table.floors)
    assert len(places) == 1
    lead = headline(comparison, places, []).lead[0]
    assert lead == (
        "No CALM setting's BrierLM can be told from 0, so none can be called best; by the study's objective, "
        "a smooth score near 0, L 16 is first (2.20) of 2 trained models."
    )


@pytest.mark.slow
def test_the_caution_says_which_repeated_settings_do_not_count(tmp_path: Path) -> None:
    seeds = [{"seed": 0}, {"seed": 1}]
    clear = [run | {"latent_dim": 16} for run in seeds]

    def caution(folder: str, *latent: int) -> str:
        zero = [run | {"latent_dim": n, "brierlm": 0.0} for n in latent for run in seeds]
        table = study(tmp_path / folder, *clear, *zero)
        comparison = compare(table)
        return headline(comparison, standings(comparison, table.floors), []).caution

    assert "not count" not in caution("a")
    assert (
        "1 degree of freedom; CALM only; 1 other repeated setting does not count, its scores cannot be"
        in caution("b", 32)
    )
    assert "; 2 other repeated settings do not count, their scores cannot be told from 0)" in caution("c", 32, 64)


def test_the_caution_names_the_kinds_that_its_number_counts(tmp_path: Path) -> None:
    """A setting of which an order is not told from 0, and BrierLM is, counts in both."""
    table = study(tmp_path, *[{"seed": seed, "kind": kind} for kind in ("calm", "baseline") for seed in (0, 1)])
    table.runs.loc[table.runs["kind"] == "calm", ["weak_orders", "brierlm_high"]] = "4", 9.0
    comparison = compare(table)
    assert any(setting.weak and setting.above_0 for setting in comparison.settings)
    caution = headline(comparison, standings(comparison, table.floors), []).caution
    assert "2 settings repeated, 2 degrees of freedom)" in caution


def test_weights_whose_training_is_not_known_are_compared_at_no_budget(tmp_path: Path) -> None:
    """Imported ones: their configuration says a token, for it must say something."""
    budget = {"train.train_flops": None, "train.train_tokens": 1}
    table = study(tmp_path, {}, {"overrides": budget})
    path = tmp_path / "s" / "r01" / records.RECORD
    files.write_json(path, {**files.read_json(path), "tokens": 0, "step": 0})
    comparison = compare(load_runs(tmp_path, ["s"]))
    assert comparison.finals["run_id"].tolist() == ["r00"]
    (reason,) = [reason for _, reason in comparison.left_out]
    assert reason == "its budget is unknown training, the compared one is 1.00×10¹² training FLOPs"
    assert compare(table).finals["run_id"].tolist() == ["r00"]


def test_of_budgets_with_equally_many_runs_the_largest_is_compared(tmp_path: Path) -> None:
    flops = [9e12, 3e12, 2.7e13, 2.7e13, 3e12, 9e12]
    table = study(tmp_path, *[{"decayed": True, "seed": i, "train_flops": value} for i, value in enumerate(flops)])
    assert compare(table).budget == "2.70×10¹³ training FLOPs"
    assert len(compare(table).finals) == 2
