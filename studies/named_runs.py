"""What names of runs that trainings start from (``train.init_from``) stood for when a study was launched.

A name may belong to several runs a day later, while the launch is frozen and goes on. So the specification holds a
table of names as they are asked for to the runs' places below the home, ``single/ID`` or ``STUDY/ID``, which hold
in a home that was moved and on other hosts. A path to a run elsewhere stays as it was given. Imports no Optuna.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from workbench.config import RunConfig
from workbench.errors import RunError
from workbench.home import Home
from workbench.run_names import find_run

Runs = dict[str, str]


def with_run(config: RunConfig, runs: Runs) -> RunConfig:
    """With the place of the run that it starts from, where the table has it. Pure."""
    named = config.train.init_from
    if named is None or named not in runs:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"init_from": runs[named]})})


def find_places(configs: Iterable[RunConfig], home: Home) -> Runs:
    """The table for these configurations. A run that is not there, or one of several of its name, is not in it
    (``studies.beginnings`` refuses it)."""
    return {
        named: place
        for named in dict.fromkeys(config.train.init_from for config in configs)
        if named is not None and (place := _place(named, home)) not in (None, named)
    }


def _place(named: str, home: Home) -> str | None:
    try:
        found = Path(os.path.abspath(find_run(named, home)))  # a link to another disk is a place of the home
    except RunError:
        return None
    return str(found.relative_to(home.root)) if found.is_relative_to(home.root) else None
