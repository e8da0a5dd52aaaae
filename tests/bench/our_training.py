"""Our training as it is, on random tokens: the workbench's own trainer, called from outside, step by step.

``trainer`` and ``train`` are the only places that know how the workbench trains; what makes its trainer faster
shows in the benchmarks without a change here.

Letters: B sequences, T tokens, K chunk size, V vocabulary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.turns import Pace
from workbench.autoencoder import Autoencoder
from workbench.baseline import BaselineNetwork, TokenBaseline
from workbench.build import use_cached_targets
from workbench.config import BYTE_VOCAB, CalmConfig, RunConfig
from workbench.data import SPLITS, Corpus
from workbench.home import Home
from workbench.language_model import LanguageModel
from workbench.model import Calm, CalmNetwork
from workbench.progress import NoDisplay
from workbench.schedule import plan
from workbench.tokenizer import ByteTokenizer
from workbench.train import Trainer

IMPORTS = ("torch", "tests.bench.our_training")
"""What a process needs before it prepares a training of ours."""
CORPUS_TOKENS = 2**15
"""Few: where targets are looked up, the table of all different chunks is encoded before the first step. A real
text's table is two or three times as large."""
FOR_EVER = 10**12
"""Tokens of a budget that no benchmark reaches."""


def training_config(
    *,
    kind: str = "calm",
    chunk_size: int = 4,
    vocab: int = BYTE_VOCAB,
    sequences: int | None = None,
    block_len: int = 256,
    dtype: str = "float32",
    threads: int = 1,
    backbone: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    autoencoder: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
) -> RunConfig:
    """A resolved configuration. ``kind``: calm or baseline; ``vocab``: bytes, or the size of a BPE vocabulary;
    ``sequences``: B, or as many as the workbench's rule says."""
    model: dict[str, Any] = {"kind": kind, "backbone": backbone or {}}
    if kind == "calm":
        model |= {"chunk_size": chunk_size, "head": head or {}}
    tokenizer = {"kind": "byte"} if vocab == BYTE_VOCAB else {"kind": "bpe", "vocab_size": vocab}
    per_block = block_len // (chunk_size if kind == "calm" else 1)
    optim = {"warmup_fraction": 0.0, **(optim or {})}
    if sequences is not None:
        optim["batch_positions"] = sequences * per_block
    return RunConfig.model_validate(
        {
            "model": model,
            "autoencoder": autoencoder or {},
            "data": {"tokenizer": tokenizer},
            "optim": optim,
            "train": {"block_len": block_len, "train_tokens": FOR_EVER, "checkpoint_every_seconds": 1e9},
            "eval": evaluation or {},
            "runtime": {"device": "cpu", "dtype": dtype, "autoencoder_dtype": dtype, "threads": threads},
        }
    ).resolved()


def random_corpus(vocab: int, num_tokens: int = CORPUS_TOKENS) -> Corpus:
    """Uniformly random ids, one document a split; speed does not depend on what a text says."""
    rng = np.random.default_rng(0)
    tokens = {split: rng.integers(1, vocab, num_tokens).astype(np.uint16) for split in SPLITS}
    return Corpus(
        name="random",
        hash=f"random-{vocab}-{num_tokens}",
        tokenizer=ByteTokenizer(),
        vocab_size=vocab,
        tokens=tokens,
        document_starts={split: np.zeros(1, dtype=np.int64) for split in SPLITS},
        num_bytes=dict.fromkeys(SPLITS, num_tokens),
    )


def untrained(config: RunConfig, vocab: int) -> LanguageModel:
    """The model of a resolved configuration with random weights, its autoencoder untrained as well."""
    if not isinstance(config.model, CalmConfig):
        return TokenBaseline(BaselineNetwork(config.model, vocab_size=vocab, seed=0))
    autoencoder = Autoencoder(config.autoencoder, chunk_size=config.chunk_size, vocab_size=vocab).eval()
    latent_dim = config.autoencoder.latent_dim
    return Calm(CalmNetwork(config.model, vocab_size=vocab, latent_dim=latent_dim, seed=0), autoencoder)


def trainer(config: RunConfig, vocab: int, folder: Path) -> Trainer:
    """As a run has it, but that every step is reported and nothing is evaluated or saved; ``folder`` is for what
    a run keeps."""
    model, corpus = untrained(config, vocab), random_corpus(vocab)
    use_cached_targets(model, config, corpus, Home(folder))
    steps = replace(plan(config, vocab), log_every=1, evaluation_steps=())
    return Trainer(model, config, steps, corpus, folder / "checkpoint")


def train(trained: Trainer, after_step: Callable[[], None]) -> None:
    """The trainer's own loop, until ``after_step`` raises."""

    def never(_: object) -> Any:
        raise AssertionError("no evaluation is planned")

    trained.train(log=lambda _: after_step(), evaluate=never, decide=never, display=NoDisplay())


def training_work(pace: Pace, *, config: RunConfig, vocab: int) -> None:
    """One repetition is one training step of ours."""
    with tempfile.TemporaryDirectory() as folder:
        train(trainer(config, vocab, Path(folder)), pace)
