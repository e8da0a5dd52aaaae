"""Released weights brought into a run folder: checked, turned into our layout, described.

The run is an ordinary finished one (``workbench.records``); ``imported.json`` says where it is from. Values are
kept in float32, which holds every bfloat16 and float16 exactly; the types are remembered for ``export``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from workbench import checkpoint, code_state, diagnostics, files, flops, lineage, machine, records
from workbench.autoencoder import Autoencoder
from workbench.build import Inputs, keep_autoencoder, prepare_inputs
from workbench.config import CalmConfig, RunConfig, content_hash
from workbench.config_file import build_config
from workbench.errors import ConfigError, RunError
from workbench.home import Home
from workbench.model import Calm, CalmNetwork
from workbench.progress import Display, NoDisplay
from workbench.records import RunRecord
from workbench.released.pair import Pair, require_layers
from workbench.released.settings import read_settings, sections
from workbench.released.sources import DTYPES, Source
from workbench.released.vocabulary import TOKENIZER, find_tokenizer, tokenizer_section
from workbench.room import require_room_for_weights
from workbench.train_autoencoder import evaluate_autoencoder

FORMAT = 1
EVAL_CHUNKS = 2048
"""Held-out chunks of the autoencoder's evaluation: with a large vocabulary each costs much."""
_CHOSEN = ("model", "autoencoder", "data.tokenizer")
"""What the released folders decide."""


@dataclass(frozen=True)
class Released:
    """The folders of one import."""

    autoencoder: Path
    language_model: Path
    tokenizer: Path | None = None
    """``tokenizer.json``, or a folder with it; default: looked for in the two folders."""


def import_released(
    released: Released,
    run_dir: Path,
    *,
    home: Home,
    name: str = "",
    study: str | None = None,
    dtype: str | None = None,
    trained_tokens: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    display: Display | None = None,
) -> RunRecord:
    """Make ``run_dir`` the run of the released weights; returns its record.

    ``dtype``: round the values to float32, bfloat16 or float16 first; None keeps them. ``trained_tokens``: what
    the model was trained on, as far as that is known: it counts as the run's training. ``overrides``: dotted
    fields of data, eval, optim, train and runtime.

    Raises RunError where weights or settings are missing, damaged, contradict each other or hold more than
    tensors, or the folder holds a run already; DataError for a tokenizer that does not fit, or text; ConfigError
    for overrides of what the weights decide, OutputError where they do not fit on the disk. Nothing is written
    then."""
    run_dir, shown = Path(run_dir), display or NoDisplay()
    if (run_dir / records.RECORD).exists():
        raise RunError(f"{run_dir} already holds a run; choose another name, or delete that folder")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"the type is one of {', '.join(DTYPES)}, or the weights' own; {dtype!r} given")
    settings = {
        "autoencoder": read_settings(released.autoencoder, "autoencoder"),
        "language_model": read_settings(released.language_model, "language model"),
    }
    tree = sections(settings["autoencoder"], settings["language_model"])
    source = find_tokenizer(released.tokenizer, (released.language_model, released.autoencoder))
    section = tokenizer_section(source, settings["language_model"])
    sources = {"autoencoder": Source(released.autoencoder), "language_model": Source(released.language_model)}
    for which, opened in sources.items():
        require_layers(opened, which, settings[which])
    config = _configuration(tree, section, overrides or {}, trained_tokens, home)
    require_room_for_weights(config, run_dir, home.cache)
    pair = Pair(sources["autoencoder"], sources["language_model"], config)
    pair.check(shown)
    inputs = prepare_inputs(config, home)  # text and tokenizer fit
    model = _model(config, pair, dtype, shown)
    described = _described(source, settings, pair, dtype, shown)
    with files.claimed(run_dir):
        files.write_atomic(run_dir / TOKENIZER, source.read_bytes())
        kept = section | {"name": str((run_dir / TOKENIZER).resolve())}
        config = _with_tokenizer(config, kept)
        facts = _Facts(name or run_dir.name, study, inputs.schedule.num_steps if trained_tokens else 0)
        return _write(config, run_dir, model, inputs, described, facts, shown)


@dataclass(frozen=True)
class _Facts:
    """What is said of the run beside its weights."""

    name: str
    study: str | None
    step: int
    """Of its training, where that is known; 0."""


def _configuration(
    tree: Mapping[str, Any],
    section: Mapping[str, Any],
    overrides: Mapping[str, Any],
    trained_tokens: int | None,
    home: Home,
) -> RunConfig:
    """Resolved; evaluated and fine-tuned by these settings."""
    for field in overrides:
        chosen = next((part for part in _CHOSEN if field == part or field.startswith(f"{part}.")), None)
        if chosen is not None:
            raise ConfigError(f"{field}: {chosen} is what the released weights say; it cannot be set")
    tree = {
        **tree,
        # its training is not known: what would be counted for it is next to nothing
        "autoencoder": {**tree["autoencoder"], "eval_chunks": EVAL_CHUNKS, "steps": 1, "batch_chunks": 1},
        "data": {"tokenizer": dict(section)},
        "train": {"train_tokens": trained_tokens or 1, "block_len": 2048 * tree["model"]["chunk_size"]},
    }
    return machine.resolve(build_config(tree, overrides), home.cache)


def _with_tokenizer(config: RunConfig, section: Mapping[str, Any]) -> RunConfig:
    tokenizer = config.data.tokenizer.model_copy(update=dict(section))
    return config.model_copy(update={"data": config.data.model_copy(update={"tokenizer": tokenizer})})


def _described(
    tokenizer: Path,
    settings: Mapping[str, Mapping[str, Any]],
    pair: Pair,
    dtype: str | None,
    display: Display,
) -> dict[str, Any]:
    """Content of imported.json: files with their sums, settings, names and types of all tensors, versions."""
    tree: dict[str, Any] = {"format": FORMAT, "imported": datetime.now(UTC).isoformat(timespec="seconds")}
    sources = {"autoencoder": pair.autoencoder, "language_model": pair.language_model}
    read = {which: _files(source) for which, source in sources.items()}
    display.stage("checksums of files", sum(map(len, read.values())) + 1)
    done = 0
    for which, source in sources.items():
        listed = []
        for path in read[which]:
            listed.append(_file(path))
            done += 1
            display.advance(done)
        kept = {name: dtype or entry.dtype for name, entry in source.entries.items()}
        names = {kind: sorted(name for name in kept if kept[name] == kind) for kind in sorted(set(kept.values()))}
        tree[which] = {
            "folder": str(source.folder.resolve()),
            "files": listed,
            "config": settings[which],
            "tensors": names,
        }
    tree["tokenizer"] = _file(tokenizer)
    display.advance(done + 1)
    return tree


def _files(source: Source) -> list[Path]:
    return [source.folder / "config.json", *([source.index] if source.index else []), *source.files]


def _file(path: Path) -> dict[str, Any]:
    return {"name": path.name, "size": path.stat().st_size, "sha256": files.sha256(path)}


def _write(
    config: RunConfig,
    run_dir: Path,
    model: Calm,
    inputs: Inputs,
    described: dict[str, Any],
    facts: _Facts,
    display: Display,
) -> RunRecord:
    display.stage("autoencoder's evaluation", 1)
    key = content_hash([file["sha256"] for file in described["autoencoder"]["files"]])
    model.autoencoder.to(config.runtime.device)
    report = evaluate_autoencoder(model.autoencoder, inputs.corpus, config, key=key)
    report.train_flops = 0.0  # not known
    display.advance(1)
    files.write_atomic(run_dir / records.CONFIG, config.to_yaml())
    code_state.keep(run_dir)
    lineage.keep(run_dir, inputs.corpus, config, trained=False)
    keep_autoencoder(model, report, run_dir)
    checkpoint.save(run_dir / records.CHECKPOINT, model.network, {"step": facts.step}, None)
    record = _record(config, run_dir, facts, model, inputs, described)
    record.diagnostics = [*diagnostics.diagnose_config(config), *diagnostics.diagnose_autoencoder(report)]
    files.write_json(run_dir / records.IMPORTED, {**described, "versions": record.environment["versions"]})
    records.write_record(run_dir, record)  # last: it makes the folder a run
    return record


def _model(config: RunConfig, pair: Pair, dtype: str | None, display: Display) -> Calm:
    """Our tensors in networks that had none of their own: no second copy of a large model."""
    assert isinstance(config.model, CalmConfig)
    latent = config.autoencoder.latent_dim
    with torch.device("meta"):
        autoencoder = Autoencoder(config.autoencoder, chunk_size=config.chunk_size, vocab_size=pair.vocab)
        network = CalmNetwork(config.model, vocab_size=pair.vocab, latent_dim=latent, seed=config.seed)
    display.stage("reading weights", sum(map(len, pair.parts.values())))
    done = 0
    for which, module in (("autoencoder", autoencoder), ("language_model", network)):
        tensors = {}
        for ours, tensor in pair.ours(which, dtype):
            tensors[ours] = tensor
            done += 1
            display.advance(done)
        module.load_state_dict(tensors, assign=True)
    return Calm(network, autoencoder.eval())


def _record(
    config: RunConfig,
    run_dir: Path,
    facts: _Facts,
    model: Calm,
    inputs: Inputs,
    described: Mapping[str, Any],
) -> RunRecord:
    counted = flops.describe(config, inputs.corpus.vocab_size)
    compute = {key: counted[key] for key in ("infer_flops_per_token", "infer_flops_per_token_published")}
    if facts.step:
        compute |= {key: counted[key] for key in ("train_flops", "train_flops_published")}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    sums = {which: described[which]["files"] for which in ("autoencoder", "language_model")}
    weights = {which: content_hash([file["sha256"] for file in sums[which]]) for which in sums}
    return RunRecord(
        run_id=run_dir.name,
        name=facts.name,
        study=facts.study,
        seed=config.seed,
        kind="calm",
        head="energy",
        status="completed",
        reason="imported from released weights",
        config_hash=config.hash(),
        data_hash=inputs.corpus.hash,
        eval_fingerprint=inputs.grid.fingerprint,
        created=now,
        finished=now,
        step=facts.step,
        num_steps=facts.step,
        tokens=facts.step * inputs.schedule.tokens_per_step,
        parameters=model.parameter_groups(),
        compute=compute,
        environment={**machine.environment(config), "imported": weights},
    )


def require_known_tokens(trained_tokens: float | None) -> int | None:
    """As a whole number. Raises ConfigError for one that is none above 0."""
    if trained_tokens is None:
        return None
    if not (math.isfinite(trained_tokens) and trained_tokens >= 1):
        raise ConfigError(f"the tokens of the training are a number above 0, {trained_tokens} given")
    return round(trained_tokens)
