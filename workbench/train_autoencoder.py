"""Training, evaluating and caching the autoencoder (METHOD section 1).

Letters: K chunk size, L latent dimension, n chunks.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from workbench import checkpoint, files, flops
from workbench.autoencoder import Autoencoder
from workbench.config import RunConfig, content_hash
from workbench.data import Corpus, training_blocks
from workbench.layers import generator
from workbench.optim import autocast, build_adamw, rate_factor, scale_rates
from workbench.progress import Display, NoDisplay
from workbench.records import AutoencoderReport, NoisePoint
from workbench.train import NotFiniteError

BETAS = (0.9, 0.95)
"""Of AdamW; not those of the language model's ``optim`` section, which must not ask for another autoencoder."""
HELD_OUT = "validation"
"""Split of the evaluation, whatever ``eval.split`` says: its result is cached with the weights."""
NOISE_SCALES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
COLLAPSED_KL = 0.05
"""A dimension whose mean KL on held-out chunks is below this many nats carries nothing."""
_FORMAT = 2
_EVAL_BATCH = 4096


def autoencoder_hash(config: RunConfig, corpus: Corpus) -> str:
    """Of everything a trained autoencoder depends on: its section, K, the data, where it is trained."""
    return content_hash(
        [
            _FORMAT,
            config.autoencoder.model_dump(mode="json"),
            config.chunk_size,
            corpus.hash,
            config.runtime.device,
            config.runtime.autoencoder_dtype,
        ]
    )


def trained_autoencoder(
    config: RunConfig, corpus: Corpus, cache_dir: Path, *, display: Display | None = None
) -> tuple[Autoencoder, AutoencoderReport]:
    """The autoencoder of a resolved configuration, from the cache or trained and put there.

    Two processes that ask at the same time train it once; the second waits."""
    key = autoencoder_hash(config, corpus)
    folder = cache_dir / "autoencoders" / key

    def build(temporary: Path) -> None:
        network, seconds = train_autoencoder(config, corpus, display=display)
        report = evaluate_autoencoder(network, corpus, config, key=key, train_seconds=seconds)
        checkpoint.save_weights(network, temporary / checkpoint.WEIGHTS)
        files.write_atomic(temporary / "report.json", report.model_dump_json(indent=1) + "\n")
        files.write_atomic(temporary / "config.yaml", config.to_yaml())

    files.build_once(folder, build)
    network = build_autoencoder(config, corpus.vocab_size)
    checkpoint.load_weights(network, folder / checkpoint.WEIGHTS)
    report = AutoencoderReport.model_validate(files.read_json(folder / "report.json"))
    return network.requires_grad_(False).eval(), report


def build_autoencoder(config: RunConfig, vocab_size: int) -> Autoencoder:
    """Untrained, on the configured device."""
    network = Autoencoder(config.autoencoder, chunk_size=config.chunk_size, vocab_size=vocab_size)
    return network.to(config.runtime.device)


def train_autoencoder(
    config: RunConfig, corpus: Corpus, *, display: Display | None = None
) -> tuple[Autoencoder, float]:
    """Train from scratch on chunks at random offsets; returns the network and the seconds it took.

    Raises NotFiniteError where the loss is not a number any more."""
    settings, display = config.autoencoder, display or NoDisplay()
    network = build_autoencoder(config, corpus.vocab_size)
    device = config.runtime.device
    optimizer = build_adamw(network, lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay)
    decay_steps = round(settings.decay_fraction * settings.steps)
    display.stage(f"autoencoder K={config.chunk_size} L={settings.latent_dim}", settings.steps)
    start = time.perf_counter()
    for step in range(settings.steps):
        data_rng = np.random.default_rng([settings.seed, step])
        blocks = training_blocks(corpus.tokens["train"], settings.batch_chunks, config.chunk_size, data_rng)
        factor = rate_factor(step, settings.steps, warmup_steps=settings.warmup_steps, decay_steps=decay_steps)
        scale_rates(optimizer, factor)
        rng = generator(settings.seed, "autoencoder", step, device=device)
        with autocast(device, config.runtime.autoencoder_dtype):
            loss = network.loss(torch.from_numpy(blocks).to(device), rng=rng)
        network.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == settings.steps:
            if not math.isfinite(loss.item()):
                raise NotFiniteError(f"the autoencoder's loss is {loss.item():.4g} at step {step + 1}")
            display.advance(step + 1, loss=loss.item())
    return network, time.perf_counter() - start


@torch.no_grad()
def evaluate_autoencoder(
    network: Autoencoder, corpus: Corpus, config: RunConfig, *, key: str = "", train_seconds: float = 0.0
) -> AutoencoderReport:
    """On held-out chunks spread evenly over the split: accuracy clean, under posterior sampling and under
    noise added to the mean; KL and sigma per dimension; collapsed dimensions."""
    settings, k = config.autoencoder, config.chunk_size
    device = next(network.parameters()).device
    tokens = corpus.tokens[HELD_OUT]
    num = min(settings.eval_chunks, len(tokens) // k)
    starts = np.linspace(0, len(tokens) - k, num).astype(np.int64)
    spread = np.asarray(tokens[starts[:, None] + np.arange(k)], dtype=np.int64)
    chunks = torch.from_numpy(spread).to(device)
    rng = generator(settings.seed, "autoencoder-eval", device=device)
    right = dict.fromkeys(NOISE_SCALES, 0)
    right_sampled = 0
    kl = torch.zeros(settings.latent_dim, device=device)
    variance = torch.zeros(settings.latent_dim, device=device)
    for part in chunks.split(_EVAL_BATCH):
        posterior = network.encode(part)
        kl += posterior.kl_per_dim().sum(0)
        variance += posterior.std.square().sum(0)
        right_sampled += _num_right(network, posterior.sample(rng=rng), part)
        noise = torch.randn(posterior.mean.shape, generator=rng, device=device)
        for scale in NOISE_SCALES:
            right[scale] += _num_right(network, posterior.mean + scale * noise, part)
    kl_per_dim = (kl / num).tolist()
    return AutoencoderReport(
        hash=key,
        chunk_size=k,
        latent_dim=settings.latent_dim,
        kl_floor=settings.kl_floor,
        token_accuracy=right[0.0] / (num * k),
        posterior_accuracy=right_sampled / (num * k),
        noise_accuracy=[NoisePoint(noise=s, accuracy=right[s] / (num * k)) for s in NOISE_SCALES],
        kl_per_dim=kl_per_dim,
        std_per_dim=(variance / num).sqrt().tolist(),
        num_collapsed=sum(value < COLLAPSED_KL for value in kl_per_dim),
        train_flops=flops.autoencoder_train_flops(config, network.vocab_size),
        train_seconds=train_seconds,
        num_chunks=num,
    )


def _num_right(network: Autoencoder, latents: Tensor, chunks: Int[Tensor, "n k"]) -> int:
    return int((network.decode(latents) == chunks).sum())
