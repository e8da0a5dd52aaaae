"""Training, evaluating and caching the autoencoder (METHOD section 1).

A training that takes long leaves checkpoints beside its place in the cache, and goes on from there where it was
interrupted: all randomness of step s comes from (seed, s), so that the result is the same bit for bit on the CPU.

Several ranks take every step together, each with its part of the batch's chunks, and a rank takes its part in
slices of ``runtime.micro_chunks``: K logits over the vocabulary for every chunk are what fills a device. Neither
changes which chunks and which noise a step has, so the result is the same to rounding. The network is small: every
rank has all of it, whatever ``runtime.strategy`` says.

Letters: K chunk size, L latent dimension, n chunks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from workbench import cache, checkpoint, files, flops, interruption
from workbench.autoencoder import Autoencoder
from workbench.batches import AUTOENCODER, Batches, Received, as_text, from_text, training_batches
from workbench.config import RunConfig, content_hash
from workbench.data import Corpus
from workbench.draws import PartGenerator
from workbench.errors import NotFiniteError, OutputError, RunError, UnreadableError
from workbench.finite import all_finite
from workbench.hub import HubUnreachableError
from workbench.layers import generator
from workbench.optim import autocast, build_adamw, rate_factor, scale_rates
from workbench.optimizers import Optimizer
from workbench.progress import Display, NoDisplay
from workbench.ranks import ALONE, PeerLostError, Ranks
from workbench.records import AutoencoderReport, NoisePoint
from workbench.strategies import spread_state

logger = logging.getLogger(__name__)

BETAS = (0.9, 0.95)
"""Of AdamW; not those of the language model's ``optim`` section, which must not ask for another autoencoder."""
HELD_OUT = "validation"
"""Split of the evaluation, whatever ``eval.split`` says: its result is cached with the weights."""
NOISE_SCALES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
COLLAPSED_KL = 0.05
"""A dimension whose mean KL on held-out chunks is below this many nats carries nothing."""
AUTOENCODER_POST = "autoencoder"
"""Word with which rank 0 calls the others to ``follow_training``."""
SHOWN_EVERY = 50
"""Steps after which the loss is looked at, which waits for the device."""
_FORMAT = 2
_EVAL_BATCH = 4096


class _Stopped(Exception):
    """All ranks have agreed to stop after a step."""


def autoencoder_hash(config: RunConfig, corpus: Corpus) -> str:
    """Of everything a trained autoencoder depends on: its section, K, the data, where it is trained."""
    return content_hash(
        [
            _FORMAT,
            config.autoencoder.hashed(),
            config.chunk_size,
            corpus.hash,
            config.runtime.device,
            config.runtime.autoencoder_dtype,
        ]
    )


def trained_autoencoder(
    config: RunConfig, corpus: Corpus, cache_dir: Path, *, display: Display | None = None, ranks: Ranks = ALONE
) -> tuple[Autoencoder, AutoencoderReport]:
    """The autoencoder of a resolved configuration, from the cache or trained and put there. With other ``ranks``
    this is rank 0, which calls them where there is something to train.

    Two processes that ask at the same time train it once; the second waits. One that is damaged in the cache, or
    whose weights there are not finite, is trained anew. Raises NotFiniteError, with nothing in the cache."""
    key = autoencoder_hash(config, corpus)
    folder = cache_dir / "autoencoders" / key

    def build(temporary: Path) -> None:
        partial = cache.partial(folder)
        try:
            network, seconds = train_autoencoder(config, corpus, display=display, partial=partial, ranks=ranks)
            with ranks.others_wait(config.runtime.threads or 1):
                report = evaluate_autoencoder(network, corpus, config, key=key, train_seconds=seconds)
        except NotFiniteError:
            checkpoint.remove(partial)
            raise
        checkpoint.save_weights(network, temporary / checkpoint.WEIGHTS)
        files.write_atomic(temporary / "report.json", report.model_dump_json(indent=1) + "\n")
        files.write_atomic(temporary / "config.yaml", config.to_yaml())
        checkpoint.remove(partial)

    def load(made: Path) -> tuple[Autoencoder, AutoencoderReport]:
        network = build_autoencoder(config, corpus.vocab_size)
        checkpoint.load_weights(network, made / checkpoint.WEIGHTS)
        report = AutoencoderReport.model_validate(files.read_json(made / "report.json"))
        if report.hash != key:
            raise RunError(f"its report is of the autoencoder {report.hash}")
        if not all_finite(network.parameters()):
            raise RunError("its weights are not finite")
        return network.requires_grad_(False).eval(), report

    return cache.cached(folder, build, load)


def build_autoencoder(config: RunConfig, vocab_size: int) -> Autoencoder:
    """Untrained, on the configured device."""
    network = Autoencoder(config.autoencoder, chunk_size=config.chunk_size, vocab_size=vocab_size)
    return network.to(config.runtime.device)


def train_autoencoder(
    config: RunConfig,
    corpus: Corpus,
    *,
    display: Display | None = None,
    partial: Path | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Autoencoder, float]:
    """Train on chunks at random offsets; returns the network and the seconds it took. With ``partial``, a folder
    for this process alone, checkpoints are written there every ``train.checkpoint_every_seconds`` and when
    interrupted, and training goes on from the one that is found, whatever number of ranks has written it; whoever
    has what he wanted removes it. With other ``ranks`` this is rank 0.

    Raises NotFiniteError where the loss, or at the end a weight, is not a number any more, and PeerLostError where
    another rank ends."""
    state, display = _Training(config, corpus, partial, ranks), display or NoDisplay()
    state.resume()
    display.stage(f"autoencoder K={config.chunk_size} L={config.autoencoder.latent_dim}", config.autoencoder.steps)
    try:
        _lead(state, display)
    except (KeyboardInterrupt, PeerLostError, HubUnreachableError):
        with contextlib.suppress(OutputError), interruption.held():  # asked to end; the last checkpoint stays
            state.save()
        raise
    finally:
        state.batches.close()
    if not all_finite(state.network.parameters()):  # the last loss is that before the last update
        raise NotFiniteError(f"the autoencoder's weights are not finite after step {state.step}")
    return state.network, state.seconds


def follow_training(config: RunConfig, corpus: Corpus, ranks: Ranks, text: str) -> None:
    """What the other ranks do while rank 0 is in ``train_autoencoder``. ``text``: of its ``AUTOENCODER_POST``.
    Raises PeerLostError."""
    state = _Training(config, corpus, None, ranks)
    try:
        state.go_on(json.loads(text))
        with contextlib.suppress(NotFiniteError, _Stopped):
            _train(state, NoDisplay())
    finally:
        state.batches.close()


class _Training:
    """Network, optimizer and how far they are, and the folder of their checkpoint."""

    network: Autoencoder
    optimizer: Optimizer

    def __init__(self, config: RunConfig, corpus: Corpus, folder: Path | None, ranks: Ranks) -> None:
        self.config, self.corpus, self.folder, self.ranks = config, corpus, folder, ranks
        self.saved = time.monotonic()
        self.begin()

    def begin(self) -> None:
        settings = self.config.autoencoder
        self.network = build_autoencoder(self.config, self.corpus.vocab_size)
        self.optimizer = build_adamw(self.network, lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay)
        self.step, self.seconds = 0, 0.0
        self.consistent = True
        """Network and optimizer belong to ``step``."""
        self.batches = self._batches()

    def _batches(self) -> Batches:
        """Chunks at random offsets, or one after the other of a text that streams, which rank 0 alone reads."""
        settings, data, k = self.config.autoencoder, self.config.data, self.config.chunk_size
        if data.streams and not self.ranks.leads:
            return Received()
        blocks = (1, settings.batch_chunks * k) if data.streams else (settings.batch_chunks, k)
        return training_batches(
            self.corpus, data, purpose=AUTOENCODER, seed=settings.seed, num_blocks=blocks[0], block_len=blocks[1]
        )

    def next_chunks(self) -> Int[Tensor, "n k"]:
        """This rank's part of the next step's."""
        whole, k = self.config.autoencoder.batch_chunks, self.config.chunk_size
        own = self.ranks.part_of(whole)
        if not self.config.data.streams:
            return torch.from_numpy(self.batches.next_batch(self.step, own))
        found = torch.empty(whole, k, dtype=torch.int32)
        if self.ranks.leads:  # one long block
            found = torch.from_numpy(self.batches.next_batch(self.step)).reshape(whole, k).int()
        return self.ranks.spread(found)[own].long()

    def position(self) -> dict[str, Any]:
        key = autoencoder_hash(self.config, self.corpus)
        found = {"step": self.step, "seconds": self.seconds, "autoencoder": key}
        stream = as_text(self.batches.state_dict(self.step))
        return {**found, "stream": stream} if stream else found

    def go_on(self, state: dict[str, Any]) -> None:
        """From the ``position`` of what network and optimizer hold. Raises RunError for one of another stream."""
        if state["step"]:
            self.batches.load_state_dict(from_text(state.get("stream", "")))
        self.step, self.seconds = state["step"], state["seconds"]

    def resume(self) -> None:
        """Go on from the checkpoint; one that is damaged or another's is left aside with a warning. Raises
        UnreadableError where it may not be read."""
        try:
            found = checkpoint.find(self.folder) if self.folder is not None else None
            if found is None:
                return
            wanted = self.position()
            state = checkpoint.load(found, self.network, self.optimizer, like=wanted)
            if state.keys() != wanted.keys() or state["autoencoder"] != wanted["autoencoder"]:
                raise RunError(f"{found} is of another autoencoder")
            self.go_on(state)
        except UnreadableError:
            raise
        except RunError as error:
            logger.warning("the autoencoder is trained from its beginning: %s", error)
            self.batches.close()
            self.begin()
            return
        logger.info("the autoencoder's training goes on at step %d", self.step)

    def save(self) -> None:
        if self.folder is not None and self.consistent and self.step:
            checkpoint.save(self.folder, self.network, self.position(), self.optimizer)
        self.saved = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self.saved > self.config.train.checkpoint_every_seconds

    def share(self) -> None:
        """Rank 0's position, weights and optimizer state on all ranks; the others have been told the first."""
        if self.ranks.leads:
            self.ranks.post(AUTOENCODER_POST, json.dumps(self.position()))
        spread_state(self.ranks, self.network, self.optimizer, begun=self.step > 0)

    def take_step(self, chunks: Int[Tensor, "n k"]) -> Tensor:
        """One optimizer step, the same on all ranks; returns this rank's part of the mean loss."""
        settings = self.config.autoencoder
        decay_steps = round(settings.decay_fraction * settings.steps)
        factor = rate_factor(
            self.step, settings.steps, warmup_steps=settings.warmup_steps, decay_steps=decay_steps
        )
        scale_rates(self.optimizer, factor)
        loss = self._gradients(chunks.to(self.config.runtime.device))
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.consistent = False
        self.optimizer.step()
        self.step += 1
        self.consistent = True
        return loss

    def _gradients(self, chunks: Int[Tensor, "n k"]) -> Tensor:
        """Leave those of the mean loss over the whole batch in the network; returns this rank's part of that. A
        slice's loss counts by its share of the batch's chunks."""
        settings, runtime = self.config.autoencoder, self.config.runtime
        whole, device = settings.batch_chunks, runtime.device
        own = self.ranks.part_of(whole)
        rng = generator(settings.seed, "autoencoder", self.step, device=device)
        self.network.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        size = runtime.micro_chunks or whole
        for first in range(own.start, own.stop, size):
            part = chunks[first - own.start : first - own.start + size]
            noise = rng if len(part) == whole else PartGenerator.of(rng, first, first + len(part), whole)
            with autocast(device, runtime.autoencoder_dtype):
                loss = self.network.loss(part, rng=noise) * (len(part) / whole)
            loss.backward()
            total += loss.detach()
        self._add_up_gradients()
        return total

    def _add_up_gradients(self) -> None:
        """Over the ranks."""
        if self.ranks.world == 1:
            return
        for p in self.network.parameters():
            if p.grad is None:  # more ranks than chunks
                p.grad = torch.zeros_like(p)
        self.ranks.add_up([p.grad for p in self.network.parameters() if p.grad is not None])


def _lead(state: _Training, display: Display) -> None:
    """On rank 0: what all have agreed to stop for is an interruption."""
    try:
        _train(state, display)
    except _Stopped:
        interruption.obey()


def _train(state: _Training, display: Display) -> None:
    """Up to the last step. Several ranks end it together, whatever ends it."""
    several = state.ranks.world > 1
    start = time.perf_counter() - state.seconds
    with interruption.held() if several else contextlib.nullcontext():
        if several:
            state.share()
        while state.step < state.config.autoencoder.steps:
            chunks = state.next_chunks()  # a single process may be told to end while it waits for them
            with interruption.held():
                loss = state.take_step(chunks)
                state.seconds = time.perf_counter() - start
                _after_step(state, loss, display)


def _after_step(state: _Training, loss: Tensor, display: Display) -> None:
    """Its loss shown, and a checkpoint where one is due."""
    ranks, step = state.ranks, state.step
    shown = step % SHOWN_EVERY == 0 or step in (1, state.config.autoencoder.steps)
    total, stop, due = ranks.agree(
        loss.item() if shown else 0.0, interruption.requested(), ranks.leads and state.is_due()
    )
    if shown:
        if not math.isfinite(total):
            raise NotFiniteError(f"the autoencoder's loss is {total:.4g} at step {step}")
        display.advance(step, loss=total)
    else:
        display.advance(step)
    if due and ranks.leads:
        state.save()
        display.saved(step)
    if stop and ranks.world > 1:
        raise _Stopped


@torch.no_grad()
def evaluate_autoencoder(
    network: Autoencoder, corpus: Corpus, config: RunConfig, *, key: str = "", train_seconds: float = 0.0
) -> AutoencoderReport:
    """On held-out chunks spread evenly over the split: accuracy clean, under posterior sampling and under
    noise added to the mean; KL and sigma per dimension; collapsed dimensions. Raises NotFiniteError where the last
    two are not finite: decoded, what is no number would be a token."""
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
    kl_per_dim, std_per_dim = (kl / num).tolist(), (variance / num).sqrt().tolist()
    if not all(math.isfinite(value) for value in [*kl_per_dim, *std_per_dim]):
        raise NotFiniteError(f"the autoencoder's KL is {sum(kl_per_dim):.4g}, its sigma {max(std_per_dim):.4g}")
    return AutoencoderReport(
        hash=key,
        chunk_size=k,
        latent_dim=settings.latent_dim,
        kl_floor=settings.kl_floor,
        token_accuracy=right[0.0] / (num * k),
        posterior_accuracy=right_sampled / (num * k),
        noise_accuracy=[NoisePoint(noise=s, accuracy=right[s] / (num * k)) for s in NOISE_SCALES],
        kl_per_dim=kl_per_dim,
        std_per_dim=std_per_dim,
        num_collapsed=sum(value < COLLAPSED_KL for value in kl_per_dim),
        train_flops=flops.autoencoder_train_flops(config, network.vocab_size),
        train_seconds=train_seconds,
        num_chunks=num,
    )


def _num_right(network: Autoencoder, latents: Tensor, chunks: Int[Tensor, "n k"]) -> int:
    return int((network.decode(latents) == chunks).sum())
