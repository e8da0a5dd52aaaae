"""Trained runs loaded from their folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import checkpoint, files, machine, processes, records, run_logs
from workbench.build import build_model, has_autoencoder, prepare_inputs
from workbench.config import RunConfig
from workbench.config_file import is_same_run, stored_config, verified_config, with_head_sampling
from workbench.data import Corpus, prepare, require_source
from workbench.errors import DataError, OutputError, RunError
from workbench.finite import all_finite
from workbench.home import Home
from workbench.language_model import LanguageModel
from workbench.optim import phase_after
from workbench.pretrained_tokenizer import pinned, with_kept
from workbench.records import Phase, RunRecord


@dataclass(frozen=True)
class SavedRun:
    """A trained model and where on its way it stands (the checkpoint's position, not the record's)."""

    config: RunConfig
    record: RunRecord
    model: LanguageModel
    corpus: Corpus
    step: int
    tokens: int
    train_flops: float
    phase: Phase


def require_checkpoint(run_dir: Path, record: records.RunRecord) -> Path:
    """Where its weights are. Raises RunError with what to do where there are none yet."""
    found = checkpoint.find(run_dir / records.CHECKPOINT)
    if found is not None:
        return found
    status, process = str(record.status), record.environment.get("process")
    if status == "running" and isinstance(process, dict) and processes.gone(process, run_dir / files.CLAIM):
        status = "killed"
    remedy = {
        "running": "a process trains it: wait for its first evaluation or checkpoint",
        "interrupted": "the command that trained it goes on with it",
        "killed": "nobody trains it any more: the command that trained it goes on with it",
    }.get(status, "train it first")
    raise RunError(f"{run_dir} has no checkpoint yet (status: {status}); {remedy}")


def used_config(run_dir: Path, record: RunRecord) -> RunConfig:
    """The configuration for what its weights are used for. It may have been changed since, as where the text was
    moved; what is left open would be filled in with what is the rule today. Raises RunError."""
    config = stored_config(run_dir / records.CONFIG)
    if config.hash() != record.config_hash and config.resolved() != config:
        return verified_config(run_dir / records.CONFIG, record.config_hash)  # an earlier version left things open
    return config


def load_run(run_dir: Path | str, home: Home, overrides: Mapping[str, Any] | None = None) -> SavedRun:
    """On this machine's device. ``overrides``: other settings of the head's sampling (``model.head.num_calls``).

    Raises ConfigError for overrides that would need another training, and RunError where the folder is not a
    run's, has no weights yet or none that are finite, or its text has changed since."""
    run_dir = Path(run_dir)
    record = records.read_record(run_dir)
    config = with_head_sampling(used_config(run_dir, record), overrides or {})
    found = require_checkpoint(run_dir, record)
    anywhere = config.model_copy(update={"runtime": config.runtime.model_copy(update={"device": "auto"})})
    device = machine.resolve(anywhere, home.cache).runtime.device
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"device": device})})
    inputs = prepare_inputs(with_kept(config, home, run_dir), home)
    require_same_text(record, inputs.corpus, run_dir)
    model, _ = build_model(config, inputs.corpus, home, run_dir=run_dir)
    checkpoint.load_weights(model.network, found / checkpoint.WEIGHTS)
    if not all_finite(model.network.parameters()):
        raise RunError(
            f"the weights in {found} are not finite (status: {record.status}): nothing can be made of them; train "
            "another run, with a lower optim.lr"
        )
    step, schedule = checkpoint.read_step(found), inputs.schedule
    return SavedRun(
        config=config,
        record=record,
        model=model,
        corpus=inputs.corpus,
        step=step,
        tokens=step * schedule.tokens_per_step,
        train_flops=step * schedule.flops_per_step,
        phase=phase_after(
            step,
            schedule.num_steps,
            warmup_steps=schedule.warmup_steps,
            decay_steps=schedule.decay_steps,
        ),
    )


def existing_record(run_dir: Path, config: RunConfig, home: Home) -> RunRecord | None:
    """Of the run in the folder, if there is one. Raises RunError where it is of another configuration, or where
    something is damaged that is read when it goes on, or that of a finished one nobody would look into before a
    report, and where a finished one's text has changed."""
    if not (run_dir / records.RECORD).exists():
        if checkpoint.find(run_dir / records.CHECKPOINT) is not None:
            raise RunError(
                f"{run_dir / records.RECORD} is missing beside a checkpoint; bring it back from a copy, or delete "
                "the folder and train the run again"
            )
        return None
    record = records.read_record(run_dir)
    if not is_same_run(run_dir / records.CONFIG, record.config_hash, config):
        raise RunError(
            f"{run_dir} holds a run of another configuration ({record.config_hash}, asked {config.hash()}); "
            "choose another folder or delete it"
        )
    if record.status in records.FINISHED:
        run_logs.require_whole(run_dir)
        _require_unchanged_text(record, config, run_dir, home)
    elif (step := checkpoint.reached(run_dir / records.CHECKPOINT)) is not None:
        run_logs.require_continuable(run_dir, step)
    if has_autoencoder(run_dir):
        records.read_autoencoder_report(run_dir)
    return record


def _require_unchanged_text(record: RunRecord, config: RunConfig, run_dir: Path, home: Home) -> None:
    """Its result is no answer for another text. One that is not there any more, or cannot be read, changes
    nothing, and the hub is not asked. Raises RunError."""
    if config.data.hub is not None:
        return
    data = with_kept(config, home, run_dir).data
    try:
        require_source(data)
        if data.tokenizer.kind == "pretrained":
            pinned(data.tokenizer, offline=True)
    except DataError:
        return
    try:
        corpus = prepare(data, home.cache, least_tokens=1)
    except OutputError:  # the cache cannot be written; what was found once is still so
        return
    except DataError as error:
        if isinstance(error.__context__, OSError):
            return
        raise RunError(
            f"{run_dir} was trained on a text that is not as it was: {error}\nbring it back as it was, or train a "
            "new run"
        ) from None
    require_same_text(record, corpus, run_dir)


def require_same_text(record: RunRecord, corpus: Corpus, run_dir: Path) -> None:
    """Raises RunError where a run was trained on other tokens than the corpus now holds."""
    if record.data_hash and record.data_hash != corpus.hash:
        raise RunError(
            f"{run_dir} was trained on other text than {corpus.name} holds now (data {record.data_hash}, now "
            f"{corpus.hash}); bring the text back as it was, or train a new run"
        )
