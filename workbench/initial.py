"""Starting a training from another run's weights (``train.init_from``): fine-tuning, of imported weights too.

The new run has its own folder, steps and record; the other one gives the network's first weights and the frozen
autoencoder. Its training is not counted as the new run's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench import checkpoint, files, pretrained_tokenizer, records
from workbench.config import CalmConfig, RunConfig
from workbench.config_file import stored_config
from workbench.data import Corpus
from workbench.errors import ConfigError, RunError
from workbench.head_sections import HeadSection, OwnHeadConfig
from workbench.home import Home
from workbench.records import RunRecord
from workbench.run_names import find_run

_AUTOENCODER = ("latent_dim", "width", "mlp_width", "encoder_layers", "decoder_layers", "norm_eps")
"""Fields that say what the autoencoder's weights mean."""
_HEAD = ("kind", "num_blocks", "noise_dim", "time_dim", "num_steps", "noise_schedule")
RELEASED = ("autoencoder", "language_model")
"""Folders that released weights come in."""
_TOKENIZER = ("kind", "vocab_size", "sha256", "end_id", "pad_id")


def initial_run(config: RunConfig, home: Home, run_dir: Path | None = None) -> Path | None:
    """Folder of the run that a resolved configuration starts from, if any. ``run_dir``: of the run that starts,
    which may have the same name; where it has begun, what it noted then decides, whoever has that name now.

    Raises RunError where there is no such run, there are several of the name, it has no weights or not those
    that were noted, and ConfigError where its architecture or its tokenizer is another."""
    named = config.train.init_from
    if named is None:
        return None
    noted = {} if run_dir is None else _noted(run_dir)
    try:
        place = _find_noted(noted, named, home, run_dir) if noted else find_run(named, home, other_than=run_dir)
    except RunError as error:
        raise RunError(f"train.init_from: {error}") from None
    _require_same(config, place)
    return place


def beginning(config: RunConfig, home: Home, run_dir: Path, known: Path | None = None) -> Path | None:
    """``initial_run`` of the run in ``run_dir``, or ``known`` instead; None where it has a checkpoint of its own,
    and needs the other no more. Raises as ``initial_run``."""
    if config.train.init_from is None or checkpoint.find(run_dir / records.CHECKPOINT) is not None:
        return None
    return known or initial_run(config, home, run_dir)


def _noted(run_dir: Path) -> Mapping[str, Any]:
    """What a run that has begun noted of the one that it started from; empty where it has not."""
    if not (run_dir / records.RECORD).exists():
        return {}
    noted = records.read_record(run_dir).environment.get("initial")
    return noted if isinstance(noted, Mapping) and noted.get("weights_sha256") else {}


def _find_noted(noted: Mapping[str, Any], named: str, home: Home, run_dir: Path | None) -> Path:
    """Where the weights are that were noted: in the home, which may have moved, where they were, or under the
    name. Raises RunError where they are in none of these places."""
    then = Path(str(noted.get("folder")).replace("\0", ""))
    places = [home.root / then.parent.name / then.name, then]
    with contextlib.suppress(RunError):  # several have it, or none
        places.append(find_run(named, home, other_than=run_dir))
    there = [place for place in places if checkpoint.find(place / records.CHECKPOINT) is not None]
    for place in there:
        if all(noted.get(key) in (None, found) for key, found in _sums(place).items()):
            return place
    what = f"{there[0]} has other weights than when" if there else f"{then} is not there any more, with which"
    raise RunError(
        f"{what} the run in {run_dir} began (model.safetensors then: sha256 {str(noted['weights_sha256'])[:12]}); "
        "bring it back as it was, or train a new run"
    )


def _sums(run_dir: Path) -> dict[str, str | None]:
    """Of what a run that starts with this one takes over."""
    found = checkpoint.find(run_dir / records.CHECKPOINT)
    assert found is not None, "the caller has looked"
    own = run_dir / records.AUTOENCODER_WEIGHTS
    return {
        "weights_sha256": files.sha256(found / checkpoint.WEIGHTS),
        "autoencoder_sha256": files.sha256(own) if own.exists() else None,
    }


def _require_same(config: RunConfig, run_dir: Path) -> None:
    record = records.read_record(run_dir)
    if checkpoint.find(run_dir / records.CHECKPOINT) is None:
        raise RunError(f"train.init_from: {run_dir} has no weights yet (status: {record.status}); train it first")
    theirs = stored_config(run_dir / records.CONFIG)
    there = _meaning(theirs)
    differences = [
        f"{name} is {mine!r} here and {there.get(name)!r} there"
        for name, mine in _meaning(config).items()
        if mine != there.get(name)
    ]
    if differences:
        raise ConfigError(
            f"train.init_from: {run_dir} cannot be the beginning: {'; '.join(differences[:4])}; start from that "
            "run's own config.yaml"
        )


def _meaning(config: RunConfig) -> dict[str, Any]:
    """Dotted fields that must be the same for weights to mean the same."""
    model, tokenizer = config.model, config.data.tokenizer
    found: dict[str, Any] = {"model.kind": model.kind}
    found |= {f"model.backbone.{name}": value for name, value in model.backbone.model_dump().items()}
    found |= {f"data.tokenizer.{name}": getattr(tokenizer, name) for name in _TOKENIZER}
    if isinstance(model, CalmConfig):
        found |= {"model.chunk_size": model.chunk_size, "model.input_mode": model.input_mode}
        found |= {"model.auxiliary_weight above 0": model.auxiliary_weight > 0}
        found |= _head(model.head)
        found |= {f"autoencoder.{name}": getattr(config.autoencoder, name) for name in _AUTOENCODER}
    return found


def _head(head: HeadSection) -> dict[str, Any]:
    """Of a head from outside the package nobody knows what its fields do: all of them, but those of sampling."""
    names: Iterable[str] = _HEAD
    if isinstance(head, OwnHeadConfig):
        names = [name for name in type(head).model_fields if name not in head.sampling_fields]
    return {f"model.head.{name}": getattr(head, name, None) for name in names}


def require_same_vocabulary(config: RunConfig, corpus: Corpus, run_dir: Path) -> None:
    """Raises ConfigError where a tokenizer that was trained on a text was trained on another one."""
    other = records.read_record(run_dir).data_hash
    if config.data.tokenizer.kind == "bpe" and other != corpus.hash:
        raise ConfigError(
            f"train.init_from: {run_dir} has a tokenizer that was trained on other text (data {other}, here "
            f"{corpus.hash}); its ids mean other tokens. use the same text"
        )


def begin(config: RunConfig, initial: Path | None, existing: RunRecord | None, run_dir: Path) -> dict[str, Any]:
    """For the environment of a run's record: which run it starts from (``initial``, the ``beginning``), or did, as
    noted then. What it would need of that run later on, when it is gone perhaps, goes into its own folder: the
    tokenizer, and what settings of released weights say beyond ours."""
    pretrained_tokenizer.keep(config, run_dir)
    if initial is not None:
        _keep_settings(initial, run_dir)
    noted = existing.environment if existing is not None else {}
    if initial is not None and "initial" not in noted:
        return {"initial": _described(initial)}
    return {name: value for name, value in noted.items() if name == "initial"}


def _keep_settings(initial: Path, run_dir: Path) -> None:
    """Without which tensors of which type were imported: these are others."""
    path = initial / records.IMPORTED
    try:
        theirs = files.read_json(path)
        parts = {which: {"config": dict(theirs[which]["config"]), "tensors": None} for which in RELEASED}
        kept = {"format": theirs["format"], **parts, "initial": initial.name}
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"train.init_from: {path} is damaged ({error}); bring it back, or delete it") from None
    files.write_json(run_dir / records.IMPORTED, kept)


def _described(run_dir: Path) -> dict[str, Any]:
    record = records.read_record(run_dir)
    described: dict[str, Any] = {"run_id": record.run_id, "name": record.name, "folder": str(run_dir.resolve())}
    described |= {key: value for key, value in _sums(run_dir).items() if value is not None}
    return described | {key: value for key, value in record.environment.items() if key == "own_head"}
