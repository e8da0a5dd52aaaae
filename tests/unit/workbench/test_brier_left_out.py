"""What BrierLM's estimator leaves out: it asks for all that can change an estimate, for nothing else, and the
estimates are those of everything decoded.

Letters: B windows, K chunk size, S samples, n positions, r places.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.suites.small import build_calm, rng, small_config, with_chunks_of
from tests.suites.table_models import TableBranches, TableContext, TableSampler, TokenLaw, random_law
from workbench.brier import _compare, _Compared, _draw_agreeing, sampled_brier
from workbench.language_model import KnownChunks
from workbench.model import Calm

SAMPLES = 6


class RecordedChunks(KnownChunks):
    """Which tokens are asked for."""

    def __init__(self, chunks: Tensor) -> None:
        super().__init__(chunks)
        self.chunks = chunks
        self.asked: list[set[int]] = []
        """Of every position of the chunk, in this order."""

    def tokens(self, t: int, which: Tensor) -> Tensor:
        assert t == len(self.asked)
        assert len(which.unique()) == len(which)
        self.asked.append(set(which.tolist()))
        return super().tokens(t, which)


def chunks_of(num_places: int, length: int, *, vocab_size: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(vocab_size, (SAMPLES, num_places, length), generator=rng(seed))


# ---- tokens ----------------------------------------------------------------------------------------


def needed(chunks: Tensor, truth: Tensor | None, pairs: bool, t: int) -> set[int]:
    """The samples that are like the truth, or where pairs count like another one, in their first t tokens."""
    num, places = chunks.shape[:2]
    found = set()
    for s in range(num):
        for i in range(places):
            prefix = chunks[s, i, :t].tolist()
            others = [chunks[o, i, :t].tolist() for o in range(num) if o != s and pairs]
            right = truth is not None and truth[i, :t].tolist() == prefix
            if right or prefix in others or t == 0:
                found.add(s * places + i)
    return found


@pytest.mark.parametrize(("true", "pairs"), [(True, True), (True, False), (False, True)])
def test_tokens_are_asked_for_while_a_sample_is_like_what_it_is_compared_with(true: bool, pairs: bool) -> None:
    samples, truth = RecordedChunks(chunks_of(40, 4)), chunks_of(40, 4, seed=1)[0]
    _compare(samples, truth if true else 4, pairs=pairs)
    for t in range(4):
        assert samples.asked[t] == needed(samples.chunks, truth if true else None, pairs, t)
    sizes = [len(asked) for asked in samples.asked]
    assert sizes[0] > sizes[1] > sizes[3] > 0, "the case is not tested"


def test_compared_as_whole_chunks_are() -> None:
    chunks, truth = chunks_of(50, 4), chunks_of(50, 4, seed=1)[0]
    seen = _compare(KnownChunks(chunks), truth, pairs=True)
    for t in range(4):
        right = (chunks[..., : t + 1] == truth[:, : t + 1]).all(-1).double().mean(0)
        same = (chunks[:, None, :, : t + 1] == chunks[:, :, : t + 1]).all(-1).sum((0, 1)) - SAMPLES
        torch.testing.assert_close(seen.right[:, t].double(), right)
        torch.testing.assert_close(seen.agree[:, t].double(), same / (SAMPLES * (SAMPLES - 1)), check_dtype=False)
    known = seen.tokens >= 0
    assert torch.equal(seen.tokens[known], chunks[known])
    assert known[seen.others > 0].all(), "what a branch continues from must be known"


def test_only_tokens_that_an_order_needs() -> None:
    """Four of eight; with K = 3 the second chunk's first."""
    for k, lengths in ((8, [4]), (3, [3, 1, 1])):  # K = 3: accuracy and branch of the second chunk
        model = RecordedSampler(random_law(2), k)
        windows = torch.randint(2, (4, 48), generator=rng())
        sampled_brier(model, windows, torch.tensor([24]), num_samples=SAMPLES, rng=rng())
        assert [len(samples.asked) for samples in model.drawn] == lengths


# ---- places ------------------------------------------------------------------------------------------


class RecordedSampler(TableSampler):
    """What is sampled where."""

    def __init__(self, law: TokenLaw, chunk_size: int) -> None:
        super().__init__(law, chunk_size)
        self.drawn: list[RecordedChunks] = []
        self.places: list[list[tuple[int, int]]] = []
        """(window, chunk) of the text, (window, branch) of branches; of every request."""
        self.of_branches: list[bool] = []

    def add(self, chunks: Tensor, window: Tensor, place: Tensor, of_branches: bool) -> RecordedChunks:
        self.drawn.append(RecordedChunks(chunks))
        self.places.append(list(zip(window.tolist(), place.tolist(), strict=True)))
        self.of_branches.append(of_branches)
        return self.drawn[-1]

    def read(self, windows: Tensor) -> TableContext:
        model = self

        class Branches(TableBranches):
            def sample(
                self, window: Tensor, branch: Tensor, num_samples: int, *, rng: torch.Generator
            ) -> KnownChunks:
                chunks = model.draw(self.state[window, branch], num_samples, rng)
                return model.add(chunks, window, branch, True)

        class Context(TableContext):
            def sample(
                self, window: Tensor, index: Tensor, num_samples: int, *, rng: torch.Generator
            ) -> KnownChunks:
                chunks = model.draw(self.states[window, index], num_samples, rng)
                return model.add(chunks, window, index, False)

            def branch(self, index: Tensor) -> TableBranches:
                return Branches(self, index)

        return Context(self, windows)


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_later_chunks_are_sampled_only_after_right_or_agreeing_ones(chunk_size: int) -> None:
    model = RecordedSampler(random_law(6), chunk_size)
    windows = torch.randint(6, (30, 24), generator=rng())
    sampled_brier(model, windows, torch.tensor([8, 16]), num_samples=3, rng=rng())
    text = [i for i, of_branches in enumerate(model.of_branches) if not of_branches]
    for before, after in itertools.pairwise(text):
        wanted = []
        for column, (window, chunk) in enumerate(model.places[before]):
            true = windows[window, (chunk + 1) * chunk_size : (chunk + 2) * chunk_size]
            if any(torch.equal(sample[column], true) for sample in model.drawn[before].chunks):
                wanted.append((window, chunk + 1))
        assert model.places[after] == wanted
    branches = [text[0], *(i for i, of_branches in enumerate(model.of_branches) if of_branches)]
    for before, after in itertools.pairwise(branches):
        agree = [len(set(map(tuple, place.tolist()))) < 3 for place in model.drawn[before].chunks.unbind(1)]
        assert len(model.places[after]) == sum(agree)
        assert len(set(model.places[after])) == sum(agree)
    assert 0 < len(model.places[branches[1]]) < 60
    assert 0 < len(model.places[text[1]]) < 60


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_samples_that_never_agree_nor_hit_score_0(chunk_size: int) -> None:
    class Different(RecordedSampler):
        def draw(self, state: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
            shape = (num_samples, *state.shape, self.chunk_size)
            return 10 + torch.arange(num_samples).view(-1, *[1] * (state.ndim + 1)).expand(shape)

    model = Different(random_law(3), chunk_size)
    windows = torch.randint(3, (3, 24), generator=rng())
    values = sampled_brier(model, windows, torch.tensor([8, 16]), num_samples=4, rng=rng())
    assert torch.equal(values, torch.zeros(3, 2, 4))
    assert len(model.places) == 1, "nothing is sampled after the first chunk"


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_estimates_of_what_is_continued_stay_at_their_positions(chunk_size: int) -> None:
    """Samples agree after odd states only, on tokens that the state says: every estimate is known. Catches terms
    of the branches that go on put at another branch's position."""

    class OddAgree(TableSampler):
        def draw(self, state: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
            alone = 10 + torch.arange(num_samples).view(-1, *[1] * state.ndim)
            tokens = torch.where(state % 2 == 1, state % 3, alone)
            return tokens.unsqueeze(-1).expand(*tokens.shape, self.chunk_size)

    law = random_law(3)
    windows, positions = torch.randint(3, (60, 40), generator=rng()), torch.tensor([8, 16, 24, 32])
    values = sampled_brier(OddAgree(law, chunk_size), windows, positions, num_samples=3, rng=rng())

    def says(text: list[int]) -> list[int]:
        state = int(law.read(torch.tensor([text]))[0, -1])
        return [state % 3] * chunk_size if state % 2 else []

    for window, row in zip(windows.tolist(), values, strict=True):
        for position, estimate in zip(positions.tolist(), row, strict=True):
            right: list[int] = []
            for start in range(position, position + 4, chunk_size):
                right += says(window[:start]) or [-1] * chunk_size
            agree: list[int] = []
            while len(agree) < 4 and (chunk := says(window[:position] + agree)):
                agree += chunk
            hits = [right[:n] == window[position : position + n] for n in range(1, 5)]
            pairs = [len(agree) >= n for n in range(1, 5)]
            expected = [2.0 * h - p for h, p in zip(hits, pairs, strict=True)]
            assert estimate.tolist() == expected


# ---- the estimates ------------------------------------------------------------------------------------


def varied_calm(chunk_size: int) -> Calm:
    """Its samples agree and are right often enough."""
    model = build_calm(with_chunks_of(chunk_size, small_config()), vocab_size=4, seed=1)
    with torch.no_grad():
        model.autoencoder.expand.weight *= 3
        model.autoencoder.expand.bias.normal_(generator=rng(2))
        model.network.head.to_latent.weight *= 4
    return model


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [2, 7])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 8])
def test_decoding_everything_gives_the_same_estimates(
    chunk_size: int, num_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same latent vectors, position by position."""
    model = varied_calm(chunk_size)
    windows = torch.randint(1, 4, (40, 48), generator=rng())
    positions = torch.tensor([12, 24, 36] if chunk_size == 3 else [8, 16, 32])
    on_demand = sampled_brier(model, windows, positions, num_samples=num_samples, rng=rng(5))

    def whole(hidden: Tensor, num_samples: int, *, rng: torch.Generator) -> KnownChunks:
        latents = model.network.head.sample(hidden, num_samples=num_samples, rng=rng)
        return KnownChunks(model.autoencoder.decode(latents))

    monkeypatch.setattr(model, "draw", whole)
    everything = sampled_brier(model, windows, positions, num_samples=num_samples, rng=rng(5))
    assert torch.equal(on_demand, everything)
    assert (everything[..., 3] > 0).any(), "a whole n-gram must have been hit"
    assert (everything[..., 3] < 0).any(), "and have been a collision"


def test_a_chunk_is_continued_in_proportion_to_the_pairs_that_agree_on_it() -> None:
    """Counts 3, 2 and 1: three pairs, one, none. Catches chances in proportion to c, equal ones, and a ticket that
    falls off either end."""
    tokens = torch.tensor([7, 8, 7, 9, 8, 7]).view(-1, 1, 1).expand(-1, 20_000, 1)
    others = torch.tensor([2, 1, 2, 0, 1, 2]).view(-1, 1).expand(-1, 20_000)
    drawn = _draw_agreeing(_Compared(torch.empty(0), torch.empty(0), tokens, others), rng())[:, 0]
    counts = np.array([(drawn == token).sum() for token in (7, 8, 9)])
    assert counts[2] == 0
    assert stats.chisquare(counts[:2], [15_000, 5_000]).pvalue > 1e-4
