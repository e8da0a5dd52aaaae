"""Scores of n-gram tables against enumeration of every n-gram over tiny vocabularies."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from workbench.ngram import NgramScores, score_ngrams


def distribution(train: list[int], vocab: int, order: int, context: list[int]) -> list[float]:
    """Maximum likelihood for the longest suffix of the context that occurred, by counting."""
    for length in range(min(order - 1, len(context)), -1, -1):
        suffix = context[len(context) - length :]
        followers = Counter(
            train[i + length] for i in range(len(train) - length) if train[i : i + length] == suffix
        )
        if followers:
            return [followers[x] / followers.total() for x in range(vocab)]
    raise AssertionError("the empty context always occurs")


def brute_force(train: list[int], vocab: int, order: int, context: list[int], truth: list[int]) -> float:
    """Brier(P, y) by listing every n-gram."""

    def probability(ngram: list[int]) -> float:
        p = 1.0
        for i, token in enumerate(ngram):
            p *= distribution(train, vocab, order, context + ngram[:i])[token]
        return p

    every = [list(g) for g in itertools.product(range(vocab), repeat=len(truth))]
    assert math.isclose(sum(map(probability, every)), 1.0)
    return 2 * probability(truth) - sum(probability(g) ** 2 for g in every)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("vocab", "train_length", "used"), [(2, 12, 2), (3, 9, 3), (4, 14, 3), (4, 30, 4), (3, 3, 2), (1, 5, 1)]
)
def test_equals_enumeration(order: int, vocab: int, train_length: int, used: int) -> None:
    rng = np.random.default_rng(vocab * 100 + train_length)
    train = rng.integers(0, used, train_length)  # used < vocab: tokens never seen in training
    windows = rng.integers(0, vocab, (3, 8))
    positions = np.array([0, 1, 2, 4])
    scores = score_ngrams(train.astype(np.uint16), vocab, order, windows, positions)
    assert scores.brier.shape == (3, 4, 4)
    for w, (i, p), n in itertools.product(range(3), enumerate(positions.tolist()), range(1, 5)):
        row = windows[w].tolist()
        wanted = brute_force(train.tolist(), vocab, order, row[:p], row[p : p + n])
        assert scores.brier[w, i, n - 1] == pytest.approx(wanted, abs=1e-12)


def test_last_training_token_is_no_context() -> None:
    # 2 occurs only at the very end: nothing follows it, so the unigram decides after it
    scores = score_ngrams(np.array([0, 1, 0, 1, 2]), 3, 2, np.array([[2, 0, 1, 0, 1]]), np.array([1]))
    assert scores.brier[0, 0, 0] == pytest.approx(2 * 2 / 5 - (4 + 4 + 1) / 25)


def test_counts_by_sorting_and_by_bins_agree() -> None:
    rng = np.random.default_rng(1)
    train, windows = rng.integers(0, 6, 400), rng.integers(0, 6, (4, 20))
    positions = np.array([3, 10, 16])
    small = score_ngrams(train, 6, 3, windows, positions)
    large = score_ngrams(train, 60_000, 3, windows, positions)
    assert np.array_equal(small.brier, large.brier)
    assert large.cross_entropy > small.cross_entropy  # the uniform part is thinner


def test_cross_entropy_is_witten_bell() -> None:
    train = np.array([0, 0, 1, 0, 0])
    windows = np.array([[0, 1, 2, 0, 0, 0, 0]])
    unigram = [(4 + 2 / 3) / 7, (1 + 2 / 3) / 7, (2 / 3) / 7]
    after_0 = [(2 + 2 * unigram[0]) / 5, (1 + 2 * unigram[1]) / 5]
    positions = np.array([1, 2, 3])  # contexts 0; 1 (followed by 0 only); 2 (never seen)
    wanted = [after_0[1], (0 + 1 * unigram[2]) / 2, unigram[0]]
    scores = score_ngrams(train, 3, 2, windows, positions)
    assert scores.cross_entropy == pytest.approx(-np.log(wanted).mean())


def test_smoothed_probabilities_sum_to_one() -> None:
    rng = np.random.default_rng(2)
    train, context = rng.integers(0, 4, 25), rng.integers(0, 5, 6)
    total = 0.0
    for token in range(5):
        window = np.concatenate([context, [token, 0, 0, 0]])[None]
        total += math.exp(-score_ngrams(train, 5, 3, window, np.array([6])).cross_entropy)
    assert total == pytest.approx(1.0)


def test_a_deterministic_text_is_predicted_exactly() -> None:
    train = np.tile([2, 3, 4, 5], 50)
    scores = score_ngrams(train, 6, 2, train[:40].reshape(1, 40), np.arange(4, 36, 4))
    assert scores.brier == pytest.approx(1.0)
    assert scores.brierlm() == pytest.approx(100.0)


def test_expected_score_is_proper() -> None:
    """On text of a known Markov chain the bigram table beats the unigram table at every length."""
    rng = np.random.default_rng(3)
    chain = rng.dirichlet(np.full(5, 0.3), size=5).cumsum(axis=1)
    tokens = [0]
    for u in rng.random(30_000):
        tokens.append(min(4, int(np.searchsorted(chain[tokens[-1]], u))))
    train, windows = np.array(tokens[:20_000]), np.array(tokens[20_000:30_000]).reshape(100, 100)
    positions = np.arange(8, 96, 8)
    unigram, bigram = (score_ngrams(train, 5, order, windows, positions) for order in (1, 2))
    assert (bigram.brier.mean((0, 1)) > unigram.brier.mean((0, 1))).all()
    assert bigram.brierlm() > unigram.brierlm() > 0
    assert bigram.cross_entropy < unigram.cross_entropy


def test_brierlm_is_zero_as_soon_as_one_order_is() -> None:
    brier = np.full((2, 3, 4), 0.5)
    assert NgramScores(brier, 1.0).brierlm() == pytest.approx(50.0)
    brier[:, :, 3] = -0.1
    assert NgramScores(brier, 1.0).brierlm() == 0.0


@pytest.mark.parametrize(
    ("order", "positions", "message"),
    [
        (0, [1], "order 1 to 3 wanted, 0 given"),
        (4, [1], "order 1 to 3 wanted, 4 given"),
        (2, [5], r"must lie in \[0, T - 4\] with T = 8, 5 to 5 given"),
        (2, [-1], r"-1 to -1 given"),
        (2, [], r"positions \(n,\) wanted"),
    ],
)
def test_sizes_are_checked(order: int, positions: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_ngrams(np.zeros(9, int), 2, order, np.zeros((2, 8), int), np.array(positions, dtype=int))
