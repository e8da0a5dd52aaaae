"""The autoencoder's training in slices of a batch: the same losses and weights, in less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.suites.small import build_autoencoder, rng, small_config, tokens
from workbench import batches
from workbench import train_autoencoder as subject
from workbench.autoencoder import Autoencoder, drop_latents, drop_tokens
from workbench.config import RunConfig
from workbench.data import Corpus, training_blocks
from workbench.draws import PartGenerator
from workbench.layers import generator
from workbench.posterior import Posterior
from workbench.progress import NoDisplay

STEPS, CHUNKS = 8, 32


def config_with(micro_chunks: int | None = None, **autoencoder: Any) -> RunConfig:
    """``CHUNKS`` chunks a step, with both dropouts."""
    base = small_config()
    settings = {"steps": STEPS, "warmup_steps": 3, "lr": 5e-3, "eval_chunks": 100, **autoencoder}
    return base.model_copy(
        update={
            "autoencoder": base.autoencoder.model_copy(update=settings),
            "runtime": base.runtime.model_copy(update={"micro_chunks": micro_chunks}),
        }
    )


class Losses(NoDisplay):
    def __init__(self) -> None:
        self.found: list[float] = []

    def advance(self, done: int, **values: float) -> None:
        self.found.append(values["loss"])


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of every step."""
    monkeypatch.setattr(subject, "SHOWN_EVERY", 1)


def train(config: RunConfig, corpus: Corpus, **more: Any) -> tuple[list[float], dict[str, Tensor]]:
    display = Losses()
    network, _ = subject.train_autoencoder(config, corpus, display=display, **more)
    return display.found, network.state_dict()


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def plain_loss(network: Autoencoder, chunks: Tensor, noise: torch.Generator) -> Tensor:
    """METHOD section 1 written out, with torch's own random numbers."""
    settings = network.config
    keep = torch.rand(chunks.shape, generator=noise) >= settings.token_dropout
    posterior = network.encode(torch.where(keep, chunks, 0))
    z = posterior.mean + posterior.log_std.exp() * torch.randn(posterior.mean.shape, generator=noise)
    keep = torch.rand(z.shape, generator=noise) >= settings.latent_dropout
    logits = network.logits(z * keep / (1 - settings.latent_dropout))
    kl = 0.5 * (posterior.mean.square() + (2 * posterior.log_std).exp() - 1 - 2 * posterior.log_std)
    clipped = kl.clamp_min(settings.kl_floor).mean(0).sum()
    reconstruction = F.cross_entropy(logits.flatten(0, 1), chunks.flatten())
    return network.chunk_size * reconstruction + settings.kl_weight * clipped


def plain_training(config: RunConfig, corpus: Corpus) -> tuple[list[float], dict[str, Tensor]]:
    """Warm-up, linear decay, clipped gradients, AdamW; the whole batch at once."""
    settings, text = config.autoencoder, corpus.tokens["train"]
    network = subject.build_autoencoder(config, corpus.vocab_size)
    optimizer = subject.build_adamw(
        network, lr=settings.lr, betas=subject.BETAS, weight_decay=settings.weight_decay
    )
    losses = []
    decay = round(settings.decay_fraction * settings.steps)
    for step in range(settings.steps):
        starts = np.random.default_rng([settings.seed, step]).integers(0, len(text) - 4 + 1, size=CHUNKS)
        chunks = torch.from_numpy(np.stack([text[s : s + 4] for s in starts]).astype(np.int64))
        factor = subject.rate_factor(step, settings.steps, warmup_steps=settings.warmup_steps, decay_steps=decay)
        subject.scale_rates(optimizer, factor)
        loss = plain_loss(network, chunks, generator(settings.seed, "autoencoder", step))
        network.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses, network.state_dict()


@pytest.fixture(scope="module")
def plain(tiny_corpus: Corpus) -> tuple[list[float], dict[str, Tensor]]:
    torch.set_num_threads(1)
    return plain_training(config_with(), tiny_corpus)


@pytest.mark.parametrize("micro_chunks", [None, CHUNKS, 1000])
def test_one_slice_is_the_plain_formula_bit_for_bit(
    tiny_corpus: Corpus, plain: tuple[list[float], dict[str, Tensor]], micro_chunks: int | None
) -> None:
    losses, weights = train(config_with(micro_chunks), tiny_corpus)
    assert losses == plain[0]
    for name, value in plain[1].items():
        assert torch.equal(weights[name], value), name


@pytest.mark.parametrize("micro_chunks", [5, 16, 31])
def test_slices_add_up_to_the_whole_batch(
    tiny_corpus: Corpus, plain: tuple[list[float], dict[str, Tensor]], micro_chunks: int
) -> None:
    """Also where the last slice is a smaller one."""
    losses, weights = train(config_with(micro_chunks), tiny_corpus)
    assert losses == pytest.approx(plain[0], rel=1e-5)
    assert_close(weights, plain[1])


def test_a_slice_has_the_random_numbers_of_its_rows() -> None:
    whole, latents = tokens(10, 4), torch.ones(10, 6)
    posterior = Posterior(torch.zeros(10, 6), torch.zeros(10, 6))

    def draw(rows: slice, noise: torch.Generator) -> list[Tensor]:
        return [
            drop_tokens(whole[rows], 0.5, rng=noise),
            posterior[rows].sample(rng=noise),
            drop_latents(latents[rows], 0.5, rng=noise),
        ]

    wanted = draw(slice(0, 10), rng())
    for first, last in ((0, 3), (3, 4), (4, 10)):
        found = draw(slice(first, last), PartGenerator.of(rng(), first, last, 10))
        for part, all_rows in zip(found, wanted, strict=True):
            assert torch.equal(part, all_rows[first:last])


def test_slices_make_neither_another_autoencoder_nor_another_run(tiny_corpus: Corpus) -> None:
    one, other = config_with(), config_with(5)
    assert other.hash() == one.hash()
    assert subject.autoencoder_hash(other, tiny_corpus) == subject.autoencoder_hash(one, tiny_corpus)


def test_an_interrupted_training_goes_on_in_other_slices(
    tiny_corpus: Corpus, tmp_path: Path, plain: tuple[list[float], dict[str, Tensor]]
) -> None:
    steps = iter(range(6))

    def blocks(*arguments: Any) -> Any:
        if next(steps) == 5:
            raise KeyboardInterrupt
        return training_blocks(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "training_blocks", blocks)
        with pytest.raises(KeyboardInterrupt):
            train(config_with(7), tiny_corpus, partial=tmp_path / "p")
    losses, weights = train(config_with(12), tiny_corpus, partial=tmp_path / "p")
    assert losses == pytest.approx(plain[0][5:], rel=1e-5)
    assert_close(weights, plain[1])


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation has made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *made])
        return out


@pytest.mark.slow
def test_logits_of_one_slice_at_a_time_are_in_memory(tiny_corpus: Corpus) -> None:
    """Forwards and backwards."""
    vocab = tiny_corpus.vocab_size
    for micro_chunks, rows in ((None, CHUNKS), (8, 8)):
        with Largest() as largest:
            subject.train_autoencoder(config_with(micro_chunks, steps=1), tiny_corpus)
        table = vocab * 24  # the embedding
        assert largest.elements == max(rows * 4 * vocab, table)


def test_an_evaluation_has_few_logits_in_memory(tiny_corpus: Corpus) -> None:
    config = config_with(eval_chunks=400)
    network = build_autoencoder(config, vocab_size=5000)  # 8 million logits in all
    with Largest() as largest:
        report = subject.evaluate_autoencoder(network, tiny_corpus, config)
    assert report.num_chunks == 400
    assert 2**19 < largest.elements <= 2**20
