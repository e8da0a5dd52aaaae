"""Trained runs found again by name and loaded from their folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import checkpoint, files, machine, records
from workbench.build import build_model, prepare_inputs
from workbench.config import RunConfig
from workbench.config_file import load_config, with_head_sampling
from workbench.data import Corpus
from workbench.errors import RunError
from workbench.home import Home
from workbench.language_model import LanguageModel
from workbench.optim import phase_after
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


def load_run(run_dir: Path | str, home: Home, overrides: Mapping[str, Any] | None = None) -> SavedRun:
    """On this machine's device. ``overrides``: other settings of the head's sampling (``model.head.num_calls``).

    Raises ConfigError for overrides that would need another training, and RunError where the folder is not a
    run's, has no weights yet, or its text has changed since."""
    run_dir = Path(run_dir)
    record = records.read_record(run_dir)
    config = with_head_sampling(load_config(run_dir / records.CONFIG), overrides or {})
    found = checkpoint.find(run_dir / records.CHECKPOINT)
    if found is None:
        raise RunError(f"{run_dir} has no checkpoint yet (status: {record.status}); train it first")
    anywhere = config.model_copy(update={"runtime": config.runtime.model_copy(update={"device": "auto"})})
    device = machine.resolve(anywhere, home.cache).runtime.device
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"device": device})})
    inputs = prepare_inputs(config, home)
    require_same_text(record, inputs.corpus, run_dir)
    model, _ = build_model(config, inputs.corpus, home, run_dir=run_dir)
    checkpoint.load_weights(model.network, found / checkpoint.WEIGHTS)
    step, schedule = int(files.read_json(found / checkpoint.STATE)["step"]), inputs.schedule
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


def require_same_text(record: RunRecord, corpus: Corpus, run_dir: Path) -> None:
    """Raises RunError where a run was trained on other tokens than the corpus now holds."""
    if record.data_hash and record.data_hash != corpus.hash:
        raise RunError(
            f"{run_dir} was trained on other text than {corpus.name} holds now (data {record.data_hash}, now "
            f"{corpus.hash}); bring the text back as it was, or train a new run"
        )


def find_run(name: str, home: Home) -> Path:
    """A run's folder from its path, or from its id, STUDY/ID or name below ``home``.

    Raises RunError where there is none or several."""
    for direct in (Path(name), home.root / name):
        if (direct / records.RECORD).exists():
            return direct
    known = records.find_runs(home.root)
    matches = [path for path in known if path.name == name or _name(path) == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(str(path) for path in matches[:5])
        raise RunError(f"{name!r} names {len(matches)} runs ({listed} ...); give STUDY/RUN or the folder")
    latest = ", ".join(path.name for path in known[-5:])
    hint = f"latest: {latest}" if known else f"there are no runs under {home.root} yet"
    raise RunError(f"no run {name!r}; {hint}")


def _name(run_dir: Path) -> str | None:
    try:
        return records.read_record(run_dir).name
    except RunError:  # a damaged record of another run is no reason to refuse this one
        return None
