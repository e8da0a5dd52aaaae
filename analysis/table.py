"""The table of runs: run folders in, pandas frames out.

A run folder that cannot be read is left out and named in ``RunTable.warnings``; a report about
nineteen good runs must not fail because of a twentieth. Scores are BrierLM (0 to 100), Brier-n in
per cent, cross-entropy in nats per token, compute in FLOPs as executed.
"""

from __future__ import annotations

import difflib
import json
import os
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.config_reading import read_yaml
from analysis.naming import HEAD, setting_names, varied
from analysis.paired import read_scores
from analysis.plausible import implausible
from analysis.rows import (
    AUTOENCODER_COLUMNS,
    BOTTLENECK_COLUMNS,
    EVALUATION_COLUMNS,
    FLOOR_COLUMNS,
    KL_COLUMNS,
    RUN_COLUMNS,
    Loaded,
    autoencoder_rows,
    bottleneck_rows,
    evaluation_rows,
    floor_rows,
    kl_rows,
    placeless,
    run_row,
    text_names,
    typed,
)
from analysis.rows_sampling import call_rows, sample_rows, tradeoff_rows
from workbench import files, formats, records
from workbench.config_file import flatten
from workbench.errors import RunError, StudyError
from workbench.given_files import is_text, read_text
from workbench.home import Home
from workbench.positions import FloorScores, PositionScores

SINGLE = "single"
"""Folder of runs outside studies; reported only when named."""

CONFIG_ALWAYS = (
    "model.kind",
    "model.chunk_size",
    HEAD,
    "model.backbone.width",
    "model.backbone.num_layers",
    "autoencoder.latent_dim",
    "autoencoder.kl_floor",
    "optim.lr",
    "optim.batch_positions",
    "optim.warmup_fraction",
    "optim.decay_fraction",
    "train.train_flops",
    "train.train_tokens",
    "data.corpus",
    "data.tokenizer.kind",
    "eval.split",
    "eval.context_len",
    "eval.min_context",
    "eval.grid_stride",
    "eval.num_windows",
    "eval.num_samples",
)
"""Configuration columns kept even where all runs agree."""

CONFIG_IGNORED = ("name", "seed")
"""Part of the identity, not of the setting."""


@dataclass(frozen=True)
class StudyInfo:
    """What a study wrote about itself; empty where it wrote nothing."""

    name: str
    spec: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> list[str]:
        """Dotted names of what was searched, in the study's order."""
        found = self.spec.get("parameters")
        return [str(name) for name in found] if isinstance(found, (dict, list)) else []

    @property
    def dimensions(self) -> dict[str, dict[str, Any]]:
        """What was searched: choices, or a range, by dotted name."""
        found = self.spec.get("parameters")
        return {n: d for n, d in found.items() if isinstance(d, dict)} if isinstance(found, dict) else {}


@dataclass(frozen=True)
class RunTable:
    """Everything the report needs, in long and wide form."""

    runs: pd.DataFrame
    """One row a run: identity, status, ``config`` columns with dotted names, last scores, compute."""
    evaluations: pd.DataFrame
    """One row an evaluation, joined with its run's K, role and seed."""
    autoencoders: pd.DataFrame
    """One row per (autoencoder, noise level)."""
    kl_per_dim: pd.DataFrame
    """One row per (autoencoder, latent dimension): KL in nats, root mean square of sigma."""
    floors: pd.DataFrame
    """One row per (run, n-gram table)."""
    bottlenecks: pd.DataFrame
    """One row per (run, order of its bottleneck panel)."""
    panels: dict[str, records.Bottleneck]
    """The same panels whole, by run id."""
    calls: pd.DataFrame
    """One row per (run, solver, number of network calls) of its call curve."""
    tradeoffs: pd.DataFrame
    """One row per (run, sampler, setting of it): accuracy and collision in per cent."""
    samples: pd.DataFrame
    """One row a sampled text, in the order of training."""
    positions: dict[str, PositionScores]
    """Scores position by position, by run id; of completed runs that kept them."""
    floor_scores: dict[str, FloorScores]
    """N-gram tables at the positions of a run, by run id."""
    environments: dict[str, dict[str, Any]]
    """By run id."""
    studies: dict[str, StudyInfo]
    config_columns: list[str]
    warnings: list[str]
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The whole configuration with dotted names, by run id."""


def known_studies(home: Path | str) -> list[str]:
    """Names of the folders under ``home`` that hold a study or runs."""
    home = Path(home)
    if not home.is_dir():
        return []
    return sorted(
        folder.name
        for folder in home.iterdir()
        if folder.is_dir()
        and not folder.name.startswith(".")
        and is_text(folder.name)
        and ((folder / "study.json").exists() or any(folder.glob(f"*/{records.RECORD}")))
    )


def choose_studies(home: Path | str, wanted: list[str] | None = None) -> list[str]:
    """The studies to report on: those named, otherwise all but the runs outside studies. As elsewhere a launch is
    named itself, or by its study's name where that has one launch only.

    Raises StudyError, listing what there is, for an unknown name, one of several launches or an empty home."""
    known = known_studies(home)
    named = [_launch_named(Path(home), name, known) for name in wanted or []]
    chosen = list(dict.fromkeys(named)) or [name for name in known if name != SINGLE]
    if not chosen:
        place = Home(Path(home))
        extra = f" (runs outside studies: `calm report {place.named(SINGLE)}`)" if SINGLE in known else ""
        raise StudyError(f"no study under {home}{extra}; `calm study run {place.named('NAME')}` makes one")
    return chosen


def _launch_named(home: Path, name: str, known: list[str]) -> str:
    if name in known:
        return name
    study_of = {launch: _read_study(home / launch, []).spec.get("study") for launch in known}
    launches = [launch for launch, study in study_of.items() if study == name]
    if len(launches) > 1:
        raise StudyError(f"study {name} has several launches in {home}: {', '.join(launches)}; name one")
    if launches:
        return launches[0]
    names = [*known, *(study for study in study_of.values() if isinstance(study, str))]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise StudyError(
        f"no study {name!r} under {home}; {hint}known: {', '.join(known) or 'none'}; "
        f"`calm study run {Home(home).named('NAME')}` makes one"
    )


def load_runs(home: Path | str, studies: list[str] | None = None) -> RunTable:
    """Read all runs of ``studies`` (default: all studies under ``home``)."""
    home = Path(home)
    chosen = choose_studies(home, studies)
    warnings: list[str] = []
    infos = {name: _read_study(home / name, warnings) for name in chosen}
    loaded: list[Loaded] = []
    for name in chosen:
        loaded += _load_folder(home / name, name, warnings)
    loaded.sort(key=lambda item: (item.record.created, item.record.run_id))
    scores = read_scores((home / item.study / item.folder, item.record) for item in loaded)
    warnings += scores.warnings
    texts = text_names([item.config for item in loaded])
    loaded = [replace(item, text=text) for item, text in zip(loaded, texts, strict=True)]
    searched = [parameter for info in infos.values() for parameter in info.parameters]
    columns = _config_columns([item.config for item in loaded], searched)
    runs = typed(pd.DataFrame([run_row(item, columns) for item in loaded], columns=[*RUN_COLUMNS, *columns]))
    evaluations = [row for item in loaded for row in evaluation_rows(item)]
    frames = {
        "runs": runs,
        "evaluations": typed(pd.DataFrame(evaluations, columns=EVALUATION_COLUMNS)),
        "calls": call_rows(loaded),
        "tradeoffs": tradeoff_rows(loaded),
        "samples": sample_rows(loaded),
    }
    _name_settings(runs, [name for name in searched if name in columns], columns, frames.values())
    return RunTable(
        **frames,
        autoencoders=pd.DataFrame(autoencoder_rows(loaded), columns=AUTOENCODER_COLUMNS),
        kl_per_dim=pd.DataFrame(kl_rows(loaded), columns=KL_COLUMNS),
        floors=pd.DataFrame([row for item in loaded for row in floor_rows(item)], columns=FLOOR_COLUMNS),
        bottlenecks=pd.DataFrame(
            [row for item in loaded for row in bottleneck_rows(item)], columns=BOTTLENECK_COLUMNS
        ),
        panels={item.record.run_id: item.record.bottleneck for item in loaded if item.record.bottleneck},
        positions=scores.positions,
        floor_scores=scores.floors,
        environments={item.record.run_id: item.record.environment for item in loaded},
        studies=infos,
        config_columns=columns,
        warnings=warnings,
        configs={item.record.run_id: item.config for item in loaded},
    )


def _name_settings(
    runs: pd.DataFrame, searched: list[str], columns: list[str], frames: Iterable[pd.DataFrame]
) -> None:
    """Fill the column ``setting`` of the frames, in place."""
    calm = runs[(runs["kind"] == "calm") & runs["at_budget"]]
    names = setting_names(runs, list(dict.fromkeys(searched)) or varied(calm, columns), columns)
    words = {str(run["run_id"]): names.words(run) for run in rows_of(runs)}
    for frame in frames:
        frame["setting"] = [words[str(run_id)] for run_id in frame["run_id"]]


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One dictionary a row: much faster than rows as Series."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


# ---------------------------------------------------------------------------- reading


def _read_study(folder: Path, warnings: list[str]) -> StudyInfo:
    content: dict[str, dict[str, Any]] = {}
    for part in ("study.json", "summary.json"):
        content[part] = {}
        if not (folder / part).exists():
            if part == "study.json" and folder.name != SINGLE:
                warnings.append(f"{folder.name} has no {part}")
            continue
        try:
            value = files.read_json(folder / part)
            value = value if isinstance(value, dict) else {}
            content[part] = formats.STUDY_FILE.read(value, part) if part == "study.json" else _sound(value)
        except (OSError, ValueError, StudyError) as error:
            warnings.append(f"{folder.name}/{part} cannot be read: {_one_line(error, folder)}")
    return StudyInfo(folder.name, content["study.json"], content["summary.json"])


def _sound(summary: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError where what a report says of it is none of what a study writes."""
    complete, importance = summary.get("num_complete"), summary.get("importance")
    if complete is not None and type(complete) is not int:
        raise ValueError(f"num_complete is {reprlib.repr(complete)}, a whole number is wanted")
    values = importance.values() if isinstance(importance, dict) else [] if importance is None else [importance]
    if not all(type(value) in (int, float) and not abs(value) > 1.01 for value in values):
        raise ValueError(f"importance is {reprlib.repr(importance)}, a share of 1 for every parameter is wanted")
    return summary


def _load_folder(root: Path, study: str, warnings: list[str]) -> list[Loaded]:
    loaded = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if not is_text(folder.name):
            warnings.append(f"{study}: a folder was left out, because its name is not UTF-8: {folder.name!r}")
            continue
        if not (folder / records.RECORD).exists():
            if (folder / records.CONFIG).exists():
                warnings.append(f"{study}/{folder.name} was left out: it has no {records.RECORD}")
            continue
        if (folder / records.RERUN).exists():  # equal bits are no second seed
            warnings.append(f"{study}/{folder.name} was left out: it repeats another run (calm rerun)")
            continue
        try:
            loaded.append(replace(_load_run(folder, study), samples=_read_samples(folder, study, warnings)))
        except (RunError, OSError, ValueError, yaml.YAMLError) as error:
            warnings.append(f"{study}/{folder.name} was left out: {_one_line(error, folder)}")
    return loaded


def _load_run(folder: Path, study: str) -> Loaded:
    record = records.read_record(folder)
    tree = read_yaml(read_text(folder / records.CONFIG))
    if not isinstance(tree, dict):
        raise ValueError(f"{records.CONFIG} is not a mapping")
    tree = formats.CONFIG.read(tree, records.CONFIG)
    if record.kind == "baseline":
        tree.pop("autoencoder", None)
    config = {name: _scalar(value) for name, value in flatten(tree).items() if name not in CONFIG_IGNORED}
    evaluations = records.read_evaluations(folder)
    autoencoder = records.read_autoencoder_report(folder)
    if (wrong := implausible(record, evaluations, autoencoder, config)) is not None:
        raise ValueError(f"its files are damaged: {wrong}")
    return Loaded(
        study=study,
        folder=folder.name,
        record=record,
        config=config,
        evaluations=evaluations,
        autoencoder=autoencoder,
    )


def _read_samples(folder: Path, study: str, warnings: list[str]) -> list[records.SampleText]:
    """To look at only: a run whose texts cannot be read is as good as any other."""
    try:
        return records.read_samples(folder)
    except (OSError, ValueError, RunError) as error:
        name = f"{study}/{folder.name}: its sampled texts are left out, because"
        warnings.append(f"{name} {records.SAMPLES} cannot be read: {_one_line(error, folder)}")
        return []


def _one_line(error: Exception, folder: Path) -> str:
    """The message without pydantic's pages and without the absolute path (reports are shared)."""
    text = " ".join(str(error).split()).replace(f"{folder}{os.sep}", "").replace(str(folder), folder.name)
    return text if len(text) <= 200 else text[:197] + "..."


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _config_columns(configs: list[dict[str, Any]], searched: list[str]) -> list[str]:
    """Columns that vary, are searched or always matter, in the order of the configuration."""
    configs = [dict(placeless(config)) for config in configs]
    order = dict.fromkeys(name for config in configs for name in config)
    columns = []
    for name in order:
        values = {repr(config[name]) for config in configs if name in config}
        if len(values) > 1 or name in CONFIG_ALWAYS or name in searched:
            columns.append(name)
    return columns
