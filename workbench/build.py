"""What a run needs before it trains: its inputs checked, its model built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workbench import checkpoint, files, garbage, records
from workbench.autoencoder import Autoencoder
from workbench.baseline import BaselineNetwork, TokenBaseline
from workbench.config import CalmConfig, RunConfig
from workbench.data import Corpus, prepare, require_block
from workbench.errors import RunError, UnreadableError
from workbench.evaluate import Grid, evaluation_grid
from workbench.home import Home
from workbench.initial import beginning, require_same_vocabulary
from workbench.language_model import LanguageModel
from workbench.model import Calm, CalmNetwork
from workbench.progress import Display
from workbench.ranks import ALONE, OtherPostError, Ranks
from workbench.records import AutoencoderReport
from workbench.schedule import Plan, plan
from workbench.targets import cached_table
from workbench.train_autoencoder import AUTOENCODER_POST, build_autoencoder, follow_training, trained_autoencoder


@dataclass(frozen=True)
class Inputs:
    """The text, what is scored of it, and the steps of a resolved configuration."""

    corpus: Corpus
    grid: Grid
    schedule: Plan


def prepare_inputs(config: RunConfig, home: Home, *, display: Display | None = None) -> Inputs:
    """Raises DataError for a corpus that is missing, unreadable or too small for blocks or windows; only
    the cache is written."""
    garbage.settle()  # what follows is trained, and all has been imported
    corpus = prepare(config.data, home.cache, display=display)
    require_block(corpus.tokens["train"], config.train.block_len)
    return Inputs(corpus, evaluation_grid(config.eval, corpus), plan(config, corpus.vocab_size))


def build_model(
    config: RunConfig,
    corpus: Corpus,
    home: Home,
    *,
    run_dir: Path,
    display: Display | None = None,
    ranks: Ranks = ALONE,
) -> tuple[LanguageModel, AutoencoderReport | None]:
    """The untrained model of a resolved configuration.

    A CALM's autoencoder is the one in ``run_dir`` where there is one (a model belongs to the weights it was
    trained with, whatever becomes of the cache), otherwise that of the run that ``train.init_from`` names (which
    then gives the network's first weights, too), or from the cache or trained. Raises RunError for damaged weights
    and NotFiniteError where the autoencoder diverges."""
    initial = beginning(config, home, run_dir)
    if initial is not None:
        require_same_vocabulary(config, corpus, initial)
    model, report = _untrained(config, corpus, home, run_dir, initial, display, ranks)
    if initial is not None:
        found = checkpoint.find(initial / records.CHECKPOINT)
        assert found is not None, "initial_run has looked"
        checkpoint.load_weights(model.network, found / checkpoint.WEIGHTS)
    return model, report


def _untrained(
    config: RunConfig,
    corpus: Corpus,
    home: Home,
    run_dir: Path,
    initial: Path | None,
    display: Display | None,
    ranks: Ranks,
) -> tuple[LanguageModel, AutoencoderReport | None]:
    if not isinstance(config.model, CalmConfig):
        return assemble(config, corpus.vocab_size, ranks=ranks), None
    for place in (run_dir, initial):
        if place is not None and has_autoencoder(place):
            autoencoder, kept = _kept_autoencoder(config, corpus, place)
            return assemble(config, corpus.vocab_size, autoencoder, ranks), kept
    autoencoder, report = trained_autoencoder(config, corpus, home.cache, display=display, ranks=ranks)
    return assemble(config, corpus.vocab_size, autoencoder, ranks), report


def share_model(model: LanguageModel, ranks: Ranks) -> None:
    """Of rank 0, to the others' ``shared_model``: it alone has read the autoencoder, or what all have trained and
    it has put into the cache. That is a single process's to rounding, as its threads, ranks and slices sum in
    another order."""
    ranks.post("model")
    _share_autoencoder(model, ranks)


def shared_model(config: RunConfig, corpus: Corpus, ranks: Ranks) -> LanguageModel:
    """The untrained model with the autoencoder of rank 0, after this rank's part in its training where there was
    none yet. Raises OtherPostError where there is none to share."""
    word, text = ranks.await_post()
    while word == AUTOENCODER_POST:
        follow_training(config, corpus, ranks, text)
        word, text = ranks.await_post()
    if word != "model":
        raise OtherPostError(word)
    autoencoder = None
    if config.is_calm:
        autoencoder = build_autoencoder(config, corpus.vocab_size).requires_grad_(False).eval()
    model = assemble(config, corpus.vocab_size, autoencoder, ranks)
    _share_autoencoder(model, ranks)
    return model


def _share_autoencoder(model: LanguageModel, ranks: Ranks) -> None:
    """The network's weights follow when the strategy begins."""
    if isinstance(model, Calm):
        for tensor in model.autoencoder.state_dict().values():
            ranks.spread(tensor)


def has_autoencoder(run_dir: Path) -> bool:
    """Of its own, with a report."""
    return (run_dir / records.AUTOENCODER_WEIGHTS).exists() and (run_dir / records.AUTOENCODER).exists()


def _kept_autoencoder(
    config: RunConfig, corpus: Corpus, run_dir: Path
) -> tuple[Autoencoder, AutoencoderReport | None]:
    """Of the run's own folder. Raises RunError where it is damaged or of another configuration."""
    autoencoder = build_autoencoder(config, corpus.vocab_size)
    report = records.read_autoencoder_report(run_dir)
    try:
        checkpoint.load_weights(autoencoder, run_dir / records.AUTOENCODER_WEIGHTS)
    except UnreadableError:
        raise
    except RunError as error:
        raise RunError(f"{error}; {records.REMEDY}") from None
    return autoencoder.eval(), report


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


def assemble(
    config: RunConfig, vocab_size: int, autoencoder: Autoencoder | None = None, ranks: Ranks = ALONE
) -> LanguageModel:
    """The untrained network of a resolved configuration, a CALM's with its autoencoder. One that is divided among
    ranks need not fit on a device whole."""
    divided = ranks.world > 1 and config.runtime.strategy == "fsdp"
    device = "cpu" if divided else config.runtime.device
    if not isinstance(config.model, CalmConfig):
        baseline = BaselineNetwork(config.model, vocab_size=vocab_size, seed=config.seed)
        return TokenBaseline(baseline.to(device))
    assert autoencoder is not None
    network = CalmNetwork(
        config.model, vocab_size=vocab_size, latent_dim=config.autoencoder.latent_dim, seed=config.seed
    )
    return Calm(network.to(device), autoencoder)
