"""What a model really computes: matrix products counted as they run, part by part, to hold the accounts against.

``workbench.flops`` counts from the configuration; this counts with ``torch.utils.flop_counter`` (two FLOPs a
multiply-add, matrix products only), attention written out by the math backend, since the counter knows no formula
for the fused kernel of a processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.suites.small import VOCAB, rng, tokens
from workbench.backbone import Backbone, KVCache
from workbench.baseline import TokenBaseline
from workbench.chunk_samplers import HiddenSource, SamplerChoice
from workbench.config import RunConfig
from workbench.energy_score import energy_loss
from workbench.heads.energy import EnergyHead
from workbench.language_model import LanguageModel
from workbench.model import Calm
from workbench.sampling import generate

Parts = dict[str, float]


def products(work: Callable[[], Any]) -> tuple[float, float]:
    """FLOPs of the products of plain matrices, and of batches of matrices: of a backbone, its linear maps and its
    attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    by_kind: Counter[bool] = Counter()
    for operation, flops in counter.get_flop_counts()["Global"].items():
        by_kind["bmm" in str(operation)] += flops
    return float(by_kind[False]), float(by_kind[True])


def counted(work: Callable[[], Any]) -> float:
    """FLOPs of all matrix products."""
    return sum(products(work))


def counted_step(loss: Callable[[], Tensor]) -> float:
    """Forward and backward."""
    return counted(lambda: loss().sum().backward())


def training_parts(model: LanguageModel, config: RunConfig, vocab: int = VOCAB) -> Parts:
    """FLOPs of one step, forward and backward, by the parts of ``compute_account.executed_step``."""
    text = tokens(config.batch_sequences, config.train.block_len, vocab_size=vocab)
    if isinstance(model, Calm):
        return _calm_parts(model, config, text)
    assert isinstance(model, TokenBaseline)
    hidden = _hidden(text[:, 1:], config)
    return {
        **_backbone(model.network.backbone, hidden),
        "output": counted_step(lambda: model.network.output(hidden)),
    }


def _hidden(like: Tensor, config: RunConfig) -> Tensor:
    return torch.randn(*like.shape[:2], config.model.backbone.width, generator=rng(), requires_grad=True)


def _backbone(backbone: Backbone, hidden: Tensor) -> Parts:
    layers, attention = products(lambda: backbone(hidden).sum().backward())
    return {"layers": layers, "attention": attention}


def _calm_parts(model: Calm, config: RunConfig, text: Tensor) -> Parts:
    network, chunks = model.network, model.chunks(text)
    with torch.no_grad():
        posterior = model.autoencoder.encode(chunks)
    inputs, target = chunks[:, :-1], posterior[:, 1:].flatten()
    hidden = _hidden(inputs, config)
    latents = posterior[:, :-1].sample(rng=rng()) if model.uses_latents else None
    real = {
        **_backbone(network.backbone, hidden),
        "input": counted_step(lambda: network.embed(inputs, latents)),
    }
    if not config.train.cache_targets:
        real["target_encoder"] = counted(lambda: model.autoencoder.encode(chunks))
    flat, head = hidden.flatten(0, 1), network.head
    if isinstance(head, EnergyHead):
        num, latent_dim = head.config.num_samples, config.autoencoder.latent_dim
        noise = head.noise(num, flat, rng())
        samples = torch.randn(num, len(flat), latent_dim, generator=rng(), requires_grad=True)
        eps = torch.randn(head.config.num_targets, latent_dim, generator=rng())
        real["head"] = counted_step(lambda: head.map(noise, flat))
        real["loss"] = counted_step(lambda: energy_loss(samples, target, eps, distance=head.distance))
    else:
        real["head"] = counted_step(lambda: head.loss(flat, target, rng=rng()))
    if hasattr(network, "auxiliary"):
        real["auxiliary"] = counted_step(lambda: network.auxiliary(hidden))
    return real


@torch.no_grad()
def inference_parts(model: LanguageModel, config: RunConfig, vocab: int = VOCAB) -> Parts:
    """FLOPs per generated token by the parts of ``InferenceAccount``, at a context of ``eval.context_len``: one
    more position with the cache, then a chunk from its hidden state."""
    k, width = config.chunk_size, config.model.backbone.width
    backbone = model.network.backbone
    cache = KVCache()
    backbone(torch.randn(1, config.eval.context_len // k - 1, width, generator=rng()), cache)
    one = torch.randn(1, 1, width, generator=rng())
    layers, attention = products(lambda: backbone(one, cache))
    real = {"layers": layers, "attention": attention}
    if isinstance(model, Calm):
        chunk = tokens(1, 1, k, vocab_size=vocab)
        latents = torch.randn(1, 1, config.autoencoder.latent_dim, generator=rng()) if model.uses_latents else None
        real["input"] = counted(lambda: model.network.embed(chunk, latents))
        if model.uses_latents and model.network.config.latent_feedback == "reencoded":
            real["reencoding"] = counted(lambda: model.feedback(chunk))
        head = model.network.head
        draws = [counted(lambda n=n: head.sample(one[0], num_samples=n, rng=rng())) for n in (1, 4)]
        real["head_per_draw"] = (draws[1] - draws[0]) / 3
        real["per_round"] = draws[0] - real["head_per_draw"]
        latent = torch.randn(1, config.autoencoder.latent_dim, generator=rng())
        real["decoder_per_draw"] = counted(lambda: model.autoencoder.decode(latent))
    else:
        assert isinstance(model, TokenBaseline)
        real["output"] = counted(lambda: model.network.log_probs(one[0]))
    return {name: value / k for name, value in real.items()}


def generated(
    model: LanguageModel, sampler: SamplerChoice, *, context: int, num_chunks: int = 1, vocab: int = VOCAB
) -> float:
    """FLOPs per token of so many chunks generated after ``context`` tokens that were read."""
    k = model.chunk_size
    prompt = tokens(context - k, vocab_size=vocab).numpy().astype(np.int64)

    def work(num: int) -> float:
        return counted(
            lambda: generate(model, [prompt], num_tokens=num * k, rng=rng(), sampler=sampler, stop_at_end=False)
        )

    return (work(1 + num_chunks) - work(1)) / (num_chunks * k)  # the first is drawn when the prompt has been read


class CountedSource(HiddenSource):
    """Notes how many samples each round draws."""

    rounds: list[int] = []
    """Of all instances: the sampler makes them."""

    def draw(self, places: Tensor, num_samples: int, *, rng: torch.Generator) -> Any:
        type(self).rounds.append(num_samples * len(places))
        return super().draw(places, num_samples, rng=rng)
