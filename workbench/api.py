"""The commands as functions, for notebooks and scripts: ``from workbench import api`` (docs/python.md).

They have the commands' names and do what these do, and take and return Python objects instead of printing. (They
cannot be attributes of ``workbench`` itself: ``workbench.train`` is the module.) Everything heavy is imported when
a function is called. Errors that a user can mend are subclasses of ``workbench.errors.UserError``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.chunk_samplers import SamplerChoice
    from workbench.compare import Comparison
    from workbench.config import RunConfig
    from workbench.home import Home
    from workbench.progress import Display
    from workbench.records import RunRecord
    from workbench.released.export import Exported
    from workbench.rescore import Rescored
    from workbench.tracking_registry import Registered
    from workbench.tracking_sync import SyncReport

__all__ = [
    *("Trained", "compare", "describe", "evaluate", "export", "import_weights", "models", "register", "sample"),
    *("sync", "train"),
]


@dataclass(frozen=True)
class Trained:
    """A run: where it lies and what its record says. Can be given to the other functions as it is."""

    folder: Path
    record: RunRecord


def train(
    config: Path | str | Mapping[str, Any] | RunConfig,
    *,
    overrides: Mapping[str, Any] | None = None,
    name: str | None = None,
    home: Path | str = "runs",
    tracking_uri: str | None = "none",
    display: Display | None = None,
) -> Trained:
    """Train and evaluate one model; ``calm train``. A run that was interrupted is continued, a finished one is
    returned as it is.

    ``config``: a YAML file, the name of a preset such as ``"tuned-calm"``, a nested mapping, or a ``RunConfig``.
    ``overrides``: dotted names, ``{"seed": 1, "train.train_flops": 1e12}``. ``name``: of the run; default: the
    configuration's, or the file's. ``tracking_uri``: of MLflow, None for a local database in ``home``, ``"none"``
    for none (``calm sync`` delivers later). ``display``: is told the progress.

    Raises ConfigError for a configuration or a name that is not valid, DataError for a text that cannot be used,
    RunError where another process is at the same run, TrackingError where the server refuses, and OutputError
    where nothing can be written."""
    if name is not None:
        require_name(name)
    from workbench.data import require_source
    from workbench.home import open_home
    from workbench.runner import Identity, execute, resolve
    from workbench.tracking import SINGLE, open_tracker

    place = open_home(home)
    asked = _config(config, overrides)
    title = name or asked.name or (Path(config).stem if isinstance(config, Path | str) else "run")
    resolved = resolve(asked, place)
    folder = run_folder(title, resolved, place)
    begun = (folder / "record.json").exists()
    if not begun:
        require_source(resolved.data)
    tracker = open_tracker(tracking_uri, experiment=SINGLE, home=place, later=begun)
    try:
        record = execute(
            resolved, folder, home=place, identity=Identity(name=title), tracker=tracker, display=display
        )
    finally:
        tracker.close()
    return Trained(folder, record)


def describe(
    config: Path | str | Mapping[str, Any] | RunConfig,
    *,
    overrides: Mapping[str, Any] | None = None,
    home: Path | str = "runs",
) -> dict[str, Any]:
    """What a run will cost, without training; ``calm train --dry-run --json``: parameters by group, steps, tokens,
    FLOPs (executed and published counts), disk in bytes, seconds where the machine's speed is known.

    Raises ConfigError for a configuration that is not valid."""
    from workbench import flops
    from workbench.home import home_as_it_is
    from workbench.machine import resolve
    from workbench.room import need_fields, runs_need
    from workbench.speed import training_flops_per_second

    resolved = resolve(_config(config, overrides), home_as_it_is(home).cache)
    speed = training_flops_per_second(resolved, flops.vocab_size(resolved))
    found = flops.describe(resolved)
    seconds = found["train_flops"] / speed if speed else None
    return {**found, **need_fields(runs_need([resolved])), "estimated_training_seconds": seconds}


def evaluate(
    run: Trained | Path | str,
    *,
    overrides: Mapping[str, Any] | None = None,
    split: str | None = None,
    target_se: float | None = None,
    reuse: bool = True,
    home: Path | str = "runs",
) -> Rescored:
    """Score a trained run again; ``calm evaluate``. ``.evaluation.brier`` of what is returned is BrierLM (0 to
    100) with its standard error.

    ``overrides``: ``eval.*`` and the head's own settings of sampling (``model.head.num_calls``). ``split``:
    ``"validation"`` or ``"test"``. ``target_se``: more positions or samples are drawn until the standard error, in
    points of BrierLM, is this small. ``reuse``: take an equal scoring that was saved before.

    Raises ConfigError for anything that would need another training, RunError where there is no such run or it has
    no weights, and DataError where the split is too short."""
    from workbench.rescore import rescore

    changes = dict(overrides or {})
    changes |= {} if split is None else {"eval.split": split}
    changes |= {} if target_se is None else {"eval.target_se": target_se}
    folder, place = _found(run, home)
    return rescore(folder, place, changes, reuse=reuse)


def compare(
    *runs: Trained | Path | str,
    overrides: Mapping[str, Any] | None = None,
    difference: float | None = None,
    with_seeds: bool = True,
    home: Path | str = "runs",
) -> Comparison:
    """Two or more runs by their paired difference at the same positions; ``calm compare``. ``.pairs`` has the
    differences in points of BrierLM with their 95 % intervals, corrected for all that were compared, ``.runs`` the
    runs, best first.

    ``overrides``: ``eval.*`` with which all are scored anew. ``difference``: BrierLM points for which the seeds
    that show them are counted. ``with_seeds``: other seeds of the runs that lie beside them are used.

    Raises RunError where a run is missing, was not evaluated, or was scored by other rules than the others."""
    from workbench.compare import compare_runs

    found = [_found(run, home) for run in runs]
    place = found[0][1] if found else _home(home)
    folders = [folder for folder, _ in found]
    return compare_runs(folders, place, overrides=overrides, wished=difference, with_seeds=with_seeds)


def sample(
    run: Trained | Path | str,
    prompts: str | Sequence[str] = "",
    *,
    num_tokens: int = 256,
    sampler: SamplerChoice | None = None,
    temperature: float | None = None,
    seed: int = 0,
    home: Path | str = "runs",
) -> list[str]:
    """The continuation of each prompt, without the prompt; ``calm sample``. Equal seed, equal texts on the CPU.

    ``num_tokens``: at most, for each text. ``sampler``: a ``workbench.chunk_samplers.SamplerChoice``; default
    temperature 0.5, by ``batch`` for a CALM and ``softmax`` for a token baseline. ``temperature``: of the default
    sampler.

    Raises RunError where there is no such run, ConfigError for a sampler that the model cannot use, and
    SamplingError where ``exact`` has spent its budget."""
    from workbench.chunk_samplers import SamplerChoice
    from workbench.errors import ConfigError
    from workbench.layers import generator
    from workbench.sampling import generate
    from workbench.saved_runs import load_run

    if sampler is not None and temperature is not None:
        raise ConfigError("sampler and temperature are both given; a SamplerChoice has its own temperature")
    folder, place = _found(run, home)
    saved = load_run(folder, place)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    made = generate(
        saved.model,
        [saved.corpus.tokenizer.encode(text) for text in texts],
        num_tokens=num_tokens,
        rng=generator(seed, "sample", device=saved.model.device),
        sampler=SamplerChoice(temperature=temperature) if temperature is not None else sampler,
        window=saved.config.train.block_len,
    )
    return [saved.corpus.tokenizer.decode(_without_end(text.tolist())) for text in made.texts]


def import_weights(
    autoencoder: Path | str,
    language_model: Path | str,
    *,
    name: str,
    tokenizer: Path | str | None = None,
    study: str | None = None,
    dtype: str | None = None,
    trained_tokens: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    home: Path | str = "runs",
    display: Display | None = None,
) -> Trained:
    """Make a run, called ``name``, of released weights; ``calm import`` (``import`` is Python's word). A pickle is
    opened only as far as it holds tensors.

    ``autoencoder``, ``language_model``: folders with a config.json and weights. ``tokenizer``: a tokenizer.json or
    its folder; default: in one of the two. ``study``: a launch, among whose runs it is put. ``dtype``: the values
    are rounded to it first. ``trained_tokens``: of the model's training, where known. ``overrides``: how it is
    evaluated, ``{"data.corpus": "kjv"}``.

    Raises RunError for weights or settings that are missing, damaged or contradict each other and where there is
    such a run already, DataError for a text or tokenizer that does not fit, StudyError for a study that is not
    there, ConfigError for anything else that is not valid, and OutputError where nothing can be written."""
    require_name(name)
    from workbench.errors import StudyError
    from workbench.released.bring import Released, import_released, require_known_tokens

    tokens = require_known_tokens(trained_tokens)
    place = _home(home)
    if study is not None and ("/" in study or not (place.study(study) / "study.json").exists()):
        raise StudyError(
            f"there is no study {study!r} under {place.root}; leave the study out for a run by itself"
        )
    folder = (place.single_runs() if study is None else place.study(study)) / slug(name)
    record = import_released(
        Released(Path(autoencoder), Path(language_model), None if tokenizer is None else Path(tokenizer)),
        folder,
        home=place,
        name=name,
        study=study,
        dtype=dtype,
        trained_tokens=tokens,
        overrides=overrides,
        display=display,
    )
    return Trained(folder, record)


def export(
    run: Trained | Path | str,
    out: Path | str,
    *,
    dtype: str | None = None,
    shard_gb: float = 5.0,
    home: Path | str = "runs",
) -> Exported:
    """Write a run's weights in the layout of the released models, into the new or empty folder ``out``; ``calm
    export``. ``.autoencoder`` and ``.language_model`` of what is returned are the folders.

    ``dtype``: of all weights; default: as they were imported, float32 for a run that was trained here.
    ``shard_gb``: gigabytes of weights in one file at most.

    Raises RunError where there is no such run, it has no weights or the layout cannot express it, ConfigError for
    another type or size, and OutputError where ``out`` holds something or cannot be written."""
    from workbench.errors import ConfigError
    from workbench.released.export import export_released

    if not 0.001 <= shard_gb <= 10_000.0:
        raise ConfigError(f"shard_gb is a number of gigabytes from 0.001 to 10000, {shard_gb} given")
    folder, _ = _found(run, home)
    return export_released(folder, Path(out), dtype=dtype, shard_bytes=round(shard_gb * 1e9))


def register(
    run: Trained | Path | str,
    *,
    name: str | None = None,
    alias: str | None = None,
    again: bool = False,
    tracking_uri: str | None = None,
    home: Path | str = "runs",
) -> Registered:
    """Register a completed run's model with MLflow; ``calm register``. ``.uri`` of what is returned is for
    ``mlflow.pyfunc.load_model``. A run that has a version keeps it, unless ``again``.

    ``name``: of the model; default: ``calm-`` and its corpus. ``alias``: is to mean this version.
    ``tracking_uri``: of MLflow, None for the one of the home.

    Raises RunError where there is no such run or it is not completed, and TrackingError for a name that MLflow
    does not take and a server that does not answer; the same call then goes on where it stopped."""
    from workbench.tracking_registry import register as register_model

    folder, place = _found(run, home)
    return register_model(folder, home=place, name=name, alias=alias, tracking_uri=tracking_uri, again=again)


def models(*, tracking_uri: str | None = None, home: Path | str = "runs") -> list[Registered]:
    """The registered models and their versions, the latest first; ``calm models``. Makes no home.

    Raises TrackingError where the server does not answer."""
    from workbench.home import home_as_it_is
    from workbench.tracking_registry import registered_models

    return registered_models(home_as_it_is(home), tracking_uri)


def sync(*, tracking_uri: str | None = None, home: Path | str = "runs") -> SyncReport:
    """Deliver to MLflow whatever it does not have of the runs in ``home``; ``calm sync``, which also makes and
    delivers the reports of studies. What could not be delivered is counted in ``.failed`` and told in
    ``.problems``.

    ``tracking_uri``: of MLflow, None for the one that each study, or single run, was begun with. Raises
    TrackingError where a server does not answer, or stops answering: call it again later."""
    from workbench.errors import TrackingError
    from workbench.tracking_sync import sync as deliver_all

    delivered = deliver_all(_home(home), tracking_uri)
    if delivered.away:
        raise TrackingError(f"the tracking server stopped answering ({delivered}); sync again to deliver the rest")
    return delivered


def run_folder(title: str, resolved: RunConfig, home: Home) -> Path:
    """Where a single run lies: it depends on its name and on the configuration with its own seed alone, so that
    the command and the function find each other's runs. Where another name looks the same in a folder's (``a b``
    and ``a=b``), the one that comes second gets a folder of its own."""
    from workbench.config import content_hash

    folder = home.single_runs() / f"{slug(title)}-{resolved.hash()[:8]}"
    own, names = folder.with_name(f"{folder.name}-{content_hash(title)[:8]}"), (title, f"{title} s{resolved.seed}")
    return folder if _name_in(folder) in (None, *names) and _name_in(own) not in names else own


def _name_in(folder: Path) -> str | None:
    from workbench import records
    from workbench.errors import RunError

    try:
        return records.read_record(folder).name if (folder / records.RECORD).exists() else None
    except RunError:  # told when it is continued
        return None


def require_name(name: str) -> str:
    """A run's name as it was given; in its folder's, other signs than ``A-Za-z0-9._-`` become ``-``. Raises
    ConfigError for none and for a path, which would not be followed."""
    from workbench.config_file import shortened
    from workbench.errors import ConfigError

    if name.strip(" .") and not re.search(r"[/\\]", name):
        return name
    given = f"--name wants a run's name, for example tuned, and no path: {shortened(name)} given"
    raise ConfigError(f"{given}; its folder is made in the home folder, which --home says")


def slug(text: str) -> str:
    """A name as part of a folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100].rstrip("-.") or "run"


def _config(config: Path | str | Mapping[str, Any] | RunConfig, overrides: Mapping[str, Any] | None) -> RunConfig:
    from workbench.config_file import build_config, load_config, require_effect

    if isinstance(config, Path | str):
        return load_config(config, overrides)
    tree = config if isinstance(config, Mapping) else config.to_dict()
    built = build_config(tree, overrides)
    require_effect(built, overrides or {})
    return built


def _found(run: Trained | Path | str, home: Path | str) -> tuple[Path, Home]:
    from workbench.run_names import find_run

    place = _home(home)
    return (run.folder if isinstance(run, Trained) else find_run(str(run), place)), place


def _home(home: Path | str) -> Home:
    from workbench.home import open_home

    return open_home(home)


def _without_end(tokens: list[int]) -> list[int]:
    from workbench.tokenizer import END_ID

    return tokens[:-1] if tokens and tokens[-1] == END_ID else tokens
