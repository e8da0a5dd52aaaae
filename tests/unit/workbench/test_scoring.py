"""BrierLM of models given as functions: against enumeration, and what is said about functions that misbehave."""

from __future__ import annotations

import doctest
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.suites.small import build_baseline, small_config, tokens
from tests.suites.table_models import TableDistribution, TokenLaw, random_law
from workbench import callable_models, scoring
from workbench.brier import distribution_brier
from workbench.config import EvalConfig
from workbench.data import Corpus
from workbench.errors import DataError
from workbench.grid import evaluation_grid
from workbench.layers import generator
from workbench.records import Brier
from workbench.scoring import score_distribution, score_sampler
from workbench.uncertainty import summarise

REPEATS, GROUPS = 2000, 100
ORDINARY, CAUGHT = 1e-4, 1e-12
"""p-values: above the first is agreement, below the second a mistake. Seeds are fixed."""

Sampler = Callable[[Tensor, int, torch.Generator], Tensor]


def law_sampler(law: TokenLaw, chunk_size: int) -> Sampler:
    """The law of a table as a user's function."""

    def sampler(contexts: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
        state = law.read(contexts)[:, -1]
        return law.draw(state.expand(num_samples, -1), chunk_size, rng)

    return sampler


def law_log_probs(law: TokenLaw) -> Callable[[Tensor], Tensor]:
    return lambda contexts: law.table[law.read(contexts)[:, -1]].log()


def likely_windows(law: TokenLaw, length: int, *, num: int = 8) -> Tensor:
    return law.draw(torch.zeros(num, dtype=torch.long), length, torch.Generator().manual_seed(5))


def p_value(law: TokenLaw, positions: list[int], score: Callable[[Tensor, Tensor], Brier]) -> tuple[float, float]:
    """Chi-square p-values (upper, lower) that scores of repeated windows are exact within *their own* errors.

    Every window is repeated and scored alone, so that repetitions are independent and the error, from ``GROUPS``
    clusters of repetitions, is that of the samples. The upper tail catches a bias or too small an error, the
    lower one too large an error."""
    z, groups = [], torch.arange(REPEATS) % GROUPS
    for window in likely_windows(law, max(positions) + 16):
        found = score(window.expand(REPEATS, -1), groups)
        exact = 100 * np.mean([law.exact_brier(window, p) for p in positions], axis=0)
        off, error = np.array(found.brier) - exact, np.array(found.brier_se)
        known = error < 1e-4  # no noise at all: exact, up to float32
        assert (np.abs(off[known]) < 1e-3).all()
        z.append(np.where(known, np.nan, off / np.where(known, 1.0, error)))
        assert found.num_clusters == GROUPS
    squares, counts = np.nansum(np.square(z), axis=0), np.isfinite(z).sum(0)
    noisy = counts > 0
    chi2 = stats.chi2(counts[noisy])
    return float(chi2.sf(squares[noisy]).min()), float(chi2.cdf(squares[noisy]).min())


class TestAgainstEnumeration:
    def sampled(self, sampler: Sampler, law: TokenLaw, chunk_size: int, num_samples: int = 4) -> float:
        positions = [12, 24] if chunk_size == 3 else [8, 16]

        def score(windows: Tensor, clusters: Tensor) -> Brier:
            return score_sampler(
                sampler,
                windows,
                chunk_size=chunk_size,
                positions=positions,
                clusters=clusters,
                num_samples=num_samples,
                batch_size=700,
            )

        upper, lower = p_value(law, positions, score)
        assert lower > ORDINARY
        return upper

    @pytest.mark.parametrize("num_samples", [2, 6])
    @pytest.mark.parametrize(("chunk_size", "vocab_size"), [(1, 5), (2, 3), (3, 3), (4, 3), (8, 2)])
    def test_sampler(self, chunk_size: int, vocab_size: int, num_samples: int) -> None:
        law = random_law(vocab_size)
        assert self.sampled(law_sampler(law, chunk_size), law, chunk_size, num_samples) > ORDINARY

    @pytest.mark.slow
    @pytest.mark.parametrize("chunk_size", [1, 2, 4])
    def test_a_context_that_lacks_its_last_token_is_noticed(self, chunk_size: int) -> None:
        law = random_law(3)
        sampler = law_sampler(law, chunk_size)
        assert self.sampled(lambda c, s, rng: sampler(c[:, :-1], s, rng), law, chunk_size) < CAUGHT

    @pytest.mark.slow
    @pytest.mark.parametrize("chunk_size", [1, 2, 3])
    def test_branches_that_forget_their_own_tokens_are_noticed(
        self, chunk_size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(callable_models._SampledContinuations, "extend", lambda self, chunks: None)
        law = random_law(3)
        assert self.sampled(law_sampler(law, chunk_size), law, chunk_size) < CAUGHT

    def test_every_answer_goes_to_its_own_context(self) -> None:
        """Different windows in one call: answers in another order would be scored against other truths."""
        law = random_law(3)
        windows, positions = likely_windows(law, 40, num=6), [8, 24]
        exact = 100 * np.mean([[law.exact_brier(w, p) for p in positions] for w in windows], axis=(0, 1))
        repeats = torch.arange(1500)
        found = score_sampler(
            law_sampler(law, 2),
            windows.repeat_interleave(1500, 0),
            chunk_size=2,
            positions=positions,
            clusters=repeats.repeat(6) % GROUPS,
            num_samples=4,
            batch_size=2100,
        )
        z = (np.array(found.brier) - exact) / found.brier_se
        assert stats.chi2.sf(z**2, 1).min() > ORDINARY
        assert (np.array(found.brier_se) < 1).all()

    @pytest.mark.parametrize("vocab_size", [2, 3, 5])
    def test_distribution(self, vocab_size: int) -> None:
        law = random_law(vocab_size)

        def score(windows: Tensor, clusters: Tensor) -> Brier:
            return score_distribution(
                law_log_probs(law), windows, positions=[8, 16], clusters=clusters, batch_size=700
            )

        upper, lower = p_value(law, [8, 16], score)
        assert min(upper, lower) > ORDINARY

    def test_distribution_equals_the_table_model(self) -> None:
        """The same draws from the same generator, number for number."""
        law = random_law(5)
        windows, positions = likely_windows(law, 40, num=30), torch.tensor([8, 16, 24, 32])
        rng = generator(3, "scoring", 0)
        values, _ = distribution_brier(TableDistribution(law), windows, positions, rng=rng)
        found = score_distribution(law_log_probs(law), windows, positions=positions, seed=3, batch_size=30)
        assert found == summarise(values.double().numpy(), np.arange(30))

    def test_a_network_asked_for_texts_scores_as_it_does_with_its_cache(self) -> None:
        """The baseline's branches against whole texts read anew: positions and contexts mean the same."""
        model = build_baseline(small_config(baseline=True))
        windows, positions = tokens(6, 64), torch.arange(16, 57, 8)
        rng = generator(0, "scoring", 0)
        values, _ = distribution_brier(model, windows, positions, rng=rng)

        def log_probs(contexts: Tensor) -> Tensor:
            last = torch.full((len(contexts), 1), contexts.shape[1] - 1)
            return model.read(contexts).log_probs(last)[:, 0]

        found = score_distribution(log_probs, windows, min_context=16)
        expected = summarise(values.double().numpy(), np.arange(6))
        np.testing.assert_allclose(found.brier, expected.brier, rtol=1e-4)
        np.testing.assert_allclose(found.brier_se, expected.brier_se, rtol=1e-3)

    def test_a_model_that_is_always_right_scores_100(self) -> None:
        """Probabilities of 0 and 1; windows count up, so the next token is known."""
        windows = torch.arange(20)[None] % 7 + torch.zeros(5, 1, dtype=torch.long)

        def log_probs(contexts: Tensor) -> Tensor:
            return torch.nn.functional.one_hot((contexts[:, -1] + 1) % 7, 7).float().log()

        found = score_distribution(log_probs, windows, min_context=4, stride=4)
        assert [found.brierlm, *found.brier] == pytest.approx([100.0] * 5)


class TestWhatTheFunctionIsAsked:
    """Every token of the windows is another number, and so is every sampled one: contexts can be traced."""

    @pytest.mark.parametrize("chunk_size", [1, 2, 3, 4])
    def test_contexts_are_the_text_up_to_a_place_and_own_tokens(self, chunk_size: int) -> None:
        windows = torch.arange(3 * 40).view(3, 40)
        positions = [12, 24]
        num_chunks = -(-4 // chunk_size)
        seen: dict[tuple[int, ...], int] = {}

        def sampler(contexts: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
            assert contexts.dtype == torch.long
            assert contexts.shape[1] % chunk_size == 0
            for context in contexts.tolist():
                seen[tuple(context)] = seen.get(tuple(context), 0) + 1
            first = 1000 + (torch.arange(num_samples) - 1) // 2  # samples 2 i - 1 and 2 i agree
            samples = first[:, None, None].repeat(1, len(contexts), chunk_size)
            samples[0] = contexts[:, -1:] + torch.arange(1, chunk_size + 1)  # right after the text
            return samples

        score_sampler(sampler, windows, chunk_size=chunk_size, positions=positions, num_samples=5)
        for window in windows:
            for position in positions:
                text = window[:position].tolist()
                ahead = window[position:].tolist()
                for depth in range(num_chunks):
                    assert seen.pop((*text, *ahead[: depth * chunk_size])) == 1
                own = [c[position:] for c in seen if c[:position] == tuple(text) and c[position:][:1] >= (1000,)]
                assert sorted(map(len, own)) == [depth * chunk_size for depth in range(1, num_chunks)]
                for context in own:
                    assert set(context) <= {1000, 1001}
                    seen.pop((*text, *context))
        assert seen == {}

    def test_batches_and_progress(self) -> None:
        law = random_law(3)
        windows = likely_windows(law, 24, num=10)
        sizes: list[int] = []
        told: list[int] = []

        def sampler(contexts: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
            sizes.append(len(contexts))
            return law_sampler(law, 4)(contexts, num_samples, rng)

        score_sampler(sampler, windows, chunk_size=4, positions=[8], batch_size=4, progress=told.append)
        assert (sizes, told) == ([4, 4, 2], [4, 8, 10])

    def test_seeded(self) -> None:
        law = random_law(3)
        windows = likely_windows(law, 40, num=6)
        scores = [
            score_sampler(law_sampler(law, 2), windows, chunk_size=2, min_context=8, num_samples=3, seed=seed)
            for seed in (0, 0, 1)
        ]
        assert scores[0] == scores[1]
        assert scores[0].brier != scores[2].brier

    def test_batches_do_not_share_their_noise(self) -> None:
        """With one generator seeded alike for each batch, equal windows would get equal samples."""
        law = random_law(3)
        windows = likely_windows(law, 16, num=1).expand(20, -1)
        found = score_sampler(law_sampler(law, 1), windows, chunk_size=1, positions=[8], batch_size=1)
        assert found.brier_se[0] > 0.1

    @pytest.mark.parametrize("chunk_size", [1, 2, 4, 8])
    def test_by_default_a_runs_grid(self, tiny_corpus: Corpus, chunk_size: int) -> None:
        config = small_config().eval
        grid = evaluation_grid(config, tiny_corpus)
        windows = torch.from_numpy(grid.windows)
        found = scoring._positions(
            None, windows, chunk_size, min_context=config.min_context, stride=config.grid_stride
        )
        np.testing.assert_array_equal(found, grid.positions)
        defaults = EvalConfig()
        assert (defaults.min_context, defaults.grid_stride) == (scoring.MIN_CONTEXT, scoring.STRIDE)

    def test_a_grids_arrays_are_taken_as_they_are(self) -> None:
        law = random_law(3)
        windows = likely_windows(law, 40, num=6)
        arrays = windows.numpy().astype(np.uint16)
        arrays.flags.writeable = False  # as memory-mapped text is
        clusters = np.array([0, 0, 1, 1, 2, 2])
        found = score_sampler(
            law_sampler(law, 2), arrays, chunk_size=2, positions=np.array([8, 16]), clusters=clusters
        )
        same = score_sampler(
            law_sampler(law, 2), windows, chunk_size=2, positions=torch.tensor([8, 16]), clusters=clusters.tolist()
        )
        assert found == same
        assert (found.num_clusters, found.num_positions) == (3, 12)


def ones(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
    return torch.ones(shape, dtype=dtype)


class TestMisuse:
    WINDOWS = torch.arange(4 * 96).view(4, 96) % 5

    @pytest.mark.parametrize(
        ("answer", "given"),
        [
            (lambda b: ones(b, 16, 2), r"int64 tensor of shape \(4, 16, 2\) on cpu"),  # contexts first
            (lambda b: ones(16, b), r"int64 tensor of shape \(16, 4\)"),  # one token without its axis
            (lambda b: ones(16, b, 1), r"shape \(16, 4, 1\)"),
            (lambda b: ones(15, b, 2), r"shape \(15, 4, 2\)"),
            (lambda b: ones(16, b, 2, dtype=torch.float32), r"float32 tensor of shape \(16, 4, 2\)"),
            (lambda b: ones(16, b, 2, dtype=torch.bool), "bool tensor"),
            (lambda b: ones(16, b, 2).to("meta"), "on meta"),
            (lambda b: np.ones((16, b, 2), dtype=np.int64), "object of type ndarray"),
            (lambda b: None, "object of type NoneType"),
        ],
    )
    def test_samples_of_another_kind(self, answer: Callable[[int], Any], given: str) -> None:
        wanted = r"integer tensor of shape \(16, 4, 2\) \(num_samples, contexts, chunk_size\) on cpu"
        with pytest.raises(DataError, match=f"{wanted}; it returned .*{given}"):
            score_sampler(lambda c, s, rng: answer(len(c)), self.WINDOWS, chunk_size=2)

    @pytest.mark.parametrize(("num_windows", "batch_size"), [(100, 100), (100, 16), (8, 8)])
    def test_one_noise_for_all_samples(self, num_windows: int, batch_size: int) -> None:
        """Also where a call has few contexts: they are counted over calls."""
        law = random_law(3)
        sampler = law_sampler(law, 1)
        windows = likely_windows(law, 48, num=num_windows)

        def one_noise(contexts: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
            return sampler(contexts, 1, rng).expand(num_samples, -1, -1)

        with pytest.raises(
            DataError, match=r"all 4 samples were identical in each of the first \d+ contexts.*noise"
        ):
            score_sampler(one_noise, windows, chunk_size=1, num_samples=4, min_context=8, batch_size=batch_size)

    def test_samples_that_agree_often_are_no_mistake(self) -> None:
        """Of a thousand contexts one has two different samples."""
        calls: Iterator[int] = iter(range(10**6))

        def sampler(contexts: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
            samples = torch.ones(num_samples, len(contexts), 1, dtype=torch.long)
            if next(calls) == 0:
                samples[1, 50] = 2
            return samples

        found = score_sampler(sampler, ones(60, 96), chunk_size=1, num_samples=2)
        assert found.brierlm > 90

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda b: torch.zeros(b, 4), r"shape \(4, V\).*at least 5.*float32 tensor of shape \(4, 4\)"),
            (lambda b: torch.zeros(b, 1, 5), r"shape \(4, 1, 5\)"),
            (lambda b: torch.zeros(b + 1, 5), r"shape \(5, 5\)"),
            (lambda b: ones(b, 5), "floating-point.*int64 tensor"),
            (lambda b: torch.zeros(b, 5).to("meta"), "on meta"),
            (lambda b: [0.0] * 5, "object of type list"),
            (lambda b: torch.zeros(b, 5), r"add up to exp\(1\.609\).*log_softmax"),
            (lambda b: torch.full((b, 5), 0.2), "log_softmax"),  # probabilities
            (lambda b: torch.full((b, 5), float("nan")), r"exp\(nan\)"),
        ],
    )
    def test_log_probabilities_of_another_kind(self, answer: Callable[[int], Any], message: str) -> None:
        with pytest.raises(DataError, match=message):
            score_distribution(lambda c: answer(len(c)), self.WINDOWS)

    def test_a_vocabulary_that_changes(self) -> None:
        sizes = iter([6, 7])
        with pytest.raises(DataError, match=r"6 as before.*shape \(4, 7\)"):
            score_distribution(lambda c: torch.zeros(len(c), next(sizes)).log_softmax(-1), self.WINDOWS)

    def test_half_precision_is_taken(self) -> None:
        """log_softmax in bfloat16 adds up to 1 only nearly."""
        logits = torch.randn(5000, generator=torch.Generator().manual_seed(0)).bfloat16()
        rough = score_distribution(lambda c: logits.log_softmax(-1).expand(len(c), -1), self.WINDOWS)
        fine = score_distribution(lambda c: logits.float().log_softmax(-1).expand(len(c), -1), self.WINDOWS)
        assert rough.brier[0] == pytest.approx(fine.brier[0], rel=0.1)

    @pytest.mark.parametrize(
        ("windows", "fields", "message"),
        [
            (ones(96), {}, r"at least two windows.*int64 tensor of shape \(96,\)"),
            (ones(1, 96), {}, r"at least two windows.*\(1, 96\)"),
            (ones(4, 96, dtype=torch.float32), {}, "token ids.*float32"),
            ([["a", "b"]], {}, "whole numbers are wanted, list given"),
            (WINDOWS, {"chunk_size": 0}, "chunk_size must be at least 1"),
            (WINDOWS, {"num_samples": 1}, "num_samples at least 2"),
            (WINDOWS, {"batch_size": 0}, "batch_size must be at least 1, 0 given"),
            (WINDOWS, {"stride": 0}, "stride must be at least 1, 0 given"),
            (WINDOWS, {"chunk_size": 3}, "min_context 64 .* stride 8 does not: set .* multiples of 3"),
            (WINDOWS, {"min_context": 96}, "no position in windows of 96 tokens"),
            (WINDOWS, {"min_context": 0}, "between 1 .* and 92"),
            (WINDOWS, {"positions": [8, 17], "chunk_size": 2}, "chunk of 2 tokens"),
            (WINDOWS, {"positions": [8, 93]}, "between 1 .* and 92 .*from 8 to 93"),
            (WINDOWS[:, :95], {"positions": [90], "chunk_size": 3}, "between 3 .* and 89 .6 tokens"),
            (WINDOWS, {"positions": [0, 8]}, "between 1"),
            (WINDOWS, {"positions": torch.tensor([8.5])}, "list of token offsets, a float32"),
            (WINDOWS, {"positions": torch.tensor([[8]])}, r"list of token offsets.*\(1, 1\)"),
            (WINDOWS, {"positions": torch.zeros(0, dtype=torch.long)}, "no position"),
            (WINDOWS, {"clusters": [0, 1, 2]}, r"each of the 4 windows.*shape \(3,\)"),
            (WINDOWS, {"clusters": [7, 7, 7, 7]}, "two different ones.* 1 different given"),
        ],
    )
    def test_what_cannot_be_scored(self, windows: Any, fields: dict[str, Any], message: str) -> None:
        def sampler(contexts: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
            raise AssertionError("refused before the sampler is asked")

        with pytest.raises(DataError, match=message):
            score_sampler(sampler, windows, **{"chunk_size": 1, **fields})

    def test_the_samplers_own_errors_are_its_own(self) -> None:
        def sampler(contexts: Tensor, num_samples: int, rng: torch.Generator) -> Tensor:
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            score_sampler(sampler, self.WINDOWS, chunk_size=1)


def test_the_example_in_the_docstring_runs() -> None:
    outcome = doctest.testmod(scoring)
    assert outcome.attempted >= 10
    assert outcome.failed == 0
