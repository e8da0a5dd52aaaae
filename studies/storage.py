"""The Optuna side of a launch: its two Optuna studies, its frozen specification, samplers and pruners.

A launch ``joint-quick`` has two Optuna studies in one storage: ``joint-quick`` (the search) and
``joint-quick/cells`` (token baselines and sensitivity checks, one parameter ``cell``). The database itself is in
``studies.database``; what happens to trials whose worker is gone, in ``studies.recovery``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from studies.claim import Claim, claim
from studies.database import PatientStorage
from studies.pins import ATTRIBUTE, Pin
from studies.search_spec import PrunerSpec, SamplerSpec
from studies.spec import StudySpec, from_stored, numbered
from workbench import files
from workbench.home import Home


@dataclass(frozen=True)
class Launch:
    """A launched study as every part sees it."""

    home: Home
    url: str
    spec: StudySpec
    search: optuna.Study
    cells: optuna.Study

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def named(self) -> str:
        """In a command: with its home where that is needed."""
        return self.home.named(self.name)

    @property
    def folder(self) -> Path:
        return self.home.study(self.name)

    def claim(self) -> Claim:
        """Held from counting the trials until the new one is signed for and its parameters are stored, so that
        workers never start more trials than wanted, wherever they are."""
        return claim(self.url, self.name)


def load(name: str, storage: PatientStorage) -> tuple[optuna.Study, optuna.Study] | None:
    """The Optuna studies of a launch; None where the storage has none of that name."""
    try:
        search = optuna.load_study(study_name=name, storage=storage)
        if "spec" not in search.user_attrs:
            return None
        cells = optuna.load_study(
            study_name=cells_name(name), storage=storage, sampler=optuna.samplers.RandomSampler(seed=0)
        )
    except KeyError:
        return None
    return search, cells


def create(
    spec: StudySpec, storage: PatientStorage, pins: Sequence[Pin] = ()
) -> tuple[optuna.Study, optuna.Study]:
    """Create both Optuna studies, the specification in them (with what is pinned in it) and the starting points
    queued.

    The specification is written last: a study without it is an unfinished creation and is completed."""
    search = optuna.create_study(study_name=spec.name, storage=storage, direction="maximize", load_if_exists=True)
    optuna.create_study(
        study_name=cells_name(spec.name), storage=storage, direction="maximize", load_if_exists=True
    )
    _enqueue_start(search, spec)
    if pins:
        search.set_user_attr(ATTRIBUTE, [list(one) for one in pins])
    store_spec(search, spec)
    loaded = load(spec.name, storage)
    assert loaded is not None
    return loaded


def _enqueue_start(search: optuna.Study, spec: StudySpec) -> None:
    """What is not queued of the starting points, each as often as it stands there."""
    there = [trial.system_attrs.get("fixed_params") for trial in search.get_trials(deepcopy=False)]
    for setting in map(dict, spec.start[: spec.trials]):
        if setting in there:
            there.remove(setting)
        else:
            search.enqueue_trial(setting)


def cells_name(name: str) -> str:
    return f"{name}/cells"


def store_spec(search: optuna.Study, spec: StudySpec) -> None:
    search.set_user_attr("spec", json.dumps(numbered(spec)))


def stored_spec(search: optuna.Study) -> StudySpec:
    """Raises StudyError for that of a newer version, or a damaged one."""
    return from_stored(json.loads(search.user_attrs["spec"]), f"the specification of {search.study_name}")


def make_sampler(sampler: SamplerSpec, trial_number: int) -> optuna.samplers.BaseSampler:
    """The sampler that draws trial ``trial_number``.

    Its seed depends on the trial and not on the worker, so that a resumed worker does not draw again
    what it drew before, and one worker gives the same sequence interrupted or not."""
    seed = int(np.random.SeedSequence([sampler.seed, trial_number]).generate_state(1)[0])
    if sampler.kind != "tpe":  # of a grid every setting is queued from the start
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=sampler.startup_trials)


def make_pruner(pruner: PrunerSpec) -> optuna.pruners.BasePruner:
    if pruner.kind == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.PercentilePruner(
        pruner.keep_percent,
        n_startup_trials=pruner.startup_trials,
        n_warmup_steps=pruner.warmup_evaluations,
        n_min_trials=pruner.startup_trials,
    )


def cell_of(trial: FrozenTrial) -> str:
    """The cell of a trial in the cells study, also before it has started."""
    return str(trial.params.get("cell") or trial.system_attrs.get("fixed_params", {}).get("cell", ""))


@contextmanager
def run_folder_lock(folder: Path, run_id: str) -> Iterator[None]:
    """One process at a time in a run folder: a worker that was declared dead but lives (a suspended
    machine) finishes first, and its successor then finds the finished run."""
    with files.locked(folder / ".locks" / f"{run_id}.lock"):
        yield
