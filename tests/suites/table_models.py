"""Language models given as explicit tables, with exact Brier scores by enumeration.

The law of the next token depends on the whole preceding text through a running hash of it, so a branch
that continues from a wrong prefix has another law. The same token law read in chunks of any K gives a
``SampledModel`` for every K and a ``DistributionModel``, all with the same exact scores.

Letters: B windows, T tokens, K chunk size, V vocabulary, S samples, n positions, R branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workbench.language_model import (
    DistributionBranches,
    DistributionContext,
    DistributionModel,
    KnownChunks,
    SampledBranches,
    SampledContext,
    SampledModel,
)

STATES = 10_007
Floats = npt.NDArray[np.float64]
State = TypeVar("State", int, Tensor)


def _follow(state: State, token: State) -> State:
    return (state * 31 + token * 4801 + 17) % STATES


@dataclass(frozen=True)
class TokenLaw:
    """P(token | text before it); ``table`` is (STATES, V)."""

    table: Tensor

    @property
    def vocab_size(self) -> int:
        return self.table.shape[1]

    def follow(self, state: Tensor, token: Tensor) -> Tensor:
        """State after one more token, same shape as both."""
        return _follow(state, token)

    def read(self, windows: Tensor) -> Tensor:
        """(B, T) states after each token."""
        state = torch.zeros(len(windows), dtype=torch.long)
        states = []
        for token in windows.unbind(1):
            state = self.follow(state, token)
            states.append(state)
        return torch.stack(states, 1)

    def draw(self, state: Tensor, length: int, rng: torch.Generator) -> Tensor:
        """Independent texts of so many tokens, (..., length), one for each state."""
        tokens = []
        for _ in range(length):
            cumulative = self.table[state].cumsum(-1)
            chance = torch.rand((*state.shape, 1), generator=rng, dtype=cumulative.dtype)
            token = (chance > cumulative).sum(-1).clamp_max(self.vocab_size - 1)
            state = self.follow(state, token)
            tokens.append(token)
        return torch.stack(tokens, -1)

    def ngram_law(self, state: int, length: int) -> Floats:
        """Probability of every n-gram, (V,) * length, by following each token."""
        law = self.table[state].double().numpy()
        if length == 1:
            return law
        following = [self.ngram_law(_follow(state, token), length - 1) for token in range(self.vocab_size)]
        return np.stack([law[token] * rest for token, rest in enumerate(following)])

    def exact_brier(self, window: Tensor, position: int) -> Floats:
        """Brier-1..4 of one position."""
        state = int(self.read(window[None, :position])[0, -1])
        scores = []
        for length in range(1, 5):
            law = self.ngram_law(state, length)
            truth = tuple(window[position : position + length].tolist())
            scores.append(2 * law[truth] - (law**2).sum())
        return np.array(scores)


def random_law(vocab_size: int, *, seed: int = 0) -> TokenLaw:
    """Every token has a chance of at least 0.15 / V, so that no event is too rare to be counted."""
    rng = np.random.default_rng(seed)
    table = 0.85 * rng.dirichlet(np.full(vocab_size, 0.4), size=STATES) + 0.15 / vocab_size
    return TokenLaw(torch.from_numpy(table))


class TableSampler(SampledModel):
    """The law, known by samples of chunks."""

    def __init__(self, law: TokenLaw, chunk_size: int) -> None:
        self.law = law
        self.chunk_size = chunk_size

    def read(self, windows: Tensor) -> TableContext:
        return TableContext(self, windows)

    def draw(self, state: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
        return self.law.draw(state.expand(num_samples, *state.shape), self.chunk_size, rng)


class TableContext(SampledContext):
    def __init__(self, model: TableSampler, windows: Tensor) -> None:
        self.model, self.windows = model, windows
        k = model.chunk_size
        self.states = model.law.read(windows)[:, k - 1 :: k]  # (B, P) after each chunk

    def sample(self, window: Tensor, index: Tensor, num_samples: int, *, rng: torch.Generator) -> KnownChunks:
        return KnownChunks(self.model.draw(self.states[window, index], num_samples, rng))

    def branch(self, index: Tensor) -> TableBranches:
        return TableBranches(self, index)


class TableBranches(SampledBranches):
    def __init__(self, context: TableContext, index: Tensor) -> None:
        self.context, self.index = context, index
        self.state = context.states.gather(1, index)
        self.depth = 0

    def keep(self, branch: Tensor) -> None:
        self.index, self.state = self.index.gather(1, branch), self.state.gather(1, branch)

    def extend(self, chunks: Tensor) -> None:
        for token in chunks.unbind(-1):
            self.state = self.context.model.law.follow(self.state, token)
        self.depth += 1

    def sample(self, window: Tensor, branch: Tensor, num_samples: int, *, rng: torch.Generator) -> KnownChunks:
        return KnownChunks(self.context.model.draw(self.state[window, branch], num_samples, rng))


class TableDistribution(DistributionModel):
    """The same law, known by its probabilities."""

    def __init__(self, law: TokenLaw) -> None:
        self.law = law

    def read(self, windows: Tensor) -> TableDistributionContext:
        return TableDistributionContext(self.law, windows)


class TableDistributionContext(DistributionContext):
    def __init__(self, law: TokenLaw, windows: Tensor) -> None:
        self.law = law
        self.states = law.read(windows)

    def log_probs(self, index: Tensor) -> Tensor:
        return self.law.table[self.states.gather(1, index)].log().float()

    def branch(self, index: Tensor) -> TableDistributionBranches:
        return TableDistributionBranches(self.law, self.states.gather(1, index))


class TableDistributionBranches(DistributionBranches):
    def __init__(self, law: TokenLaw, state: Tensor) -> None:
        self.law, self.state = law, state

    def extend(self, tokens: Tensor) -> None:
        self.state = self.law.follow(self.state, tokens)

    def log_probs(self) -> Tensor:
        return self.law.table[self.state].log().float()


# ---- the classic mistakes ------------------------------------------------------------------------


class TruePrefixSampler(TableSampler):
    """Mistake: collisions continue from the true text instead of the samples' own prefix."""

    def read(self, windows: Tensor) -> TableContext:
        context = super().read(windows)

        class Branches(TableBranches):
            def extend(self, chunks: Tensor) -> None:
                self.depth += 1
                self.state = self.context.states.gather(1, self.index + self.depth)

        context.branch = lambda index: Branches(context, index)  # type: ignore[method-assign]
        return context


class OneNoiseSampler(TableSampler):
    """Mistake: all "independent" samples come from one noise."""

    def draw(self, state: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
        return super().draw(state, 1, rng).expand(num_samples, *state.shape, self.chunk_size)


class TruePrefixDistribution(TableDistribution):
    """Mistake of a token model: the continuation is scored after the true tokens."""

    def read(self, windows: Tensor) -> TableDistributionContext:
        context = super().read(windows)
        states, law = context.states, self.law

        class Branches(TableDistributionBranches):
            def __init__(self, index: Tensor) -> None:
                super().__init__(law, states.gather(1, index))
                self.index = index

            def extend(self, tokens: Tensor) -> None:
                self.index = self.index + 1
                self.state = states.gather(1, self.index)

        context.branch = Branches  # type: ignore[method-assign]
        return context


# ---- comparing with enumeration ------------------------------------------------------------------


def surprise(estimates: Tensor, exact: Floats) -> float:
    """The smallest p-value over the orders of a chi-square test that estimates (R, n, O), R independent
    repetitions, have the means ``exact`` (n, O). Right estimators give an ordinary number."""
    from scipy import stats

    values = estimates.double().numpy()
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    off = values.mean(0) - exact
    known = error < 1e-9  # no noise at all: must be exact, up to float32
    if (np.abs(off[known]) > 1e-5).any():
        return 0.0
    z = np.where(known, 0.0, off / np.where(known, 1.0, error))
    return float(min(stats.chi2.sf((z**2).sum(0), (~known).sum(0).clip(1))))
