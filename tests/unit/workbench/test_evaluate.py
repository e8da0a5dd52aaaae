"""The common grid, evaluation of real models, floors, use of context."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.suites.small import build_baseline, build_calm, small_config
from workbench.config import EvalConfig
from workbench.data import Corpus
from workbench.errors import DataError
from workbench.evaluate import (
    MANY_DOCUMENTS,
    Grid,
    brier_values,
    context_use,
    evaluate,
    evaluation_grid,
    floors,
    identical_draws,
)
from workbench.ngram import score_ngrams
from workbench.sampling import generate
from workbench.tokenizer import ByteTokenizer

RULES = EvalConfig(context_len=64, min_context=16, grid_stride=8, num_windows=12, num_samples=4)


def corpus(num_tokens: int = 4000, num_documents: int = 3, *, hash: str = "abc") -> Corpus:
    """Every token of a split is different from its neighbours: a window shows where it was cut."""
    tokenizer = ByteTokenizer()
    tokens = {s: (np.arange(num_tokens) % 251 + 2).astype(np.uint16) for s in ("train", "validation", "test")}
    starts = {s: np.linspace(0, num_tokens, num_documents, endpoint=False).astype(np.int64) for s in tokens}
    return Corpus("made-up", hash, tokenizer, 258, tokens, starts, dict.fromkeys(tokens, num_tokens))


class TestGrid:
    @pytest.mark.parametrize("num_tokens", [768, 769, 1000, 3001, 99_999])
    def test_windows_do_not_overlap_and_span_the_split(self, num_tokens: int) -> None:
        found = evaluation_grid(RULES, _counting(num_tokens))
        starts = found.windows[:, 0]
        assert (np.diff(starts) >= 64).all()
        assert starts[0] == 0
        assert starts[-1] == num_tokens - 64
        np.testing.assert_array_equal(found.windows, starts[:, None] + np.arange(64))

    def test_positions(self) -> None:
        found = evaluation_grid(RULES, corpus())
        np.testing.assert_array_equal(found.positions, [16, 24, 32, 40, 48, 56])
        for k in (1, 2, 4, 8):
            assert (found.positions % k == 0).all()
        assert found.positions.max() + 8 <= 64, "the truth of the last position lies inside the window"

    def test_too_short_a_split_says_what_to_do(self) -> None:
        with pytest.raises(DataError, match=r"validation split of made-up has 700 tokens.*at most 10"):
            evaluation_grid(RULES, corpus(700))

    def test_the_split_is_the_configured_one(self) -> None:
        text = corpus()
        text.tokens["test"][:] = 9  # type: ignore[index]
        assert (evaluation_grid(RULES.model_copy(update={"split": "test"}), text).windows == 9).all()

    @pytest.mark.parametrize(
        "change",
        [
            {"split": "test"},
            {"context_len": 72},
            {"min_context": 24},
            {"grid_stride": 16},
            {"num_windows": 13},
            {"num_samples": 5},
        ],
    )
    def test_every_rule_changes_the_fingerprint(self, change: dict[str, object]) -> None:
        changed = EvalConfig(**{**RULES.model_dump(), **change})
        assert evaluation_grid(changed, corpus()).fingerprint != evaluation_grid(RULES, corpus()).fingerprint

    def test_every_rule_is_covered_above(self) -> None:
        assert set(EvalConfig.model_fields) == {
            "split", "context_len", "min_context", "grid_stride", "num_windows", "num_samples", "seed",
        }  # fmt: skip

    def test_the_data_changes_the_fingerprint_the_seed_does_not(self) -> None:
        first = evaluation_grid(RULES, corpus()).fingerprint
        assert evaluation_grid(RULES, corpus(hash="abd")).fingerprint != first
        assert evaluation_grid(RULES.model_copy(update={"seed": 7}), corpus()).fingerprint == first

    def test_clusters_are_windows_for_few_documents_and_documents_for_many(self) -> None:
        rules = RULES.model_copy(update={"num_windows": 120})
        few = evaluation_grid(rules, corpus(120 * 64, MANY_DOCUMENTS - 1))
        assert len(set(few.clusters)) == 120
        many = evaluation_grid(rules, corpus(120 * 64, MANY_DOCUMENTS))
        assert len(set(many.clusters)) == MANY_DOCUMENTS
        assert (np.bincount(many.clusters)[1:] == 4).all()
        assert (np.diff(many.clusters) >= 0).all()


def _counting(num_tokens: int) -> Corpus:
    """Token i is i."""
    made = corpus(num_tokens)
    return dataclasses.replace(made, tokens={split: np.arange(num_tokens) for split in made.tokens})


@pytest.fixture
def grid(tiny_corpus: Corpus) -> Grid:
    return evaluation_grid(RULES, tiny_corpus)


class TestEvaluate:
    def test_a_calm(self, tiny_corpus: Corpus, grid: Grid) -> None:
        model = build_calm(small_config(), vocab_size=258)
        found, values = evaluate(model, RULES, grid, phase="constant", step=5, tokens=60, flops=1e6)
        assert values.shape == (12, 6, 4)
        np.testing.assert_allclose(found.brier.brier, 100 * values.mean((0, 1)), rtol=1e-5)
        assert found.brier.num_positions == 72
        assert found.fingerprint == grid.fingerprint
        assert (found.step, found.tokens, found.train_flops, found.phase) == (5, 60, 1e6, "constant")
        assert found.cross_entropy is None
        assert found.energy_loss is not None
        assert found.seconds > 0

    def test_a_baseline_has_cross_entropy_at_the_same_positions(self, grid: Grid) -> None:
        model = build_baseline(small_config(baseline=True), vocab_size=258)
        found, _ = evaluate(model, RULES, grid, phase="warmup", step=1, tokens=1, flops=1.0)
        windows = torch.from_numpy(grid.windows)
        with torch.no_grad():
            log_probs = model.network.log_probs(model.network(windows))
        before = torch.from_numpy(grid.positions) - 1
        truth = windows[:, grid.positions]
        expected = -log_probs[:, before].gather(-1, truth[..., None]).mean()
        assert found.cross_entropy == pytest.approx(float(expected), rel=1e-4)
        assert found.energy_loss is None

    def test_repeatable_and_seeded(self, grid: Grid) -> None:
        model = build_calm(small_config(), vocab_size=258)
        first, again = (brier_values(model, RULES, grid)[0] for _ in range(2))
        np.testing.assert_array_equal(first, again)
        other = brier_values(model, RULES.model_copy(update={"seed": 1}), grid)[0]
        assert not np.array_equal(first, other)

    def test_the_global_seed_is_neither_used_nor_changed(self, grid: Grid) -> None:
        model = build_calm(small_config(), vocab_size=258)
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = brier_values(model, RULES, grid)[0]
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(2)
        np.testing.assert_array_equal(first, brier_values(model, RULES, grid)[0])

    def test_an_odd_number_of_windows_that_do_not_fit_in_one_batch(self, tiny_corpus: Corpus) -> None:
        """65 windows of 64 tokens: 64 in the first batch; a last batch of one would have no neighbour."""
        rules = RULES.model_copy(update={"num_windows": 65})
        model = build_calm(small_config(), vocab_size=258)
        grid = evaluation_grid(rules, tiny_corpus)
        assert brier_values(model, rules, grid)[0].shape[0] == 65
        assert np.isfinite(context_use(model, rules, grid)["energy_loss"])


class TestContextUse:
    def test_an_untrained_head_that_starts_at_zero_gains_nothing(self, grid: Grid) -> None:
        model = build_calm(small_config(), vocab_size=258, spread=False)
        found = context_use(model, RULES, grid)
        assert found["energy_loss"] == pytest.approx(found["energy_loss_shuffled"], abs=1e-9)
        assert identical_draws(model, RULES, grid), "without a last layer all draws are 0"

    def test_a_trained_one_gains(self, tiny_corpus: Corpus, grid: Grid) -> None:
        from workbench.data import training_blocks
        from workbench.optim import build_adamw

        model = build_calm(small_config(head={"num_samples": 4, "num_targets": 8}), vocab_size=258, spread=False)
        optimizer = build_adamw(model.network, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
        for step in range(60):
            blocks = training_blocks(tiny_corpus.tokens["train"], 16, 32, np.random.default_rng(step))
            rng = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            model.training_loss(torch.from_numpy(blocks), rng=rng).mean().backward()
            optimizer.step()
        found = context_use(model, RULES, grid)
        gain = found["energy_loss_shuffled"] - found["energy_loss"]
        assert gain > 3 * found["energy_loss_gain_se"] > 0
        assert not identical_draws(model, RULES, grid)


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
        found = floors(tiny_corpus, RULES, grid, tmp_path)
        assert list(found) == ["unigram", "bigram", "trigram"]
        for order, floor in enumerate(found.values(), start=1):
            scores = score_ngrams(tiny_corpus.tokens["train"], 258, order, grid.windows, grid.positions)
            np.testing.assert_allclose(floor.brier, 100 * scores.brier.mean((0, 1)))
            assert floor.brierlm == pytest.approx(scores.brierlm())
            assert floor.cross_entropy == pytest.approx(scores.cross_entropy)

    def test_are_computed_once(
        self, tiny_corpus: Corpus, grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = floors(tiny_corpus, RULES, grid, tmp_path)
        monkeypatch.setattr("workbench.evaluate.score_ngrams", None)
        assert floors(tiny_corpus, RULES, grid, tmp_path) == first


def test_sampled_text_has_the_asked_length(tiny_corpus: Corpus) -> None:
    model = build_calm(small_config(), vocab_size=258)
    made = generate(model, np.array([5, 6, 7]), num_texts=2, num_tokens=10, rng=torch.Generator().manual_seed(0))
    assert made.shape == (2, 12), "whole chunks of 4"
