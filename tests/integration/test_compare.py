"""``calm compare`` and ``calm evaluate`` on real trained runs, from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.suites.tiny_runs import BASELINE, tiny_config
from workbench import records, runner
from workbench.cli import app
from workbench.compare import compare_runs
from workbench.errors import ConfigError, RunError
from workbench.home import Home
from workbench.pairs import paired_difference
from workbench.positions import FLOORS, POSITIONS, read_floors, read_positions
from workbench.rescore import rescore
from workbench.runner import execute

pytestmark = pytest.mark.slow

TRAINING = {"train.train_tokens": 20_480, "optim.batch_positions": 256}
RUNS: dict[str, dict[str, Any]] = {
    "slow-s0": {"optim.lr": 1e-4},
    "slow-s1": {"optim.lr": 1e-4, "seed": 1},
    "fast-s0": {"optim.lr": 1e-2},
    "fast-s1": {"optim.lr": 1e-2, "seed": 1},
    "more-windows": {"optim.lr": 1e-2, "seed": 2, "eval.num_windows": 24},
    "other-grid": {"optim.lr": 1e-2, "eval.grid_stride": 4},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Six token models of about a second each, one setting in a grid of its own."""
    folder = tmp_path_factory.mktemp("compare")
    for name, overrides in RUNS.items():
        config, home = tiny_config(folder, {**TRAINING, **overrides}, **BASELINE)
        execute(config, home.single_runs() / name, home=home)
    config, home = tiny_config(folder, {"seed": 0})
    execute(config, home.single_runs() / "calm-s0", home=home)
    return home


def folder(home: Home, name: str) -> Path:
    return home.single_runs() / name


def command(home: Home, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--home", str(home.root)])


class TestCompareRuns:
    def test_two_runs_are_paired_at_their_positions(self, home: Home) -> None:
        found = compare_runs([folder(home, "slow-s0"), folder(home, "fast-s0")], home, with_seeds=False)
        assert [run.name for run in found.runs] == ["fast-s0", "slow-s0"], "best first"
        (pair,) = found.pairs
        scores = [read_positions(folder(home, name) / POSITIONS) for name in ("fast-s0", "slow-s0")]
        assert pair.difference == paired_difference(scores[0].values, scores[1].values, scores[0].clusters)
        assert pair.difference.orders[0].value > 0
        assert found.differences == [("optim.lr", ["0.01", "0.0001"])]
        assert found.noise is None
        assert any("training noise is unknown" in note for note in found.notes)

    def test_other_seeds_beside_them_give_the_noise_of_training(self, home: Home) -> None:
        found = compare_runs([folder(home, "slow-s0"), folder(home, "fast-s0")], home)
        assert found.settings == {
            "fast-s0": ["fast-s0", "fast-s1", "more-windows"],
            "slow-s0": ["slow-s0", "slow-s1"],
        }
        assert found.noise is not None
        assert (found.noise.dof, found.noise.num_settings) == (3, 2)
        assert found.noise.sd > 0
        (pair,) = found.setting_pairs
        assert pair.difference.num_seeds == (3, 2)
        assert pair.difference.training_noise
        assert any("fast-s1, more-windows" in note for note in found.notes)

    def test_runs_given_as_seeds_of_one_setting_are_one_setting(self, home: Home) -> None:
        names = ["slow-s0", "slow-s1", "fast-s0"]
        found = compare_runs([folder(home, name) for name in names], home, with_seeds=False)
        assert sorted(map(len, found.settings.values())) == [1, 2]
        assert len(found.pairs) == 3
        assert found.pairs[0].difference.comparisons == 3
        assert len(found.setting_pairs) == 1

    def test_different_numbers_of_windows_are_compared_on_those_they_share(self, home: Home) -> None:
        found = compare_runs([folder(home, "fast-s1"), folder(home, "more-windows")], home, with_seeds=False)
        assert found.num_windows == 16
        assert {run.brier.num_windows for run in found.runs} == {16}

    def test_another_fingerprint_is_refused(self, home: Home) -> None:
        with pytest.raises(RunError, match="one evaluation fingerprint are wanted; fast-s0 has"):
            compare_runs([folder(home, "fast-s0"), folder(home, "other-grid")], home)

    def test_scored_anew_alike_they_can_be_compared(self, home: Home) -> None:
        rules = {"eval.grid_stride": 8, "eval.split": "test", "eval.num_windows": 12}
        names = ["fast-s0", "other-grid", "calm-s0"]
        found = compare_runs([folder(home, name) for name in names], home, overrides=rules, with_seeds=False)
        assert found.num_windows == 12
        by_name = {run.name: run.brier.brier for run in found.runs}
        assert by_name["fast-s0"] == by_name["other-grid"], "one model trained twice, scored in training otherwise"
        assert by_name["calm-s0"] != by_name["fast-s0"]
        assert dict(found.differences)["model.kind"] == ["baseline", "baseline", "calm"]

    def test_what_was_scored_before_is_not_scored_again(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        rules = {"eval.split": "test", "eval.num_windows": 10}
        runs = [folder(home, "fast-s0"), folder(home, "slow-s0")]
        first = compare_runs(runs, home, overrides=rules, with_seeds=False)
        monkeypatch.setattr("workbench.rescore.evaluate", None)
        again = compare_runs(runs, home, overrides=rules, with_seeds=False)
        assert again.pairs == first.pairs

    def test_one_run_is_not_enough(self, home: Home) -> None:
        with pytest.raises(RunError, match="two or more different runs"):
            compare_runs([folder(home, "fast-s0"), folder(home, "fast-s0")], home)

    def test_only_the_evaluation_may_be_changed(self, home: Home) -> None:
        with pytest.raises(ConfigError, match=r"eval\.\* only, optim\.lr given"):
            compare_runs([folder(home, "fast-s0"), folder(home, "slow-s0")], home, overrides={"optim.lr": 1.0})

    def test_a_run_of_an_older_version_says_what_to_do(self, home: Home, tmp_path: Path) -> None:
        import shutil

        old = tmp_path / "old"
        shutil.copytree(folder(home, "fast-s0"), old)
        (old / POSITIONS).unlink()
        with pytest.raises(RunError, match=r"old has no positions\.npz.*calm evaluate"):
            compare_runs([old, folder(home, "slow-s0")], home)


class TestRescore:
    def test_the_same_rules_give_the_same_scores(self, home: Home) -> None:
        found = rescore(folder(home, "fast-s0"), home, {})
        record = records.read_record(folder(home, "fast-s0"))
        assert record.final is not None
        assert found.evaluation.brier == record.final.brier
        assert found.evaluation.bits_per_byte == record.final.bits_per_byte
        assert found.background.floors == record.floors
        assert found.background.overlap == record.overlap

    def test_to_a_wished_for_error(self, home: Home) -> None:
        before = rescore(folder(home, "fast-s0"), home, {}).evaluation.brier
        assert before.brierlm_se > 0
        found = rescore(folder(home, "fast-s0"), home, {"eval.target_se": 0.7 * before.brierlm_se})
        assert found.evaluation.brier.num_positions > before.num_positions
        assert found.evaluation.stopped_by in ("target", "text")


class TestRecord:
    def test_a_calm_knows_where_its_quality_is_lost(self, home: Home) -> None:
        record = records.read_record(folder(home, "calm-s0"))
        assert record.bottleneck is not None
        assert len(record.bottleneck.brier) == 4
        assert records.read_record(folder(home, "fast-s0")).bottleneck is None

    def test_a_run_draws_to_its_wished_for_error_at_the_end_only(self, home: Home) -> None:
        rules = {**TRAINING, "optim.lr": 1e-2, "eval.target_se": 1e-3, "eval.max_positions": 50}
        config, _ = tiny_config(home.root.parent, rules, **BASELINE)
        execute(config, home.root / "other" / "adaptive", home=home)
        evaluations = records.read_evaluations(home.root / "other" / "adaptive")
        counts = [e.brier.num_windows for e in evaluations]
        assert counts[:-1] == [16] * (len(counts) - 1)
        assert counts[-1] == 25, "50 positions, two a window"
        assert evaluations[-1].stopped_by == "budget"
        plain = records.read_evaluations(folder(home, "fast-s0"))
        assert evaluations[-1].fingerprint == plain[-1].fingerprint
        scores = [read_positions(home.root / p / POSITIONS) for p in ("other/adaptive", "single/fast-s0")]
        np.testing.assert_array_equal(scores[0].values[:16], scores[1].values)

    def test_interrupted_after_its_last_evaluation_it_ends_as_if_it_had_not_been(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tables beside the score must cover the windows that were added to reach the wished-for error."""
        rules = {**TRAINING, "optim.lr": 1e-2, "eval.target_se": 1e-3, "eval.max_positions": 50}
        config, _ = tiny_config(home.root.parent, rules, **BASELINE)
        finish = runner._Run.finish
        monkeypatch.setattr(runner._Run, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            execute(config, home.root / "other" / "interrupted", home=home)
        monkeypatch.setattr(runner._Run, "finish", finish)
        ended = execute(config, home.root / "other" / "interrupted", home=home)
        whole = execute(config, home.root / "other" / "uninterrupted", home=home)
        assert len(read_floors(home.root / "other" / "interrupted" / FLOORS).starts) == 25
        assert ended.floors == whole.floors
        assert ended.diagnostics == whole.diagnostics


class TestCommands:
    def test_compare(self, home: Home) -> None:
        result = command(home, "compare", "fast-s0", "slow-s0")
        assert result.exit_code == 0, result.output
        for words in ("fast-s0 − slow-s0", "optim.lr", "between seeds of one setting", "16 shared windows"):
            assert words in result.output

    def test_compare_json(self, home: Home) -> None:
        result = command(home, "compare", "fast-s0", "slow-s0", "--json", "--difference", "50")
        found = json.loads(result.stdout)
        assert found["pairs"][0]["first"] == "fast-s0"
        assert found["pairs"][0]["low"] <= found["pairs"][0]["value"] <= found["pairs"][0]["high"]
        assert found["noise"]["dof"] == 3
        assert found["setting_pairs"][0]["seeds_needed"] is not None
        assert len(found["runs"]) == 2
        tiny = json.loads(command(home, "compare", "fast-s0", "slow-s0", "--json", "--difference", "1e-4").stdout)
        assert tiny["setting_pairs"][0]["seeds_needed"] is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["fast-s0", "other-grid"], "one evaluation fingerprint"),
            (["fast-s0"], "two or more different runs"),
            (["fast-s0", "slow-s0", "--difference", "-1"], "--difference wants BrierLM points above 0"),
            (["fast-s0", "slow-s0", "--set", "optim.lr=1"], "eval.* only"),
            (["fast-s0", "nothing"], "no run 'nothing'"),
            (["fast-s0", "slow-s0", "--set", "eval.num_windows=100000"], "at most"),
        ],
    )
    def test_mistakes_are_one_message(self, home: Home, arguments: list[str], message: str) -> None:
        result = command(home, "compare", *arguments)
        assert result.exit_code != 0
        assert message in str(result.exception)

    def test_evaluate_says_how_many_more_would_be_needed(self, home: Home) -> None:
        result = command(home, "evaluate", "fast-s0")
        assert result.exit_code == 0, result.output
        for words in ("bits per byte", "training text has too", "for an error of", "positions", "trigram table"):
            assert words in result.output

    def test_evaluate_to_an_error(self, home: Home) -> None:
        result = command(home, "evaluate", "fast-s0", "--target-se", "1e-6", "--set", "eval.max_positions=40")
        assert result.exit_code == 0, result.output
        assert "eval.max_positions = 40 is spent" in result.output
