"""Evaluation of real models, floors, use of context, drawing to a wished-for error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.suites.small import build_baseline, build_calm, small_config
from workbench import files
from workbench.config import EvalConfig
from workbench.data import Corpus
from workbench.evaluate import (
    Grid,
    Scores,
    context_use,
    cross_entropy,
    evaluate,
    evaluation_grid,
    floors,
    identical_draws,
    score_windows,
)
from workbench.language_model import LanguageModel
from workbench.ngram import score_ngrams
from workbench.positions import FloorScores, write_floors
from workbench.tokenizer import END_ID

RULES = EvalConfig(context_len=64, min_context=16, grid_stride=8, num_windows=12, num_samples=4)


def evaluated(model: LanguageModel, corpus: Corpus, rules: EvalConfig = RULES, **fields: Any) -> Scores:
    grid = evaluation_grid(rules, corpus)
    given = {"phase": "constant", "step": 5, "tokens": 60, "flops": 1e6, **fields}
    return evaluate(model, rules, grid, corpus=corpus, **given)


@pytest.fixture
def grid(tiny_corpus: Corpus) -> Grid:
    return evaluation_grid(RULES, tiny_corpus)


class TestEvaluate:
    def test_a_calm(self, tiny_corpus: Corpus, grid: Grid) -> None:
        found = evaluated(build_calm(small_config(), vocab_size=258), tiny_corpus)
        evaluation, values = found.evaluation, found.positions.values
        assert values.shape == (12, 6, 4)
        np.testing.assert_allclose(evaluation.brier.brier, 100 * values.mean((0, 1)), rtol=1e-5)
        assert evaluation.brier.num_positions == 72
        assert evaluation.fingerprint == found.positions.fingerprint == grid.fingerprint
        np.testing.assert_array_equal(found.positions.starts, grid.starts)
        assert (evaluation.step, evaluation.tokens, evaluation.train_flops) == (5, 60, 1e6)
        assert evaluation.phase == "constant"
        assert evaluation.cross_entropy is None
        assert evaluation.head_loss is not None
        assert evaluation.stopped_by is None
        assert evaluation.seconds > 0

    def test_a_baseline_has_cross_entropy_over_all_tokens_with_the_least_context(
        self, tiny_corpus: Corpus, grid: Grid
    ) -> None:
        model = build_baseline(small_config(baseline=True), vocab_size=258)
        found = evaluated(model, tiny_corpus)
        windows = torch.from_numpy(grid.windows)
        with torch.no_grad():
            log_probs = model.network.log_probs(model.network(windows))
        nats = -log_probs[:, 15:-1].gather(-1, windows[:, 16:, None])[..., 0].double().numpy()  # (W, T - 16)
        assert found.evaluation.cross_entropy == pytest.approx(nats.mean(), rel=1e-5)
        error = nats.mean(1).std(ddof=1) / math.sqrt(12)
        assert found.evaluation.cross_entropy_se == pytest.approx(error, rel=1e-4)
        np.testing.assert_allclose(found.positions.cross_entropy, nats.mean(1), rtol=1e-4)
        assert found.evaluation.head_loss is None

    def test_bits_per_byte_is_of_the_text_alone(self, tiny_corpus: Corpus) -> None:
        """Tokens of 0 (end), 1 and 3 bytes with known log probabilities."""
        grid = evaluation_grid(RULES, tiny_corpus)
        tokens = grid.windows.copy()
        tokens[:, 16:] = 7
        tokens[:, 20] = END_ID
        lengths = np.full(258, 3)
        lengths[END_ID] = 0

        class Spelling:
            byte_lengths = lengths

        class Text:
            tokenizer = Spelling()

        changed = Grid(tokens, grid.positions, grid.clusters, grid.starts, grid.capacity, "f")
        log_probs = np.full((12, 48), -3 * math.log(2), dtype=np.float32)
        log_probs[:, 4] = -100.0
        found = cross_entropy(log_probs, changed, Text(), 16)  # type: ignore[arg-type]
        assert found["bits_per_byte"] == pytest.approx(1.0), "3 bits a token of 3 bytes, the end left out"
        assert found["byte_perplexity"] == pytest.approx(2.0)
        assert found["cross_entropy"] == pytest.approx((47 * 3 * math.log(2) + 100) / 48)

    def test_windows_are_scored_alike_whatever_comes_with_them(self, tiny_corpus: Corpus) -> None:
        """A larger evaluation begins with the smaller one, number by number (batches of 64 windows here)."""
        model = build_calm(small_config(), vocab_size=258)
        small = RULES.model_copy(update={"num_windows": 64})
        large = RULES.model_copy(update={"num_windows": 100})
        first = score_windows(model, small, evaluation_grid(small, tiny_corpus)).values
        more = score_windows(model, large, evaluation_grid(large, tiny_corpus)).values
        np.testing.assert_array_equal(first, more[:64])

    def test_repeatable_and_seeded(self, grid: Grid) -> None:
        model = build_calm(small_config(), vocab_size=258)
        first, again = (score_windows(model, RULES, grid).values for _ in range(2))
        np.testing.assert_array_equal(first, again)
        other = score_windows(model, RULES.model_copy(update={"seed": 1}), grid).values
        assert not np.array_equal(first, other)

    def test_the_global_seed_is_neither_used_nor_changed(self, grid: Grid) -> None:
        model = build_calm(small_config(), vocab_size=258)
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = score_windows(model, RULES, grid).values
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(2)
        np.testing.assert_array_equal(first, score_windows(model, RULES, grid).values)

    def test_an_odd_number_of_windows_that_do_not_fit_in_one_batch(self, tiny_corpus: Corpus) -> None:
        """65 windows of 64 tokens: 64 in the first batch; a last batch of one would have no neighbour."""
        rules = RULES.model_copy(update={"num_windows": 65})
        model = build_calm(small_config(), vocab_size=258)
        grid = evaluation_grid(rules, tiny_corpus)
        assert score_windows(model, rules, grid).values.shape[0] == 65
        assert np.isfinite(context_use(model, rules, grid)["head_loss"])


class TestToTarget:
    RULES = RULES.model_copy(update={"num_windows": 8, "num_samples": 16})

    @pytest.fixture
    def model(self, tiny_corpus: Corpus) -> LanguageModel:
        """A baseline trained until its orders lie above 0 (an untrained one's score is 0, and known)."""
        from workbench.data import training_blocks
        from workbench.optim import build_adamw

        model = build_baseline(small_config(baseline=True), vocab_size=258)
        optimizer = build_adamw(model.network, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
        for step in range(60):
            blocks = training_blocks(tiny_corpus.tokens["train"], 16, 32, np.random.default_rng(step))
            model.network.zero_grad()
            model.training_loss(torch.from_numpy(blocks), rng=torch.Generator()).mean().backward()
            optimizer.step()
        return model

    def test_a_score_that_is_surely_0_needs_no_more(self, tiny_corpus: Corpus) -> None:
        untrained = build_calm(small_config(), vocab_size=258)
        rules = self.RULES.model_copy(update={"target_se": 1e-9})
        found = evaluated(untrained, tiny_corpus, rules, to_target=True).evaluation
        assert (found.stopped_by, found.brier.num_windows) == ("target", 8)
        assert found.brier.words() == "0.00"

    @pytest.mark.slow
    def test_draws_more_windows_until_the_error_is_small(self, tiny_corpus: Corpus, model: LanguageModel) -> None:
        before = evaluated(model, tiny_corpus, self.RULES).evaluation.brier
        wished = before.brierlm_se / 2
        rules = self.RULES.model_copy(update={"target_se": wished})
        found = evaluated(model, tiny_corpus, rules, to_target=True)
        assert found.evaluation.stopped_by == "target"
        assert found.evaluation.brier.brierlm_se <= wished == found.evaluation.wanted_se
        assert 8 < len(found.grid.windows) == len(found.positions.starts) == found.evaluation.brier.num_windows
        assert found.evaluation.fingerprint == evaluation_grid(self.RULES, tiny_corpus).fingerprint
        assert found.positions.cross_entropy is not None
        assert len(found.positions.cross_entropy) == len(found.grid.windows)

    @pytest.mark.slow
    def test_only_where_it_is_asked_for(self, tiny_corpus: Corpus, model: LanguageModel) -> None:
        rules = self.RULES.model_copy(update={"target_se": 1e-9})
        assert evaluated(model, tiny_corpus, rules).evaluation.brier.num_windows == 8

    @pytest.mark.slow
    def test_stops_at_the_budget(self, tiny_corpus: Corpus, model: LanguageModel) -> None:
        rules = self.RULES.model_copy(update={"target_se": 1e-9, "max_positions": 20 * 6})
        found = evaluated(model, tiny_corpus, rules, to_target=True)
        assert found.evaluation.stopped_by == "budget"
        assert found.evaluation.brier.num_positions == 120

    @pytest.mark.slow
    def test_a_text_that_is_spent_is_scored_again_with_other_samples(
        self, tiny_corpus: Corpus, model: LanguageModel
    ) -> None:
        capacity = evaluation_grid(self.RULES, tiny_corpus).capacity
        rules = self.RULES.model_copy(update={"target_se": 1e-9, "max_positions": 3 * 6 * capacity})
        found = evaluated(model, tiny_corpus, rules, to_target=True)
        assert found.evaluation.brier.num_windows == capacity
        assert found.evaluation.brier.rounds == found.positions.rounds > 1
        assert found.evaluation.stopped_by in ("text", "budget")


class TestContextUse:
    def test_an_untrained_head_that_starts_at_zero_gains_nothing(self, grid: Grid) -> None:
        model = build_calm(small_config(), vocab_size=258, spread=False)
        found = context_use(model, RULES, grid)
        assert found["head_loss"] == pytest.approx(found["head_loss_shuffled"], abs=1e-9)
        assert identical_draws(model, RULES, grid), "without a last layer all draws are 0"

    @pytest.mark.slow
    def test_a_trained_one_gains(self, tiny_corpus: Corpus) -> None:
        from workbench.data import training_blocks
        from workbench.optim import build_adamw

        model = build_calm(small_config(head={"num_samples": 4, "num_targets": 8}), vocab_size=258, spread=False)
        optimizer = build_adamw(model.network, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
        for step in range(60):
            blocks = training_blocks(tiny_corpus.tokens["train"], 16, 32, np.random.default_rng(step))
            rng = torch.Generator().manual_seed(step)
            model.network.zero_grad()
            model.training_loss(torch.from_numpy(blocks), rng=rng).mean().backward()
            optimizer.step()
        rules = RULES.model_copy(update={"num_windows": 36})
        found = context_use(model, rules, evaluation_grid(rules, tiny_corpus))
        gain = found["head_loss_shuffled"] - found["head_loss"]
        assert gain > 3 * found["head_loss_gain_se"] > 0
        assert not identical_draws(model, RULES, evaluation_grid(RULES, tiny_corpus))


class TestIdenticalDraws:
    def test_not_for_a_head_with_noise(self, grid: Grid) -> None:
        assert not identical_draws(build_calm(small_config(), vocab_size=258), RULES, grid)

    def test_for_one_noise_used_twice(self, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
        model = build_calm(small_config(), vocab_size=258)
        draw = model.network.head.noise
        monkeypatch.setattr(
            model.network.head, "noise", lambda num, hidden, rng: draw(1, hidden, rng).expand(num, -1, -1)
        )
        assert identical_draws(model, RULES, grid)


class TestFloors:
    def test_are_the_tables_scores_on_the_same_positions(
        self, tiny_corpus: Corpus, grid: Grid, tmp_path: Path
    ) -> None:
        background = floors(tiny_corpus, RULES, grid, tmp_path)
        found = background.floors
        assert list(found) == ["unigram", "bigram", "trigram"]
        np.testing.assert_array_equal(background.scores.starts, grid.starts)
        for order, (name, floor) in enumerate(found.items(), start=1):
            scores = score_ngrams(
                tiny_corpus.tokens["train"], 258, order, grid.windows, grid.positions, text_from=16
            )
            np.testing.assert_allclose(floor.brier, 100 * scores.brier.mean((0, 1)))
            assert floor.brierlm == pytest.approx(scores.brierlm())
            assert floor.cross_entropy == pytest.approx(scores.cross_entropy)
            np.testing.assert_allclose(background.scores.tables[name], scores.brier, rtol=1e-6)

    def test_the_overlap_with_the_training_text_comes_with_them(
        self, tiny_corpus: Corpus, grid: Grid, tmp_path: Path
    ) -> None:
        """Windows put together from training text are found."""
        train = tiny_corpus.tokens["train"]
        windows = grid.windows.copy()
        windows[3] = train[100:164]
        copied = Grid(windows, grid.positions, grid.clusters, grid.starts, grid.capacity, "copied")
        before = floors(tiny_corpus, RULES, grid, tmp_path).overlap.token_share
        assert floors(tiny_corpus, RULES, copied, tmp_path).overlap.token_share > before

    def test_are_computed_once(
        self, tiny_corpus: Corpus, grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = floors(tiny_corpus, RULES, grid, tmp_path)
        monkeypatch.setattr("workbench.evaluate.score_ngrams", None)
        again = floors(tiny_corpus, RULES, grid, tmp_path)
        assert (again.floors, again.overlap) == (first.floors, first.overlap)

    @pytest.mark.parametrize("name", ["floors.npz", "floors.json"])
    @pytest.mark.parametrize("damage", ["cut", "of another", "of other windows"])
    def test_damaged_ones_are_computed_anew(
        self,
        tiny_corpus: Corpus,
        grid: Grid,
        tmp_path: Path,
        name: str,
        damage: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        first = floors(tiny_corpus, RULES, grid, tmp_path)
        (folder,) = (tmp_path / "floors").glob("[0-9a-f]*")
        content = (folder / name).read_bytes()
        if damage == "cut":
            (folder / name).write_bytes(content[:-3])
        else:  # with a manifest that fits
            if name == "floors.json":
                files.write_json(folder / name, {"floors": {}, "overlap": {}})
            else:
                starts = grid.starts if damage == "of another" else grid.starts[1:]
                fingerprint = "other" if damage == "of another" else grid.fingerprint
                write_floors(folder / name, FloorScores(fingerprint, starts, {}))
            manifest = files.read_json(folder / "manifest.json")
            path = folder / name
            manifest["files"][name] = {"size": path.stat().st_size, "sha256": files.sha256(path)}
            files.write_json(folder / "manifest.json", manifest)
        again = floors(tiny_corpus, RULES, grid, tmp_path)
        assert (again.floors, again.overlap) == (first.floors, first.overlap)
        assert (folder / name).read_bytes() == content
        assert f"{folder} is not used: " in caplog.text

    def test_more_windows_are_another_entry(self, tiny_corpus: Corpus, grid: Grid, tmp_path: Path) -> None:
        """The fingerprint does not say how many windows there are."""
        first = floors(tiny_corpus, RULES, grid, tmp_path)
        more = evaluation_grid(RULES, tiny_corpus, num_windows=20)
        assert more.fingerprint == grid.fingerprint
        assert len(floors(tiny_corpus, RULES, more, tmp_path).scores.starts) == 20 > len(first.scores.starts)
