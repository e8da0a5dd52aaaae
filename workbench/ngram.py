"""The floors beside every score: exact Brier scores of n-gram tables (METHOD section 5, DESIGN rule 3).

A table of order m gives P(x | last m-1 tokens) by maximum likelihood from the training tokens. Where
that context never occurred in training (with a token after it), the next lower order decides. Nothing
is sampled: both terms of Brier(P, y) = 2 P(y) - sum_x P(x)^2 are exact.

A *state* is a context that occurred in training, of any length below the order; the empty one is
state 0. The distribution of the next token depends on the state alone, and so does the state that
follows: a longer context than the state's was not seen, so neither was its extension by one token.
The collision of n-grams then is a recursion over states and the edges between them,

    coll_n(s) = sum_x P(x|s)^2 coll_{n-1}(next(s, x)),    coll_0 = 1,

with one edge for each distinct n-gram of the training tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_NGRAM = 4
MAX_ORDER = 3

_DENSE_COUNTS = 2**25
"""Up to so many possible n-grams are counted in one array (256 MB); more are sorted."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NgramScores:
    """Scores of one table. ``brier``: (W, n, 4), Brier(P, y) at each position for n-grams of length
    1 ... 4, a fraction (not per cent). ``cross_entropy``: nats per token (see ``text_from``), from the same counts
    smoothed by Witten-Bell down to the uniform distribution, since the raw table gives some tokens
    probability 0."""

    brier: Floats
    cross_entropy: float

    def brierlm(self) -> float:
        """100 times the geometric mean of the four means; 0 where one of them is not positive."""
        means = self.brier.mean(axis=(0, 1))
        return float(100.0 * np.prod(means) ** (1 / MAX_NGRAM)) if (means > 0).all() else 0.0


def score_ngrams(
    train: npt.NDArray[np.integer[Any]],
    vocab_size: int,
    order: int,
    windows: npt.NDArray[np.integer[Any]],
    positions: npt.NDArray[np.integer[Any]],
    *,
    text_from: int | None = None,
) -> NgramScores:
    """Score the table of ``order`` (1 unigram, 2 bigram, 3 trigram).

    ``train``: token ids, one dimension, documents one after the other. ``windows``: (W, T) ids.
    ``positions``: (n,) offsets p; the scored n-gram is ``windows[:, p : p + n]``, its context
    ``windows[:, :p]``. ``text_from``: the cross-entropy is over all tokens of a window from this offset on, as the
    baseline's is; by default over the first token of each position. Raises ValueError for sizes that cannot be
    scored."""
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order 1 to {MAX_ORDER} wanted, {order} given")
    if len(train) < order:
        raise ValueError(f"a table of order {order} needs at least {order} training tokens, {len(train)} given")
    if windows.ndim != 2 or positions.ndim != 1 or windows.size == 0 or positions.size == 0:
        raise ValueError(f"windows (W, T) and positions (n,) wanted, {windows.shape} and {positions.shape} given")
    if positions.min() < 0 or positions.max() + MAX_NGRAM > windows.shape[1]:
        raise ValueError(
            f"positions must lie in [0, T - {MAX_NGRAM}] with T = {windows.shape[1]}, "
            f"{positions.min()} to {positions.max()} given"
        )
    return _score(
        _Table(np.asarray(train), vocab_size, order),
        windows.astype(np.int64),
        positions.astype(np.int64),
        positions.astype(np.int64) if text_from is None else np.arange(text_from, windows.shape[1]),
    )


def _score(table: _Table, windows: Ints, positions: Ints, text: Ints) -> NgramScores:
    brier = np.empty((len(windows), len(positions), MAX_NGRAM))
    collisions = table.collisions()
    accuracy = np.ones((len(windows), len(positions)))
    first = table.states(windows, positions)
    for n in range(MAX_NGRAM):
        states = first if n == 0 else table.states(windows, positions + n)
        accuracy = accuracy * table.probability(states, windows[:, positions + n])
        brier[:, :, n] = 2.0 * accuracy - collisions[n][first]
    smoothed = table.smoothed(windows, text)
    return NgramScores(brier, float(-np.log(smoothed).mean()))


class _Table:
    """Counts of one order and all below it, as states and edges.

    Level k holds the contexts of k tokens; states are numbered level after level, edges (one for each
    distinct context and next token) are sorted by (state, token)."""

    def __init__(self, train: npt.NDArray[np.integer[Any]], vocab_size: int, order: int) -> None:
        self.vocab_size = vocab_size
        self.order = order
        self.contexts: list[Ints] = []  # per level: sorted keys of its contexts
        self.first_state: list[int] = []  # per level
        edge_states, edge_tokens, edge_counts, longer = [], [], [], []
        num_states = 0
        for level in range(order):
            grams, counts = _count_ngrams(train, vocab_size, level + 1)
            context_of, token = np.divmod(grams, vocab_size)
            new = np.concatenate(([True], context_of[1:] != context_of[:-1]))  # grams are sorted
            self.contexts.append(context_of[new])
            self.first_state.append(num_states)
            edge_states.append(num_states + np.cumsum(new) - 1)
            edge_tokens.append(token)
            edge_counts.append(counts)
            longer.append(grams)
            num_states += int(new.sum())
        self.num_states = num_states
        self.edge_state: Ints = np.concatenate(edge_states)
        edge_token: Ints = np.concatenate(edge_tokens)
        self.edge_count = np.concatenate(edge_counts).astype(np.float64)
        self.edge_key: Ints = self.edge_state * vocab_size + edge_token
        self.state_count = np.bincount(self.edge_state, self.edge_count, num_states)
        self.state_distinct = np.bincount(self.edge_state, minlength=num_states).astype(np.float64)
        self.edge_probability = self.edge_count / self.state_count[self.edge_state]
        self.edge_next = np.concatenate([self._next(level, grams) for level, grams in enumerate(longer)])

    def _next(self, level: int, grams: Ints) -> Ints:
        """State after each n-gram of a level (context and token): its longest suffix that is one."""
        state = np.zeros(len(grams), dtype=np.int64)
        for length in range(1, min(level + 1, self.order - 1) + 1):
            self._override(state, length, grams % self.vocab_size**length)
        return state

    def _override(self, state: Ints, level: int, keys: Ints) -> Ints:
        """Where the context ``keys`` of a level occurred, set its state; returns the mask."""
        known = self.contexts[level]
        index = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        seen = known[index] == keys
        state[seen] = self.first_state[level] + index[seen]
        return np.asarray(seen)

    def _suffix_keys(self, windows: Ints, positions: Ints, length: int) -> Ints:
        """(W, n) keys of the last ``length`` tokens before each position; -1 where there are fewer."""
        key = np.zeros((len(windows), len(positions)), dtype=np.int64)
        for back in range(length, 0, -1):
            key = key * self.vocab_size + windows[:, np.maximum(positions - back, 0)]
        key[:, positions < length] = -1
        return key

    def states(self, windows: Ints, positions: Ints) -> Ints:
        """(W, n) state of the context before each position."""
        state = np.zeros((len(windows), len(positions)), dtype=np.int64)
        for level in range(1, self.order):
            self._override(state, level, self._suffix_keys(windows, positions, level))
        return state

    def _edges(self, states: Ints, tokens: Ints, values: Floats) -> Floats:
        """Value of the edge (state, token); 0 where there is none."""
        keys = states * self.vocab_size + tokens
        index = np.minimum(np.searchsorted(self.edge_key, keys), len(self.edge_key) - 1)
        return np.where(self.edge_key[index] == keys, values[index], 0.0)

    def probability(self, states: Ints, tokens: Ints) -> Floats:
        """P(token | state), same shape as both."""
        return self._edges(states, tokens, self.edge_probability)

    def collisions(self) -> list[Floats]:
        """For n = 1 ... 4: (states,) probability that two n-grams drawn from a state are equal."""
        squared = self.edge_probability**2
        result: list[Floats] = []
        coll: Floats = np.ones(self.num_states)
        for _ in range(MAX_NGRAM):
            coll = np.bincount(self.edge_state, squared * coll[self.edge_next], self.num_states).astype(np.float64)
            result.append(coll)
        return result

    def smoothed(self, windows: Ints, positions: Ints) -> Floats:
        """(W, n) probability of the token at each position, interpolated over the levels with the
        weight (distinct followers) / (occurrences + distinct followers) for the level below (Witten-Bell)."""
        tokens = windows[:, positions]
        result = np.full(tokens.shape, 1.0 / self.vocab_size)
        for level in range(self.order):
            state = np.zeros(tokens.shape, dtype=np.int64)
            seen = self._override(state, level, self._suffix_keys(windows, positions, level))
            count = self._edges(state, tokens, self.edge_count)
            distinct = self.state_distinct[state]
            mixed = (count + distinct * result) / (self.state_count[state] + distinct)
            result = np.where(seen, mixed, result)
        return result


def _count_ngrams(train: npt.NDArray[np.integer[Any]], vocab_size: int, length: int) -> tuple[Ints, Ints]:
    """Sorted keys of the distinct n-grams and how often each occurs."""
    if vocab_size**length >= 2**63:
        raise ValueError(f"n-grams of {length} tokens over {vocab_size} ids do not fit into 64 bits")
    num = len(train) - length + 1
    keys = np.zeros(num, dtype=np.int64)
    for offset in range(length):
        keys *= vocab_size
        keys += train[offset : offset + num]
    if vocab_size**length <= _DENSE_COUNTS:
        counts = np.bincount(keys)
        distinct = np.flatnonzero(counts)
        return distinct, counts[distinct]
    return np.unique(keys, return_counts=True)
