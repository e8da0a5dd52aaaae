"""Which of several trained runs is better: the paired comparison behind ``calm compare``.

Runs are compared by what their folders hold (the last evaluation), or scored anew alike. Runs that differ in
nothing but their seed are one *setting*; other seeds of a run's setting are looked for beside it, since without
them nothing is known about the noise of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench import records
from workbench.config import content_hash
from workbench.config_file import flatten, stored_config
from workbench.errors import ConfigError, RunError
from workbench.home import Home
from workbench.pairs import Pair, align, compare_all
from workbench.positions import POSITIONS, PositionScores, read_positions
from workbench.records import Brier
from workbench.seeds import SeedNoise, SettingDifference, seed_noise, seeds_needed, setting_difference
from workbench.uncertainty import geometric_mean, summarise

NOT_A_SETTING = ("name", "seed", "runtime.", "eval.")
"""What runs of one setting may differ in: the noise of training, the machine, how they were scored."""
_TOKENIZER_PLACE = ("data.tokenizer.name", "data.tokenizer.revision")
"""Says nothing of two tokenizers whose files are the same by their sha256."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Compared:
    """One run as it enters the comparison."""

    name: str
    run_dir: Path
    setting: str
    """Hash of its configuration without the seed."""
    seed: int
    config: dict[str, Any]
    """Flat, dotted names."""
    status: str
    progress: str
    """``step 120 of 300``."""
    scores: PositionScores
    brier: Brier
    """At the windows that all runs have."""


@dataclass(frozen=True)
class SettingPair:
    """Two settings with the seeds found of each."""

    first: str
    second: str
    difference: SettingDifference
    seeds_needed: int | None
    """Seeds of each that would show a true difference of the measured size (or of the wished one) with a chance of
    80 %; None where seeds alone would not, or training noise is unknown."""
    positions_limit: bool
    """Whether it is the text, not the seeds, that hides the difference."""


@dataclass(frozen=True)
class Comparison:
    runs: list[Compared]
    """Best first."""
    pairs: list[Pair]
    """Of the runs: these trained models, at these positions."""
    noise: SeedNoise | None
    settings: dict[str, list[str]]
    """Setting (named by its first run) to the runs that are its seeds, siblings included."""
    setting_pairs: list[SettingPair]
    differences: list[tuple[str, list[str]]]
    """(dotted name, its value in each run) where configurations differ."""
    num_windows: int
    fingerprint: str
    notes: list[str] = field(default_factory=list)


def compare_runs(
    run_dirs: Sequence[Path],
    home: Home,
    *,
    overrides: Mapping[str, Any] | None = None,
    wished: float | None = None,
    with_seeds: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two or more runs at the same positions.

    ``overrides``: ``eval.*`` with which all are scored anew (a saved scoring with the same rules is used again);
    without, the last evaluation of each. ``wished``: a difference in BrierLM points for which the seeds needed are
    counted, instead of the measured one. ``with_seeds``: also read finished runs beside each that differ from
    it in the seed only.

    Raises RunError where evaluation fingerprints differ or a run was not evaluated, and ConfigError for overrides
    of anything but ``eval.*``."""
    folders = list(dict.fromkeys(Path(path).resolve() for path in run_dirs))
    if len(folders) < 2:
        raise RunError(f"two or more different runs are wanted, {len(folders)} given; `calm compare RUN RUN`")
    names = _names(folders)
    score = _scorer(home, overrides, progress)
    runs = [_read(folder, name, score) for folder, name in zip(folders, names, strict=True)]
    shared = align([run.scores for run in runs], names)
    summaries = {
        run.name: summarise(values, shared.clusters) for run, values in zip(runs, shared.values, strict=True)
    }
    runs = [replace(run, brier=summaries[run.name]) for run in runs]
    runs.sort(key=lambda run: (-run.brier.brierlm, -run.brier.score))
    notes = [
        f"{run.name} is {run.status.replace('_', ' ')}: scored at {run.progress}"
        for run in runs
        if run.status != "completed"
    ]
    settings = _settings(runs, score, notes) if with_seeds else _grouped(runs)
    noise, pairs, limited = _setting_pairs(settings, wished, notes)
    return Comparison(
        runs=runs,
        pairs=compare_all({run.name: run.scores for run in runs}),
        noise=noise,
        settings={members[0].name: [run.name for run in members] for members in settings},
        setting_pairs=pairs,
        differences=_differences(runs),
        num_windows=min(len(shared.starts), limited),
        fingerprint=runs[0].scores.fingerprint,
        notes=notes,
    )


# ---- reading ------------------------------------------------------------------------------------------


Scorer = Callable[[Path], PositionScores]


def _scorer(home: Home, overrides: Mapping[str, Any] | None, progress: Progress | None) -> Scorer:
    if not overrides:
        return lambda run_dir: read_positions(run_dir / POSITIONS)
    foreign = [name for name in overrides if not name.startswith("eval.")]
    if foreign:
        raise ConfigError(f"calm compare scores runs anew with eval.* only, {foreign[0]} given")

    def score(run_dir: Path) -> PositionScores:
        from workbench.rescore import rescore

        if progress is not None:
            progress(run_dir.name)
        return rescore(run_dir, home, overrides, reuse=True).positions

    return score


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of the runs' folders, with the parent's where two are alike."""
    plain = [folder.name for folder in folders]
    return [
        name if plain.count(name) == 1 else f"{folder.parent.name}/{name}"
        for folder, name in zip(folders, plain, strict=True)
    ]


def _read(run_dir: Path, name: str, score: Scorer) -> Compared:
    record, tree = records.read_record(run_dir), _tree(run_dir)
    scores = score(run_dir)
    flat = flatten(tree)
    if tree["model"].get("kind") == "baseline":
        flat = {key: value for key, value in flat.items() if not key.startswith("autoencoder.")}
    kept = {key: value for key, value in flat.items() if not key.startswith(NOT_A_SETTING)}
    return Compared(
        name=name,
        run_dir=run_dir,
        setting=content_hash(kept),
        seed=int(tree.get("seed", 0)),
        config=flat,
        status=record.status,
        progress=f"step {scores.step} of {record.num_steps}",
        scores=scores,
        brier=summarise(scores.values, scores.clusters, rounds=scores.rounds),
    )


def _tree(run_dir: Path) -> dict[str, Any]:
    return stored_config(run_dir / records.CONFIG).to_dict()


def _differences(runs: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    # how each was scored in training is left out: here they are scored alike
    names = dict.fromkeys(name for run in runs for name in run.config if not name.startswith("eval."))
    sums = {run.config.get("data.tokenizer.sha256") for run in runs}
    for name in ("name", *(_TOKENIZER_PLACE if len(sums) == 1 and None not in sums else ())):
        names.pop(name, None)
    rows = [(name, [_shown(run.config.get(name)) for run in runs]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---- seeds --------------------------------------------------------------------------------------------


def _grouped(runs: Sequence[Compared]) -> list[list[Compared]]:
    """Runs of one setting together, in order of first appearance."""
    groups: dict[str, list[Compared]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    return list(groups.values())


def _settings(runs: Sequence[Compared], score: Scorer, notes: list[str]) -> list[list[Compared]]:
    """The runs' settings with the other seeds that lie beside them and are comparable."""
    groups = _grouped(runs)
    known = {run.run_dir for run in runs}
    for group in groups:
        added = []
        for folder in sorted(group[0].run_dir.parent.iterdir()):
            if folder.resolve() in known or not (folder / records.RECORD).exists():
                continue
            sibling = _sibling(folder, group[0], score)
            if sibling is not None and sibling.seed not in {run.seed for run in group}:
                group.append(sibling)
                added.append(sibling.name)
        if added:
            notes.append(f"other seeds of {group[0].name} found beside it: {', '.join(added)}")
    return groups


def _sibling(folder: Path, run: Compared, score: Scorer) -> Compared | None:
    """The run in ``folder`` if it is another seed of the same setting, finished, and scored alike."""
    try:
        if records.read_record(folder).status != "completed":
            return None
        flat = flatten(_tree(folder))
        alike = all(
            flat.get(key) == value for key, value in run.config.items() if not key.startswith(NOT_A_SETTING)
        )
        if not alike or flat.get("seed") == run.seed:
            return None
        found = _read(folder, folder.name, score)
    except RunError:  # damaged, or of an older version: no reason to refuse the comparison
        return None
    same = found.setting == run.setting and found.scores.fingerprint == run.scores.fingerprint
    return found if same else None


def _setting_pairs(
    settings: Sequence[Sequence[Compared]], wished: float | None, notes: list[str]
) -> tuple[SeedNoise | None, list[SettingPair], int]:
    """Noise over all settings, every pair of them, and the windows that all their runs share."""
    everyone = [run for members in settings for run in members]
    shared = align([run.scores for run in everyone], [run.name for run in everyone])
    values = dict(zip((run.name for run in everyone), shared.values, strict=True))
    arrays: list[list[npt.NDArray[np.float32]]] = [[values[run.name] for run in members] for members in settings]
    noise = seed_noise(arrays, shared.clusters)
    if noise is None:
        notes.append(
            "training noise is unknown: no setting with a BrierLM above 0 was trained with another seed (`calm "
            "train CONFIG --seeds 3`), so the verdicts are about these trained models, not about their settings"
        )
    elif len(settings) > 1:
        notes.append("the noise between seeds is taken to be the same for all settings")
    if noise is not None and noise.dof < 3:
        notes.append(f"training noise rests on {noise.dof} degree(s) of freedom and is rough")
    order = sorted(range(len(settings)), key=lambda i: -_mean_score(arrays[i]))
    chosen = [(i, j) for a, i in enumerate(order) for j in order[a + 1 :]]
    pairs = []
    for i, j in chosen:
        found = setting_difference(arrays[i], arrays[j], shared.clusters, noise, comparisons=len(chosen))
        target = abs(wished if wished is not None else found.value)
        seeds = seeds_needed(noise, target, position_sd=found.position_sd) if noise and target > 0 else None
        limit = noise is not None and target > 0 and seeds is None
        pairs.append(SettingPair(settings[i][0].name, settings[j][0].name, found, seeds, limit))
    return noise, pairs, len(shared.starts)


def _mean_score(seeds: Sequence[npt.NDArray[np.float32]]) -> float:
    return float(np.mean([geometric_mean(values.astype(np.float64).mean((0, 1))) for values in seeds]))
