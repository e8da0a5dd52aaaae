"""What the ranks other than rank 0 do: their part of the training of every run that rank 0 executes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from workbench import garbage, interruption
from workbench.build import shared_model, use_cached_targets
from workbench.config import CalmConfig, RunConfig
from workbench.data import prepare
from workbench.home import Home
from workbench.own_heads import blaming
from workbench.ranks import OtherPostError, Ranks
from workbench.schedule import plan
from workbench.train import Trainer


def follow(ranks: Ranks, home: Home) -> None:
    """Until rank 0 says that it ends. Writes nothing but the cache.

    Raises PeerLostError where rank 0 has gone, and the errors of the text and the autoencoder's table as on rank
    0: a host may lack what another has."""
    with interruption.listening():
        while True:
            word, text = ranks.await_post()
            if word == "end":
                return
            if word == "run":
                config = RunConfig.model_validate_json(text)
                with blaming(config.model.head.kind if isinstance(config.model, CalmConfig) else None):
                    _follow_run(config, ranks, home)


def _follow_run(config: RunConfig, ranks: Ranks, home: Home) -> None:
    garbage.settle()
    torch.set_num_threads(ranks.threads(config.runtime.threads or 1))
    corpus = prepare(config.data, home.cache)
    try:
        model = shared_model(config, corpus, ranks)
        use_cached_targets(model, config, corpus, home)
        trainer = Trainer(model, config, plan(config, corpus.vocab_size), corpus, Path(), ranks)
        with contextlib.closing(trainer):
            trainer.resume()
            trainer.follow()
    except OtherPostError:  # it has been trained before, or cannot be trained
        return
