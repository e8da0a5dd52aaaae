"""Generated text: cache, window and batching change nothing; what is read of a prompt; where a text ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.suites.small import VOCAB, build_baseline, build_calm, decoded, rng, small_config, tokens
from workbench.backbone import KVCache
from workbench.chunk_samplers import SamplerChoice
from workbench.errors import ConfigError, SamplingError
from workbench.language_model import LanguageModel
from workbench.model import Calm
from workbench.sampling import Generated, Generation, expected_calls, generate, prompt_chunks, seen_chunks
from workbench.tokenizer import END_ID

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {"baseline": True},
    "tokens": {"input_mode": "tokens"},
    "tokens, K = 1": {"input_mode": "tokens", "chunk_size": 1},
    "latent": {"input_mode": "latent"},
    "both": {"input_mode": "both"},
    "latent, predicted": {"input_mode": "latent", "latent_feedback": "predicted"},
    "both, predicted": {"input_mode": "both", "latent_feedback": "predicted"},
    "grouped queries": {"backbone": {"num_kv_heads": 2}},
}
PLAIN = SamplerChoice("plain")
BLOCK = 32
"""Tokens of a training block: 8 chunks of 4, of which 7 are seen."""

Ids = np.ndarray[Any, np.dtype[np.int64]]


def build(kind: str) -> LanguageModel:
    config = small_config(**KINDS[kind])
    return build_calm(config) if config.is_calm else build_baseline(config)


def prompt(length: int = 8, seed: int = 3) -> Ids:
    return tokens(length, seed=seed).numpy()


def certain(model: LanguageModel) -> SamplerChoice:
    """Always the same text: no noise, or the likeliest token."""
    return SamplerChoice("noise", noise_scale=0.0) if isinstance(model, Calm) else SamplerChoice(temperature=1e-6)


def without_cache(
    model: LanguageModel, text: Tensor, num_tokens: int, generator: torch.Generator, window: int | None = None
) -> Tensor:
    """All that is seen is read anew for every chunk; (B, T) with T a multiple of K."""
    start, k = text.shape[1], model.chunk_size
    most, kept = (seen_chunks(window, k), window // k // 2) if window else (10**6, 0)
    first = 0
    latents = model.feedback(model.chunks(text)) if isinstance(model, Calm) else None
    while text.shape[1] - start < num_tokens:
        if text.shape[1] // k - first > most:
            first = text.shape[1] // k - kept
        if not isinstance(model, Calm):
            probabilities = model.network.output(model.network(text[:, first:])[:, -1]).double().softmax(-1)
            text = torch.cat([text, torch.multinomial(probabilities, 1, generator=generator)], 1)
            continue
        hidden = model.network(model.chunks(text)[:, first:], latents[:, first:] if latents is not None else None)
        latent = model.network.head.sample(hidden[:, -1], num_samples=1, rng=generator)[0]
        chunk = model.autoencoder.decode(latent)
        text = torch.cat([text, chunk], 1)
        if latents is not None:
            predicted = model.network.config.latent_feedback == "predicted"
            fed = latent if predicted else model.autoencoder.encode(chunk).mean
            latents = torch.cat([latents, fed.unsqueeze(1)], 1)
    return text[:, start:]


def watch_inputs(model: Calm, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor | None]]:
    """Chunks and latent vectors of every pass through the network, as they come."""
    fed: list[tuple[Tensor, Tensor | None]] = []
    embed = model.network.embed

    def watched(chunks: Tensor, latents: Tensor | None) -> Tensor:
        fed.append((chunks, latents))
        return embed(chunks, latents)

    monkeypatch.setattr(model.network, "embed", watched)
    return fed


class TestCacheAndWindow:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("window", [None, BLOCK])
    def test_the_same_as_reading_everything_anew(self, kind: str, window: int | None) -> None:
        """With a window of 32 tokens its latter half is read anew three times."""
        model, num_tokens = build(kind), 72 if window else 24
        with torch.no_grad():
            text = torch.from_numpy(prompt()).expand(3, -1)
            expected = without_cache(model, text, num_tokens, rng(1), window)
        made = generate(
            model,
            3 * [prompt()],
            num_tokens=num_tokens,
            rng=rng(1),
            sampler=PLAIN,
            window=window,
            stop_at_end=False,
        )
        assert torch.equal(torch.tensor(np.stack(made.texts)), expected)

    def test_positions_stay_within_a_training_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Seven chunks at most; then the latter half, four, is read in one go."""
        model, read = build("tokens"), []
        assert isinstance(model, Calm)
        run = model.network.backbone.forward

        def forward(x: Tensor, cache: KVCache) -> Tensor:
            read.append((cache.length, x.shape[1]))
            return run(x, cache)

        monkeypatch.setattr(model.network.backbone, "forward", forward)
        generate(model, [prompt(20)], num_tokens=32, rng=rng(), sampler=PLAIN, window=BLOCK, stop_at_end=False)
        assert read == [(0, 5), (5, 1), (6, 1), (0, 4), (4, 1), (5, 1), (6, 1), (0, 4)]

    def test_of_a_long_prompt_the_end_is_read(self) -> None:
        assert prompt_chunks(prompt(70), 4, BLOCK).tolist() == prompt(70)[-28:].reshape(7, 4).tolist()
        made = generate(build("tokens"), [prompt(70), prompt(6)], num_tokens=4, rng=rng(), window=BLOCK)
        assert made.unread == [42, 2]

    def test_predicted_and_reencoded_feedback_differ(self) -> None:
        made = [
            generate(build(kind), [prompt()], num_tokens=40, rng=rng(1), sampler=PLAIN, stop_at_end=False).texts[0]
            for kind in ("both", "both, predicted")
        ]
        assert made[0][:4].tolist() == made[1][:4].tolist()
        assert made[0].tolist() != made[1].tolist()

    @pytest.mark.parametrize("sampler", ["plain", "batch", "exact", "noise"])
    def test_the_latent_that_is_fed_back_is_that_of_the_chosen_chunk(
        self, sampler: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = build("latent, predicted")
        assert isinstance(model, Calm)
        fed = watch_inputs(model, monkeypatch)
        generate(model, [prompt()], num_tokens=16, rng=rng(), sampler=SamplerChoice(sampler), stop_at_end=False)
        assert len(fed) == 4
        for chunks, latents in fed[1:]:
            assert latents is not None
            assert torch.equal(model.autoencoder.decode(latents), chunks)
            assert not torch.equal(model.autoencoder.encode(chunks).mean, latents)


class TestBatching:
    LENGTHS = (0, 3, 9, 21, 40)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["baseline", "tokens", "tokens, K = 1", "both, predicted"])
    def test_a_text_does_not_depend_on_what_it_is_batched_with(self, kind: str) -> None:
        """Without noise, so that the random numbers cannot differ; with texts that end early and a window that all
        outgrow."""
        model = build(kind)
        prompts = [prompt(length, seed=length) for length in self.LENGTHS]

        def made(some: Sequence[Ids]) -> Generated:
            return generate(model, some, num_tokens=40, rng=rng(), sampler=certain(model), window=BLOCK)

        together, alone = made(prompts), [made([one]) for one in prompts]
        assert [text.tolist() for text in together.texts] == [one.texts[0].tolist() for one in alone]
        assert together.finished == [one.finished[0] for one in alone]
        assert together.num_chunks == sum(one.num_chunks for one in alone)

    def test_prompts_of_different_lengths_are_read_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = build("tokens")
        assert isinstance(model, Calm)
        fed = watch_inputs(model, monkeypatch)
        generation = Generation(
            model,
            [prompt(8), prompt(16), prompt(12)],
            num_tokens=12,
            rng=rng(),
            sampler=PLAIN,
            stop_at_end=False,
        )
        steps = [sorted(new) for new in generation]
        assert steps == [[0], [0, 2], [0, 1, 2], [1, 2], [1]]
        # when the third text is done, one of three is left: it is read anew alone
        shapes = [tuple(chunks.shape) for chunks, _ in fed]
        assert shapes == [(3, 2, 4), (3, 1, 4), (3, 1, 4), (3, 1, 4), (1, 6, 4)]

    def test_texts_of_one_prompt_are_independent(self) -> None:
        made = generate(build("tokens"), 2 * [prompt()], num_tokens=24, rng=rng(), sampler=PLAIN)
        assert made.texts[0].tolist() != made.texts[1].tolist()

    @pytest.mark.parametrize("kind", ["tokens", "baseline"])
    def test_equal_seed_equal_text(self, kind: str) -> None:
        made = [
            [
                text.tolist()
                for text in generate(build(kind), [prompt(), prompt(5)], num_tokens=24, rng=rng(s)).texts
            ]
            for s in (0, 0, 1)
        ]
        assert made[0] == made[1] != made[2]


class TestPrompt:
    """Whole chunks, counted from the end."""

    @pytest.mark.parametrize(
        ("length", "expected"),
        [
            (0, [[1, 1, 1, 1]]),
            (3, [[1, 10, 11, 12]]),
            (4, [[10, 11, 12, 13]]),
            (6, [[12, 13, 14, 15]]),
            (9, [[11, 12, 13, 14], [15, 16, 17, 18]]),
        ],
    )
    def test_what_is_read(self, length: int, expected: list[list[int]]) -> None:
        assert END_ID == 1
        assert prompt_chunks(np.arange(10, 10 + length), 4).tolist() == expected

    def test_of_the_baseline_everything_or_an_end_token(self) -> None:
        assert prompt_chunks(np.arange(3), 1).tolist() == [[0], [1], [2]]
        assert prompt_chunks(np.arange(0), 1).tolist() == [[END_ID]]

    @pytest.mark.slow
    @pytest.mark.parametrize("chunk_size", [2, 4])
    def test_the_continuation_has_the_models_own_distribution(self, chunk_size: int) -> None:
        """Of every remainder of the length, batched together, against samples that the evaluation's reading of the
        last whole chunks gives. Filling up inside the text, or in front of a text that is longer than a chunk,
        is another distribution, and the test sees it."""
        model = attentive(build_calm(small_config(chunk_size=chunk_size), vocab_size=FEW))
        prompts = [tokens(4 * chunk_size + rest, vocab_size=FEW, seed=9).numpy() for rest in range(chunk_size)]
        prompts.append(tokens(chunk_size - 1, vocab_size=FEW, seed=9).numpy())
        found = first_chunks(model, prompts)
        for text, chunks in zip(prompts, found, strict=True):
            whole = text[len(text) % chunk_size :] if len(text) > chunk_size else [END_ID, *text]
            assert p_value(chunks, next_chunks(model, whole)) > 1e-4
        padding = [END_ID] * (chunk_size - 1)
        for wrong in ([*prompts[1], *padding], [*padding, *prompts[1]]):
            assert p_value(found[1], next_chunks(model, wrong)) < 1e-9


FEW = 6
DRAWS = 2500


def attentive(model: Calm) -> Calm:
    """Its samples depend on the text: an untrained head hardly looks at the hidden state."""
    with torch.no_grad():
        for block in model.network.head.blocks:  # type: ignore[union-attr]
            block.join.weight[:, model.network.config.backbone.width :] *= 5  # type: ignore[index, union-attr]
    return model


def first_chunks(model: Calm, prompts: list[Ids]) -> list[Counter[tuple[int, ...]]]:
    """Of ``DRAWS`` texts of each prompt, all batched together."""
    made = generate(
        model,
        [text for text in prompts for _ in range(DRAWS)],
        num_tokens=model.chunk_size,
        rng=rng(4),
        sampler=PLAIN,
        stop_at_end=False,
    )
    rows = [tuple(text.tolist()) for text in made.texts]
    return [Counter(rows[i * DRAWS : (i + 1) * DRAWS]) for i in range(len(prompts))]


def next_chunks(model: Calm, text: Sequence[int] | Ids) -> Counter[tuple[int, ...]]:
    """Samples of the chunk after a text of whole chunks, read without the code of generation."""
    window = torch.as_tensor(np.asarray(text))[None]
    last = torch.tensor([window.shape[1] // model.chunk_size - 1])
    samples = model.read(window).sample(torch.tensor([0]), last, DRAWS, rng=rng(5))
    return Counter(map(tuple, decoded(samples, model.chunk_size)[:, 0].tolist()))


def p_value(first: Counter[tuple[int, ...]], second: Counter[tuple[int, ...]]) -> float:
    """Chi-square of two samples, what is rare taken together."""
    counts = np.array([[first[key], second[key]] for key in sorted(set(first) | set(second))])
    often = counts.sum(1) >= 10
    rows = [*counts[often], counts[~often].sum(0)]
    return float(stats.chi2_contingency([row for row in rows if sum(row)]).pvalue)


class TestEnd:
    def test_a_text_stops_at_its_end_token_and_the_others_go_on(self) -> None:
        """Without noise: the same texts, cut off after their first end token."""
        model = build("tokens")
        prompts = [prompt(8, seed=seed) for seed in range(24)]
        whole, cut = (
            generate(
                model, prompts, num_tokens=42, rng=rng(), sampler=certain(model), window=BLOCK, stop_at_end=stop
            )
            for stop in (False, True)
        )
        assert 0 < sum(cut.finished) < 24
        assert whole.finished == 24 * [False]
        for long, short, finished in zip(whole.texts, cut.texts, cut.finished, strict=True):
            ends = np.flatnonzero(long == END_ID)
            assert bool(len(ends)) == finished
            expected = long[: ends[0] + 1] if finished else long
            assert short.tolist() == expected.tolist()

    def test_finished_texts_cost_nothing(self) -> None:
        model = build("tokens")
        prompts = [prompt(8, seed=seed) for seed in range(24)]
        made = generate(model, prompts, num_tokens=40, rng=rng(), sampler=certain(model))
        assert made.num_chunks == sum(-(-len(text) // 4) for text in made.texts) < 240

    def test_the_last_chunk_is_cut_to_the_tokens_wanted(self) -> None:
        seen: list[int] = []
        made = generate(
            build("tokens"),
            2 * [prompt()],
            num_tokens=9,
            rng=rng(),
            sampler=PLAIN,
            stop_at_end=False,
            progress=seen.append,
        )
        assert [len(text) for text in made.texts] == [9, 9]
        assert seen == [8, 16, 18]


class TestSteps:
    def test_new_tokens_of_every_step_are_the_text(self) -> None:
        generation = Generation(build("tokens"), [prompt(5), prompt(13)], num_tokens=30, rng=rng(2))
        texts: list[list[int]] = [[], []]
        for new in generation:
            for i, some in new.items():
                assert 0 < len(some) <= 4
                texts[i] += some
            assert generation.num_tokens_made == len(texts[0]) + len(texts[1])
        assert texts == [text.tolist() for text in generation.result().texts]

    def test_reading_first_changes_nothing(self) -> None:
        model = build("both")
        generation = Generation(model, [prompt()], num_tokens=16, rng=rng(2))
        generation.read()
        made = [token for new in generation for token in new[0]]
        assert made == generate(model, [prompt()], num_tokens=16, rng=rng(2)).texts[0].tolist()

    def test_what_drawing_took(self) -> None:
        made = generate(build("tokens"), 2 * [prompt()], num_tokens=16, rng=rng(), stop_at_end=False)
        assert made.sampler == SamplerChoice("batch", temperature=0.5, batch_size=32)
        assert (made.num_chunks, made.calls_per_chunk, made.drawn_per_chunk) == (8, 32.0, 32.0)
        plain = generate(build("baseline"), [prompt()], num_tokens=5, rng=rng(), stop_at_end=False)
        assert plain.sampler == SamplerChoice("softmax", temperature=0.5)
        assert (plain.num_chunks, plain.calls_per_chunk, plain.fallback_chunks) == (5, 1.0, 0)

    def test_a_spent_budget_leaves_what_was_made(self) -> None:
        generation = Generation(
            build("tokens, K = 1"),
            [prompt()],
            num_tokens=1000,
            rng=rng(),
            sampler=SamplerChoice("exact", temperature=0.5, budget=10),
            stop_at_end=False,
        )
        with pytest.raises(SamplingError, match="budget of 10"):
            for _ in generation:
                pass
        made = generation.result()
        assert 0 < len(made.texts[0]) == made.num_chunks < 1000

    def test_fallbacks_are_counted(self) -> None:
        made = generate(
            build("tokens"),
            4 * [prompt()],
            num_tokens=40,
            rng=rng(),
            sampler=SamplerChoice("exact", temperature=0.5, budget=20, on_spent="batch", batch_size=8),
            stop_at_end=False,
        )
        assert 0 < made.fallback_chunks < made.num_chunks == 40
        assert 2 < made.calls_per_chunk <= made.drawn_per_chunk

    def test_nothing_to_do_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="at least one prompt and one token are wanted, 0 and 5 given"):
            generate(build("tokens"), [], num_tokens=5, rng=rng())

    def test_expected_calls_are_those_of_the_exact_sampler(self) -> None:
        model = attentive(build_calm(small_config(chunk_size=2), vocab_size=FEW))
        text = tokens(9, vocab_size=FEW).numpy()
        estimate = expected_calls(model, text, temperature=0.5, rng=rng(), num_samples=4000, window=BLOCK)
        made = generate(
            model, 3000 * [text], num_tokens=2, rng=rng(1), sampler=SamplerChoice("exact", 0.5), window=BLOCK
        )
        assert made.calls_per_chunk == pytest.approx(estimate, rel=0.1)


def test_generated_text_has_no_padding() -> None:
    made = generate(build("tokens"), 8 * [prompt()], num_tokens=100, rng=rng(), stop_at_end=False)
    assert all(text.min() > 0 and text.max() < VOCAB for text in made.texts)
