"""The bottleneck panel: against plain loops over positions and samples, against the enumerated law of a head
that is known, and against closed forms for an autoencoder that is a lattice."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from tests.suites.small import build_calm, small_config
from tests.suites.table_models import surprise
from tests.unit.workbench.test_brier_networks import DiscreteHead, InputMode, discrete_calm, texts
from workbench import bottleneck as module
from workbench.bottleneck import MIN_SAMPLES, bottleneck
from workbench.config import EvalConfig
from workbench.heads.base import Head
from workbench.layers import generator
from workbench.model import Calm
from workbench.posterior import Posterior
from workbench.records import Bottleneck

ORDINARY = 1e-4
"""A p-value below this does not happen by chance."""
RULES = EvalConfig(context_len=24, min_context=8, grid_stride=8, num_windows=4, num_samples=4, seed=3)
POSITIONS = np.array([8, 16])


def windows(num: int, seed: int = 0, length: int = 24) -> np.ndarray:
    return texts(num, length, seed).numpy()


# ---- the whole panel, by plain loops ---------------------------------------------------------------


@torch.no_grad()
def plain_panel(calm: Calm, rules: EvalConfig, shown: np.ndarray, positions: np.ndarray) -> dict[str, object]:
    """Every number of the panel from its definition, one position and one sample or pair at a time. Only the draws
    are made as the panel makes them: all positions, window after window, in one batch."""
    k, orders, num_samples = calm.chunk_size, min(calm.chunk_size, 4), max(32, rules.num_samples)
    places = list(itertools.product(range(len(shown)), positions.tolist()))
    hidden, truth = [], []
    for w, p in places:
        chunks = calm.chunks(torch.from_numpy(shown[w, :p])[None])  # the text before the position, nothing else
        hidden.append(calm.network(chunks, calm.feedback(chunks))[0, -1])
        truth.append(shown[w, p : p + k].tolist())
    rng = generator(rules.seed, "bottleneck", 0)
    latents = calm.network.head.sample(torch.stack(hidden), num_samples=num_samples, rng=rng)

    def decode(z: Tensor) -> list[int]:
        return calm.autoencoder.decode(z[None])[0].tolist()

    def mean_of(chunk: list[int]) -> Tensor:
        return calm.autoencoder.encode(torch.tensor([chunk])).mean[0]

    def brier(said: list[list[int]], true: list[int], n: int) -> float:
        hits = sum(s[:n] == true[:n] for s in said) / len(said)
        pairs = list(itertools.combinations(said, 2))
        return 2 * hits - sum(a[:n] == b[:n] for a, b in pairs) / len(pairs)

    found: dict[str, list[list[float]]] = {name: [] for name in LISTS}
    squares, sigmas = [], []
    for i, true in enumerate(truth):
        after = truth[(i + len(positions)) % len(truth)]  # same position, next window
        said = [decode(z) for z in latents[:, i]]
        noise = [z - mean_of(s) for z, s in zip(latents[:8, i], said[:8], strict=True)]
        squares += [float(r.square().mean()) for r in noise]
        sigmas.append(float(calm.autoencoder.encode(torch.tensor([true])).std.square().mean()))
        noisy = [decode(mean_of(after) + r) for r in noise]
        again = decode(mean_of(true))
        order = range(1, orders + 1)
        # Counter.most_common keeps the order of first appearance among equals
        modes = [Counter(tuple(s[:n]) for s in said).most_common(1)[0][0] for n in order]
        found["brier"].append([brier(said, true, n) for n in order])
        found["autoencoder_brier"].append([2.0 * (again[:n] == true[:n]) - 1 for n in order])
        found["noisy_brier"].append([brier(noisy, after, n) for n in order])
        found["mode_accuracy"].append([modes[n - 1] == tuple(true[:n]) for n in order])
        found["sample_accuracy"].append([np.mean([s[:n] == true[:n] for s in said]) for n in order])
        found["shuffled_brier"].append([brier(said, after, n) for n in order])
    means = torch.stack([mean_of(true) for true in truth])
    return {
        **{name: (100 * np.array(values, dtype=float).mean(0)).tolist() for name, values in found.items()},
        "num_positions": len(places),
        "num_samples": num_samples,
        "head_noise": math.sqrt(np.mean(squares)),
        "posterior_noise": math.sqrt(np.mean(sigmas)),
        "effective_rank_posterior": plain_rank(means.numpy()),
        "effective_rank_samples": plain_rank(latents.flatten(0, 1).numpy()),
        "latent_dim": means.shape[1],
    }


def plain_rank(vectors: np.ndarray) -> float:
    values = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False).astype(float) ** 2
    return float(np.exp(stats.entropy(values[values > 0])))


LISTS = ("brier", "autoencoder_brier", "noisy_brier", "mode_accuracy", "sample_accuracy", "shuffled_brier")


def agrees(panel: Bottleneck, expected: dict[str, object], *, tolerance: float = 1e-4) -> None:
    found = panel.model_dump()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=1e-6), name


class TestAgainstPlainLoops:
    """Catches: a hidden state one chunk off, the roll in the wrong direction or within a window, noise added to
    its own truth, tokens compared instead of prefixes, a mode with other ties, S below 32, means over the
    wrong axis, a list that is a share instead of per cent."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("chunk_size", "input_mode"),
        [(1, "tokens"), (2, "latent"), (4, "tokens"), (4, "both"), (8, "tokens")],
    )
    def test_a_head_that_says_few_chunks(self, chunk_size: int, input_mode: InputMode) -> None:
        calm, shown = discrete_calm(chunk_size, input_mode), windows(3)
        panel = bottleneck(calm, RULES, shown, POSITIONS)
        agrees(panel, plain_panel(calm, RULES, shown, POSITIONS))
        assert len(panel.brier) == min(chunk_size, 4)
        assert panel.num_samples == MIN_SAMPLES
        assert panel.head_noise > 0.1
        for own, other in itertools.combinations(LISTS, 2):
            assert getattr(panel, own) != getattr(panel, other), "the texts must tell the numbers apart"

    def test_an_energy_head_with_more_samples(self) -> None:
        rules = RULES.model_copy(update={"num_samples": 40})
        calm, shown = build_calm(small_config(), vocab_size=4), windows(3)
        panel = bottleneck(calm, rules, shown, POSITIONS)
        agrees(panel, plain_panel(calm, rules, shown, POSITIONS))
        assert panel.num_samples == 40

    def test_only_the_first_windows_are_used(self) -> None:
        calm, shown = discrete_calm(4, "tokens"), windows(5)
        assert bottleneck(calm, RULES, shown, POSITIONS, num_windows=3) == bottleneck(
            calm, RULES, shown[:3], POSITIONS
        )
        assert bottleneck(calm, RULES, shown, POSITIONS, num_windows=3).num_positions == 6


# ---- the whole panel, in the mean ------------------------------------------------------------------


@torch.no_grad()
def exact_panel(calm: Calm, shown: Tensor, positions: list[int]) -> dict[str, list[float]]:
    """Expected values by enumeration of the codes of a ``DiscreteHead``, without a sample."""
    k, head = calm.chunk_size, calm.network.head
    assert isinstance(head, DiscreteHead)
    codes: Tensor = head.codes  # type: ignore[assignment]
    decoded = calm.autoencoder.decode(codes)
    noise = codes - calm.autoencoder.encode(decoded).mean
    rows: dict[str, list[list[float]]] = {"brier": [], "shuffled": [], "noisy": [], "accuracy": []}
    for w, p in itertools.product(range(len(shown)), positions):
        chunks = calm.chunks(shown[w : w + 1, :p])
        chance = head.probabilities(calm.network(chunks, calm.feedback(chunks))[:, -1])[0].double()
        true, after = shown[w, p : p + k], shown[(w + 1) % len(shown), p : p + k]
        noisy = calm.autoencoder.decode(calm.autoencoder.encode(after[None]).mean + noise)
        rows["brier"].append(_exact(decoded, chance, true)[0])
        rows["accuracy"].append(_exact(decoded, chance, true)[1])
        rows["shuffled"].append(_exact(decoded, chance, after)[0])
        rows["noisy"].append(_exact(noisy, chance, after)[0])
    return {name: np.mean(values, axis=0).tolist() for name, values in rows.items()}


def _exact(chunks: Tensor, chance: Tensor, truth: Tensor) -> tuple[list[float], list[float]]:
    """Brier-n and P(truth) of each order where chunk c has probability ``chance[c]``."""
    brier, accuracy = [], []
    for n in range(1, min(4, len(truth)) + 1):
        law: dict[tuple[int, ...], float] = {}
        for chunk, p in zip(chunks[:, :n].tolist(), chance.tolist(), strict=True):
            law[tuple(chunk)] = law.get(tuple(chunk), 0.0) + p
        right = law.get(tuple(truth[:n].tolist()), 0.0)
        brier.append(2 * right - sum(p**2 for p in law.values()))
        accuracy.append(right)
    return brier, accuracy


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 4])
def test_means_over_seeds_are_what_enumeration_says(chunk_size: int) -> None:
    """Catches a biased estimator: S^2 pairs instead of S(S-1)/2, a sample paired with itself, noise that is not
    independent of the truth, one draw shared by positions."""
    calm, shown = discrete_calm(chunk_size, "tokens"), texts(3, 24)
    exact = exact_panel(calm, shown, POSITIONS.tolist())
    panels = [
        bottleneck(calm, RULES.model_copy(update={"seed": seed}), shown.numpy(), POSITIONS) for seed in range(80)
    ]
    fields = {
        "brier": "brier",
        "shuffled": "shuffled_brier",
        "noisy": "noisy_brier",
        "accuracy": "sample_accuracy",
    }
    for name, field in fields.items():
        values = torch.tensor([getattr(p, field) for p in panels]).unsqueeze(1) / 100  # (seeds, 1, O)
        assert surprise(values, np.array([exact[name]])) > ORDINARY, name


# ---- an autoencoder whose geometry is known --------------------------------------------------------


class Lattice(nn.Module):
    """Token t lies at t, one latent dimension a token; a vector decodes to the nearest token."""

    def __init__(self, calm: Calm, *, sigma: float = 0.5) -> None:
        super().__init__()
        self.config, self.chunk_size, self.sigma = calm.autoencoder.config, calm.chunk_size, sigma

    def encode(self, chunks: Tensor) -> Posterior:
        return Posterior(chunks.float(), torch.full(chunks.shape, math.log(self.sigma)))

    def decode(self, latents: Tensor) -> Tensor:
        return latents.round().long()


class AroundHead(Head):
    """One fixed vector plus Gaussian noise, whatever the context."""

    def __init__(self, centre: Tensor, noise: float) -> None:
        super().__init__()
        self.centre, self.noise = centre, noise

    def loss(self, hidden: Tensor, target: Posterior, *, rng: torch.Generator) -> Tensor:
        raise NotImplementedError

    def sample(self, hidden: Tensor, *, num_samples: int, rng: torch.Generator) -> Tensor:
        shape = (num_samples, len(hidden), len(self.centre))
        return self.centre + self.noise * torch.randn(shape, generator=rng)


def lattice_calm(noise: float, *, centre: tuple[float, ...] = (2.0, 2.0, 2.0, 2.0)) -> Calm:
    calm = build_calm(small_config(), vocab_size=4)
    calm.autoencoder = Lattice(calm)  # type: ignore[assignment]
    calm.network.head = AroundHead(torch.tensor(centre), noise)
    return calm


class TestLattice:
    def test_little_noise_is_measured_exactly_and_harms_nothing(self) -> None:
        """Noise 0.1 never leaves the cell of width 1: the RMS is 0.1, not the distance to the truth."""
        panel = bottleneck(lattice_calm(0.1), RULES, windows(30), POSITIONS)
        num = panel.num_positions * 8 * 4
        assert panel.head_noise == pytest.approx(0.1, rel=4 / math.sqrt(2 * num))
        assert panel.posterior_noise == pytest.approx(0.5)
        assert panel.autoencoder_brier == panel.noisy_brier == [100.0] * 4
        assert panel.mode_accuracy == panel.sample_accuracy

    def test_the_constant_prediction_scores_what_the_truth_says(self) -> None:
        """All samples agree, so Brier-n is 2 * accuracy - 1 with the share of positions that begin with n twos."""
        shown = windows(30)
        panel = bottleneck(lattice_calm(0.0), RULES, shown, POSITIONS)
        for n in range(1, 5):
            share = np.mean([(shown[:, p : p + n] == 2).all(1) for p in POSITIONS])
            assert panel.sample_accuracy[n - 1] == pytest.approx(100 * share)
            assert panel.brier[n - 1] == pytest.approx(200 * share - 100)
        assert panel.head_noise == 0

    def test_noise_is_understated_where_vectors_leave_their_cell(self) -> None:
        """What the docstring warns of: noise 2 is uniform in the cell when measured from the nearest chunk, RMS
        1/sqrt(12), so it never changes a decoded token, and all the loss counts as the head's prediction."""
        panel = bottleneck(lattice_calm(2.0), RULES, windows(30), POSITIONS)
        assert panel.head_noise == pytest.approx(1 / math.sqrt(12), rel=0.01)
        assert panel.noisy_brier == [100.0] * 4
        assert panel.sample_accuracy[0] < 50

    def test_the_samples_rank_is_that_of_their_noise(self) -> None:
        panel = bottleneck(lattice_calm(0.3), RULES, windows(30), POSITIONS)
        assert panel.effective_rank_samples == pytest.approx(4, abs=0.01)
        assert bottleneck(lattice_calm(0.0), RULES, windows(30), POSITIONS).effective_rank_samples == 0
        assert panel.latent_dim == 4

    def test_a_context_that_is_ignored_gains_nothing(self) -> None:
        """Over all windows the shuffled truths are the same truths: equal exactly, because the same samples serve
        both and here do not depend on the position."""
        panel = bottleneck(lattice_calm(0.0), RULES, windows(30), POSITIONS)
        assert panel.shuffled_brier == pytest.approx(panel.brier)

    def test_a_head_that_knows_the_next_chunk_loses_only_when_shuffled(self) -> None:
        """Windows of one repeated token: the hidden state tells the token. Catches a roll over positions of one
        window, which would leave the shuffled score at 100."""
        calm = lattice_calm(0.0)
        shown = np.repeat(np.array([[1], [2], [3], [1]]), 24, axis=1)
        chunks = calm.chunks(torch.from_numpy(shown))
        with torch.no_grad():
            states = calm.network(chunks)

        class Knowing(AroundHead):
            def sample(self, hidden: Tensor, *, num_samples: int, rng: torch.Generator) -> Tensor:
                near = torch.cdist(hidden, states.flatten(0, 1)).argmin(1)
                token = chunks.flatten(0, 1)[near].float()
                return token.expand(num_samples, -1, -1)

        calm.network.head = Knowing(torch.zeros(4), 0.0)
        panel = bottleneck(calm, RULES, shown, POSITIONS)
        assert panel.brier == panel.mode_accuracy == [100.0] * 4
        # the last window's neighbour is the first, which is the same: one of four is right
        assert panel.shuffled_brier == pytest.approx([2 * 25 - 100] * 4)


# ---- how it is computed ----------------------------------------------------------------------------


class TestComputation:
    def test_repeatable_and_seeded(self) -> None:
        calm, shown = discrete_calm(4, "tokens"), windows(3)
        first = bottleneck(calm, RULES, shown, POSITIONS)
        torch.manual_seed(5)  # the global seed is neither used nor changed
        before = torch.random.get_rng_state()
        assert bottleneck(calm, RULES, shown, POSITIONS) == first
        assert torch.equal(torch.random.get_rng_state(), before)
        other = bottleneck(calm, RULES.model_copy(update={"seed": 4}), shown, POSITIONS)
        assert other.brier != first.brier
        assert other.autoencoder_brier == first.autoencoder_brier

    def test_autocast_changes_nothing(self) -> None:
        calm, shown = build_calm(small_config(), vocab_size=4), windows(3)
        expected = bottleneck(calm, RULES, shown, POSITIONS)
        with torch.autocast("cpu", torch.bfloat16):
            assert bottleneck(calm, RULES, shown, POSITIONS) == expected

    def test_memory_is_bounded_and_batches_draw_their_own_noise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Catches one noise for all batches and a last batch that is left out."""
        calm, shown = discrete_calm(4, "tokens"), np.repeat(windows(1), 40, axis=0)
        whole = bottleneck(calm, RULES, shown, POSITIONS, num_windows=40)
        drawn = _recorded_draws(calm, monkeypatch)
        inner = calm.autoencoder.config.mlp_width
        assert inner is not None
        monkeypatch.setattr(module, "_AT_ONCE", 3 * 32 * 4 * 2 * inner)
        split = bottleneck(calm, RULES, shown, POSITIONS, num_windows=40)
        assert [d.shape[1] for d in drawn] == [3] * 26 + [2]
        assert split.num_positions == whole.num_positions == 80
        assert split.autoencoder_brier == whole.autoencoder_brier
        assert split.effective_rank_posterior == whole.effective_rank_posterior
        even = [d[:, 0] for d in drawn[::2]]  # an even number of threes: always the first position of a window
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(even, 2))
        # 40 windows alike, so either panel estimates the same law from 80 x 32 samples
        assert split.sample_accuracy == pytest.approx(whole.sample_accuracy, abs=5)

    def test_windows_are_read_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calm, shown = discrete_calm(2, "both"), windows(5)
        expected = bottleneck(calm, RULES, shown, POSITIONS)
        monkeypatch.setattr(module, "_READ_TOKENS", 50)  # two windows of 24
        found = bottleneck(calm, RULES, shown, POSITIONS)
        agrees(found, expected.model_dump())

    def test_one_window_has_no_other(self) -> None:
        with pytest.raises(AssertionError, match="two windows"):
            bottleneck(discrete_calm(4, "tokens"), RULES, windows(1), POSITIONS)

    @pytest.mark.parametrize(
        ("positions", "message"), [([6], "boundaries"), ([0], "first chunk"), ([24], "inside the window")]
    )
    def test_positions_that_no_grid_has(self, positions: list[int], message: str) -> None:
        with pytest.raises(AssertionError, match=message):
            bottleneck(discrete_calm(4, "tokens"), RULES, windows(2), np.array(positions))


def _recorded_draws(calm: Calm, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The head's draws, in the order in which they are asked for."""
    drawn: list[Tensor] = []
    sample: Callable[..., Tensor] = calm.network.head.sample

    def recorded(hidden: Tensor, **options: object) -> Tensor:
        drawn.append(sample(hidden, **options))
        return drawn[-1]

    monkeypatch.setattr(calm.network.head, "sample", recorded)
    return drawn
