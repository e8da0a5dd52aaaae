"""Which folder a run of a study gets: one that is free, or holds the beginning of the very same run.

A database can fall back: an earlier copy of it was brought back, or a power cut took its last commits. Then trials
get numbers again that others had, and find folders of runs with other settings. Those are left as they are.
"""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path
from typing import Any

from studies import space
from studies.spec import StudySpec
from studies.texts import OF_TOKENIZER
from workbench import records
from workbench.config import RunConfig
from workbench.config_file import flatten, stored_config
from workbench.errors import RunError
from workbench.home import Home

log = logging.getLogger("studies.run_folders")


def free_run_id(folder: Path, run_id: str, spec: StudySpec, config: RunConfig) -> str:
    """``run_id``, or with the first number behind it (``t003-s0-2``) whose folder in ``folder`` holds no run of
    other settings than ``config``. Raises RunError for a configuration there that cannot be read."""
    names = itertools.chain([run_id], (f"{run_id}-{number}" for number in itertools.count(2)))
    found = next(name for name in names if not other_settings(folder / name, spec, config))
    if found != run_id:
        log.warning(
            "%s holds a run of other settings (%s): the database has fallen back to an earlier state; that "
            "folder is left as it is, this run is made in %s",
            folder / run_id,
            other_settings(folder / run_id, spec, config),
            found,
        )
    return found


def require_own(run_dir: Path, spec: StudySpec, config: RunConfig) -> RunConfig:
    """The configuration with which the run in the folder was begun. Raises RunError where it is of other settings
    than ``config``."""
    stored = stored_config(run_dir / records.CONFIG)
    if differ := _difference(spec, stored, config):
        raise RunError(
            f"{run_dir} holds a run of other settings ({differ}): the study's database has fallen back to an "
            f"earlier state, and the folder is another trial's; move it out of {run_dir.parent}, then: "
            f"calm study retry {Home(run_dir.parent.parent).named(spec.name)}"
        )
    return stored


def other_settings(run_dir: Path, spec: StudySpec, config: RunConfig) -> str:
    """How the run in the folder differs from ``config``; empty where it does not, or there is none."""
    path = run_dir / records.CONFIG
    return _difference(spec, stored_config(path), config) if path.exists() else ""


def _difference(spec: StudySpec, stored: RunConfig, config: RunConfig) -> str:
    """Only in what tells runs of one study apart: the rest is the study's, but may be of an earlier version, or
    have been chosen for the machine on which the run was begun."""
    runtime = stored.runtime
    asked = config.resolved(
        device=runtime.device,
        dtype=runtime.dtype,
        autoencoder_dtype=runtime.autoencoder_dtype,
        threads=runtime.threads or 1,
    )
    there, wanted = (flatten(one.to_dict()) for one in (stored.resolved(), asked))
    return ", ".join(
        f"{name} {there.get(name)}, asked {wanted.get(name)}"
        for name in ["seed", *space.varied(spec)]
        if not _same(name, there.get(name), wanted.get(name))
    )


def _same(name: str, there: Any, wanted: Any) -> bool:
    if name.rpartition(".")[2] in OF_TOKENIZER and _is_open(wanted):
        return True
    if isinstance(there, float) and isinstance(wanted, float):
        return math.isclose(there, wanted, rel_tol=1e-9)  # not every database gives back the last bit
    return bool(there == wanted)


def _is_open(wanted: Any) -> bool:
    """Nothing, or a branch's name: the stored configuration says which commit that was when the run began."""
    return wanted is None or (isinstance(wanted, str) and len(wanted) < 40)
