"""What a run needs before it trains: its inputs checked, its model built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workbench import checkpoint, files, records
from workbench.autoencoder import Autoencoder
from workbench.baseline import BaselineNetwork, TokenBaseline
from workbench.config import CalmConfig, RunConfig
from workbench.data import Corpus, prepare, require_block
from workbench.evaluate import Grid, evaluation_grid
from workbench.home import Home
from workbench.language_model import LanguageModel
from workbench.model import Calm, CalmNetwork
from workbench.progress import Display
from workbench.records import AutoencoderReport
from workbench.schedule import Plan, plan
from workbench.targets import cached_table
from workbench.train_autoencoder import build_autoencoder, trained_autoencoder


@dataclass(frozen=True)
class Inputs:
    """The text, what is scored of it, and the steps of a resolved configuration."""

    corpus: Corpus
    grid: Grid
    schedule: Plan


def prepare_inputs(config: RunConfig, home: Home) -> Inputs:
    """Raises DataError for a corpus that is missing, unreadable or too small for blocks or windows; only
    the cache is written."""
    corpus = prepare(config.data, home.cache)
    require_block(corpus.tokens["train"], config.train.block_len)
    return Inputs(corpus, evaluation_grid(config.eval, corpus), plan(config, corpus.vocab_size))


def build_model(
    config: RunConfig, corpus: Corpus, home: Home, *, run_dir: Path, display: Display | None = None
) -> tuple[LanguageModel, AutoencoderReport | None]:
    """The untrained model of a resolved configuration.

    A CALM's autoencoder is the one in ``run_dir`` where there is one (a model belongs to the weights it was
    trained with, whatever becomes of the cache), otherwise from the cache or trained. Raises RunError for
    damaged weights and NotFiniteError where the autoencoder diverges."""
    if not isinstance(config.model, CalmConfig):
        network = BaselineNetwork(config.model, vocab_size=corpus.vocab_size, seed=config.seed)
        return TokenBaseline(network.to(config.runtime.device)), None
    own, report_file = run_dir / records.AUTOENCODER_WEIGHTS, run_dir / records.AUTOENCODER
    if own.exists() and report_file.exists():
        autoencoder = build_autoencoder(config, corpus.vocab_size)
        checkpoint.load_weights(autoencoder, own)
        return _calm(config, corpus, autoencoder.eval()), records.read_autoencoder_report(run_dir)
    autoencoder, report = trained_autoencoder(config, corpus, home.cache, display=display)
    return _calm(config, corpus, autoencoder), report


def use_cached_targets(model: LanguageModel, config: RunConfig, corpus: Corpus, home: Home) -> int:
    """Let a CALM look its training targets up where ``train.cache_targets`` says so; returns the number of
    distinct chunks, 0 without a table. Raises ConfigError where the table would not fit."""
    if not (isinstance(model, Calm) and config.train.cache_targets):
        return 0
    table = cached_table(model.autoencoder, corpus.tokens["train"], home.cache)
    model.targets = table
    return len(table)


def keep_autoencoder(model: LanguageModel, report: AutoencoderReport, run_dir: Path) -> None:
    """Put the autoencoder's weights and report into the run's folder."""
    assert isinstance(model, Calm)
    checkpoint.save_weights(model.autoencoder, run_dir / records.AUTOENCODER_WEIGHTS)
    files.write_atomic(run_dir / records.AUTOENCODER, report.model_dump_json(indent=1) + "\n")


def _calm(config: RunConfig, corpus: Corpus, autoencoder: Autoencoder) -> Calm:
    assert isinstance(config.model, CalmConfig)
    network = CalmNetwork(
        config.model,
        vocab_size=corpus.vocab_size,
        latent_dim=config.autoencoder.latent_dim,
        seed=config.seed,
    )
    return Calm(network.to(config.runtime.device), autoencoder)
