"""The samplers of the next chunk: what may be chosen, their laws, chunks from hidden states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.suites.small import VOCAB, build_baseline, build_calm, rng, small_config
from workbench import chunk_samplers
from workbench.chunk_samplers import KINDS, SAMPLERS, HiddenSource, SamplerChoice, next_chunks
from workbench.errors import ConfigError, SamplingError
from workbench.model import Calm
from workbench.temperature import ChunkSource


@pytest.fixture
def calm() -> Calm:
    return build_calm(small_config())


def hidden(num: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(num, 32, generator=rng(seed))


class TestChoice:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"kind": "greedy"},
                "sampler must be one of auto, plain, exact, batch, noise, softmax; 'greedy' given",
            ),
            ({"temperature": 0.0}, "above 0 .* 0 given. Greedy text, the limit at 0, is not available"),
            ({"temperature": -1.0}, "temperature must be above 0"),
            ({"temperature": float("nan")}, "nan given"),
            ({"temperature": float("inf")}, "inf given"),
            ({"kind": "exact", "temperature": 1.5}, r"sampler exact takes temperatures in \(0, 1\], 1.5 given"),
            (
                {"kind": "plain", "temperature": 0.5},
                "sampler plain draws at temperature 1, 0.5 given; choose batch",
            ),
            ({"kind": "noise", "temperature": 0.5}, "sampler noise has no temperature"),
            ({"kind": "noise", "noise_scale": -0.1}, "noise_scale must be at least 0, -0.1 given"),
            ({"kind": "batch", "noise_scale": 0.5}, "noise_scale has no effect on sampler batch"),
            ({"kind": "batch", "batch_size": 0}, "batch_size must be at least 1, 0 given"),
            ({"kind": "exact", "budget": 0}, "budget must be at least 1, 0 given"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            SamplerChoice(**fields)

    @pytest.mark.parametrize("kind", ["exact", "batch", "noise"])
    def test_a_baseline_is_sent_to_softmax(self, kind: Any) -> None:
        model = build_baseline(small_config(baseline=True))
        with pytest.raises(ConfigError, match=f"sampler {kind} is for a CALM.*choose softmax"):
            SamplerChoice(kind).resolved(model)

    def test_a_calm_has_no_softmax(self, calm: Calm) -> None:
        with pytest.raises(
            ConfigError, match="needs a token model's probabilities and a CALM has none; choose batch"
        ):
            SamplerChoice("softmax").resolved(calm)

    def test_auto(self, calm: Calm) -> None:
        baseline = build_baseline(small_config(baseline=True))
        assert SamplerChoice().resolved(calm) == SamplerChoice("batch", 0.5, batch_size=32)
        assert SamplerChoice().resolved(baseline) == SamplerChoice("softmax", 0.5)
        assert SamplerChoice(temperature=1.0).resolved(calm) == SamplerChoice("plain")
        assert SamplerChoice(temperature=1.5).resolved(baseline) == SamplerChoice("softmax", 1.5)
        with pytest.raises(ConfigError, match="sampler batch takes temperatures in"):
            SamplerChoice(temperature=1.5).resolved(calm)

    def test_words_and_temperature(self, calm: Calm) -> None:
        chosen = [
            SamplerChoice("plain"),
            SamplerChoice("noise"),
            SamplerChoice("batch"),
            SamplerChoice("exact", 0.3),
        ]
        resolved = [choice.resolved(calm) for choice in chosen]
        assert [str(choice) for choice in resolved] == [
            "plain",
            "noise scale 0.5",
            "batch N = 32 at temperature 0.5",
            "exact at temperature 0.3",
        ]
        assert [choice.effective_temperature() for choice in resolved] == [1.0, None, 0.5, 0.3]

    def test_every_kind_is_in_the_table(self) -> None:
        assert set(SAMPLERS) == set(KINDS) - {"auto"}


class TestHiddenSource:
    def test_is_a_source(self, calm: Calm) -> None:
        source = HiddenSource(calm, hidden(5))
        assert isinstance(source, ChunkSource)
        draws = source.draw(torch.tensor([4, 1]), 3, rng=rng())
        assert draws.chunks.shape == (3, 2, 4)
        assert draws.latents is None, "nothing feeds them back"
        again = source.draw(torch.tensor([4, 1]), 3, rng=rng())
        assert torch.equal(draws.chunks, again.chunks)
        assert not torch.equal(draws.chunks[0], draws.chunks[1])

    @pytest.mark.parametrize("mode", ["latent", "both"])
    def test_latents_are_kept_where_they_are_fed_back(self, mode: str) -> None:
        model = build_calm(small_config(input_mode=mode, latent_feedback="predicted"))
        draws = HiddenSource(model, hidden()).draw(torch.arange(3), 5, rng=rng())
        assert draws.latents is not None
        assert draws.latents.shape == (5, 3, 6)
        assert torch.equal(model.autoencoder.decode(draws.latents), draws.chunks)
        reencoded = build_calm(small_config(input_mode=mode))
        assert HiddenSource(reencoded, hidden()).draw(torch.arange(3), 5, rng=rng()).latents is None

    def test_of_one_place_they_are_the_models_samples(self, calm: Calm) -> None:
        draws = HiddenSource(calm, hidden(5)).draw(torch.tensor([2]), 40, rng=rng(7))
        expected, _ = calm.sample_chunks(hidden(5)[2:3], 40, rng=rng(7))
        assert torch.equal(draws.chunks, expected)

    def test_many_places_are_drawn_in_slices(self, calm: Calm, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        sample = calm.network.head.sample

        def watched(part: Tensor, **arguments: Any) -> Tensor:
            sizes.append(len(part))
            return sample(part, **arguments)

        monkeypatch.setattr(calm.network.head, "sample", watched)
        monkeypatch.setattr(chunk_samplers, "rows_at_once", lambda elements, device: 8)
        draws = HiddenSource(calm, hidden(5)).draw(torch.arange(5), 4, rng=rng())
        assert sizes == [2, 2, 1]
        assert draws.chunks.shape == (4, 5, 4)

    def test_noise_scale(self, calm: Calm) -> None:
        draws = HiddenSource(calm, hidden(), noise_scale=0.0).draw(torch.arange(3), 6, rng=rng())
        assert (draws.chunks == draws.chunks[0]).all()

    @pytest.mark.parametrize("kind", ["energy", "diffusion", "flow"])
    def test_any_head(self, kind: str) -> None:
        config = small_config(head={"kind": kind} if kind == "energy" else {"kind": kind, "num_calls": 4})
        source = HiddenSource(build_calm(config), hidden(), noise_scale=0.5)
        assert source.draw(torch.arange(3), 2, rng=rng()).chunks.shape == (2, 3, 4)


class TestLaws:
    """Frequencies over many places with the same hidden state."""

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_softmax(self, temperature: float) -> None:
        model = build_baseline(small_config(baseline=True))
        with torch.no_grad():
            probs = model.network.output(hidden(1))[0].double().softmax(-1) ** (1 / temperature)
        drawn = next_chunks(model, hidden(1).expand(20_000, -1), SamplerChoice("softmax", temperature), rng=rng())
        assert drawn.chunks.shape == (20_000, 1)
        assert (drawn.calls == 1).all()
        counts = np.bincount(drawn.chunks[:, 0], minlength=VOCAB)
        assert stats.chisquare(counts, 20_000 * (probs / probs.sum()).numpy()).pvalue > 1e-4

    @pytest.mark.parametrize("temperature", [1e-3, 1e-300])
    def test_softmax_at_a_low_temperature_takes_the_likeliest(self, temperature: float) -> None:
        model = build_baseline(small_config(baseline=True))
        drawn = next_chunks(model, hidden(50), SamplerChoice("softmax", temperature), rng=rng())
        assert torch.equal(drawn.chunks[:, 0], model.network.output(hidden(50)).argmax(-1))

    def test_plain(self, calm: Calm) -> None:
        drawn = next_chunks(calm, hidden(4), SamplerChoice("plain"), rng=rng(3))
        expected, _ = calm.sample_chunks(hidden(4), 1, rng=rng(3))
        assert torch.equal(drawn.chunks, expected[0])
        assert (drawn.calls.tolist(), drawn.drawn, drawn.fallback.any()) == ([1] * 4, 4, False)

    def test_plain_of_a_baseline_is_temperature_1(self) -> None:
        model = build_baseline(small_config(baseline=True))
        plain, softmax = (
            next_chunks(model, hidden(9), choice, rng=rng())
            for choice in (SamplerChoice("plain"), SamplerChoice("softmax", 1.0))
        )
        assert torch.equal(plain.chunks, softmax.chunks)

    def test_noise(self, calm: Calm) -> None:
        drawn = next_chunks(calm, hidden(1).expand(8, -1), SamplerChoice("noise", noise_scale=0.0), rng=rng())
        assert (drawn.chunks == drawn.chunks[0]).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["exact", "batch"])
    def test_at_a_temperature(self, kind: Any) -> None:
        """K = 1, so that all tokens are seen often: P^2, renormalised; a large batch is nearly unbiased."""
        model, num = build_calm(small_config(chunk_size=1)), 1000
        plain = next_chunks(model, hidden(1).expand(40_000, -1), SamplerChoice("plain"), rng=rng())
        squared = np.bincount(plain.chunks[:, 0], minlength=VOCAB) ** 2.0
        choice = SamplerChoice(kind, 0.5, batch_size=200)
        drawn = next_chunks(model, hidden(1).expand(num, -1), choice, rng=rng(1))
        found = np.bincount(drawn.chunks[:, 0], minlength=VOCAB) / num
        assert np.abs(found - squared / squared.sum()).sum() < 0.1
        assert np.abs(found - np.sqrt(squared) / np.sqrt(squared).sum()).sum() > 0.2, "not temperature 1"

    def test_a_spent_budget(self, calm: Calm) -> None:
        choice = SamplerChoice("exact", 0.2, budget=6)
        with pytest.raises(SamplingError, match="budget of 6"):
            next_chunks(calm, hidden(), choice, rng=rng())
        fallback = SamplerChoice("exact", 0.2, budget=6, on_spent="batch", batch_size=10)
        drawn = next_chunks(calm, hidden(), fallback, rng=rng())
        assert drawn.fallback.all()
        assert drawn.chunks.shape == (3, 4)
