"""Text from a trained model, with a key/value cache (METHOD section 2, generation).

Letters: B texts, K chunk size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from workbench.backbone import KVCache
from workbench.baseline import TokenBaseline
from workbench.language_model import LanguageModel
from workbench.model import Calm
from workbench.tokenizer import END_ID


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompt: npt.NDArray[np.integer],
    *,
    num_texts: int,
    num_tokens: int,
    rng: torch.Generator,
    progress: Callable[[int], None] | None = None,
) -> Int[Tensor, "b t"]:
    """``num_texts`` independent continuations of one prompt at temperature 1, each at least ``num_tokens``
    tokens (a whole number of chunks), without the prompt. The result is an inference tensor: clone it to compute
    gradients with it.

    A CALM reads whole chunks, so the prompt is filled up in front with end tokens to a multiple of K."""
    k = model.chunk_size
    missing = -len(prompt) % k or (k if len(prompt) == 0 else 0)
    filled = np.concatenate([np.full(missing, END_ID), prompt]).astype(np.int64)
    tokens = torch.from_numpy(filled).to(model.device).expand(num_texts, -1)
    cache = KVCache(capacity=len(filled) // k + math.ceil(num_tokens / k))
    if isinstance(model, Calm):
        steps = _calm_steps(model, tokens, cache, rng)
    else:
        assert isinstance(model, TokenBaseline)
        steps = _baseline_steps(model, tokens, cache, rng)
    made: list[Tensor] = []
    while len(made) * k < num_tokens:
        made.append(next(steps))
        if progress is not None:
            progress(len(made) * k)
    return torch.cat(made, dim=1)


def _calm_steps(model: Calm, tokens: Tensor, cache: KVCache, rng: torch.Generator) -> Iterator[Tensor]:
    """Yields (B, K) tokens for ever."""
    chunks = model.chunks(tokens)
    latents = model.feedback(chunks)
    feed_predicted = model.uses_latents and model.network.config.latent_feedback == "predicted"
    while True:
        hidden = model.network(chunks, latents, cache)[:, -1]
        sampled, predicted = model.sample_chunks(hidden, 1, rng=rng)
        yield sampled[0]
        chunks = sampled[0].unsqueeze(1)
        latents = predicted[0].unsqueeze(1) if feed_predicted else model.feedback(chunks)


def _baseline_steps(
    model: TokenBaseline, tokens: Tensor, cache: KVCache, rng: torch.Generator
) -> Iterator[Tensor]:
    """Yields (B, 1) tokens for ever."""
    while True:
        hidden = model.network(tokens, cache)[:, -1]
        tokens = torch.multinomial(model.network.log_probs(hidden).exp(), 1, generator=rng)
        yield tokens
