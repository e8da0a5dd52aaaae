"""Generated text: the cache changes nothing, prompts are filled up in front."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.suites.small import build_baseline, build_calm, rng, small_config, tokens
from workbench.language_model import LanguageModel
from workbench.model import Calm
from workbench.sampling import generate
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


def build(kind: str) -> LanguageModel:
    config = small_config(**KINDS[kind])
    return build_calm(config) if config.is_calm else build_baseline(config)


def prompt(length: int = 8) -> np.ndarray[Any, np.dtype[np.int64]]:
    return tokens(length, seed=3).numpy()


def without_cache(model: LanguageModel, text: Tensor, num_tokens: int, generator: torch.Generator) -> Tensor:
    """The whole prefix read anew for every chunk; (B, T) with T a multiple of K."""
    start = text.shape[1]
    if not isinstance(model, Calm):
        while text.shape[1] - start < num_tokens:
            probabilities = model.network.output(model.network(text)[:, -1]).softmax(-1)
            text = torch.cat([text, torch.multinomial(probabilities, 1, generator=generator)], 1)
        return text[:, start:]
    settings = model.network.config
    latents = model.autoencoder.encode(model.chunks(text)).mean
    while text.shape[1] - start < num_tokens:
        hidden = model.network(model.chunks(text), latents)[:, -1]
        latent = model.network.head.sample(hidden, num_samples=1, rng=generator)[0]
        chunk = model.autoencoder.decode(latent)
        text = torch.cat([text, chunk], 1)
        fed = latent if settings.latent_feedback == "predicted" else model.autoencoder.encode(chunk).mean
        latents = torch.cat([latents, fed.unsqueeze(1)], 1)
    return text[:, start:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_nothing(kind: str) -> None:
    model = build(kind)
    with torch.no_grad():
        expected = without_cache(model, torch.from_numpy(prompt()).expand(3, -1), 24, rng(1))
    made = generate(model, prompt(), num_texts=3, num_tokens=24, rng=rng(1))
    assert made.shape == (3, 24)
    assert torch.equal(made, expected)
    assert not made.requires_grad


def test_predicted_and_reencoded_feedback_differ() -> None:
    made = [
        generate(build(k), prompt(), num_texts=3, num_tokens=40, rng=rng(1)) for k in ("both", "both, predicted")
    ]
    assert torch.equal(made[0][:, :4], made[1][:, :4])
    assert not torch.equal(made[0], made[1])


@pytest.mark.parametrize("kind", ["tokens", "baseline"])
def test_the_generator_decides_the_text_and_texts_are_independent(kind: str) -> None:
    model = build(kind)
    made = [generate(model, prompt(), num_texts=2, num_tokens=24, rng=rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert not torch.equal(made[0][0], made[0][1])


@pytest.mark.parametrize(("length", "filled"), [(0, 4), (1, 3), (3, 1), (4, 0), (6, 2)])
def test_a_prompt_is_filled_up_in_front_with_end_tokens(length: int, filled: int) -> None:
    model, given = build("tokens"), prompt(length)
    whole = np.concatenate([np.full(filled, END_ID), given])
    assert len(whole) % 4 == 0
    first, second = (generate(model, p, num_texts=2, num_tokens=12, rng=rng()) for p in (given, whole))
    assert torch.equal(first, second)


def test_an_empty_prompt_of_the_baseline_is_one_end_token() -> None:
    model = build("baseline")
    first, second = (
        generate(model, p, num_texts=2, num_tokens=5, rng=rng()) for p in (prompt(0), np.array([END_ID]))
    )
    assert torch.equal(first, second)


def test_whole_chunks_are_generated_and_progress_is_shown() -> None:
    seen: list[int] = []
    made = generate(build("tokens"), prompt(), num_texts=1, num_tokens=9, rng=rng(), progress=seen.append)
    assert made.shape == (1, 12)
    assert seen == [4, 8, 12]


def test_generated_text_has_no_padding() -> None:
    made = generate(build("tokens"), prompt(), num_texts=8, num_tokens=100, rng=rng())
    assert (made > 0).all()
