"""``calm study`` as functions, for notebooks and scripts: ``from studies import api`` (docs/python.md).

Everything heavy is imported when a function is called. Errors that a user can mend are subclasses of
``workbench.errors.UserError``."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.launch import Result
    from studies.progress import Snapshot

__all__ = ["names", "run", "status"]

logger = logging.getLogger(__name__)


def names() -> dict[str, list[str]]:
    """The studies there are and their presets; ``calm study list``. One whose presets cannot be read is left out,
    with a warning."""
    from studies import find_studies
    from workbench.errors import StudyError

    found = {}
    for name, study in find_studies().items():
        try:
            found[name] = sorted(study.load_presets())
        except StudyError as error:
            logger.warning("%s is left out: %s", name, error)
    return found


def run(
    name: str,
    *,
    preset: str | None = None,
    launch: str | None = None,
    trials: int | None = None,
    seeds: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    storage: str | None = None,
    tracking_uri: str | None = "none",
    home: Path | str = "runs",
) -> Result:
    """Launch a study and stay until it is finished, or resume it; ``calm study run``. Its workers are processes of
    their own.

    ``name``: a study, or the name of a launch. ``preset``: default ``quick``. ``launch``: name of a new launch;
    default STUDY-PRESET. ``trials``, ``seeds``: instead of the preset's. ``workers``: processes, None: as asked
    for in the last session, or as a short probe says; ``threads``: of each. ``overrides``: dotted names of the
    shared configuration. ``storage``: URL of a database that several hosts share. ``tracking_uri``: of MLflow,
    None for a local database in ``home``, ``"none"`` for none (``calm sync`` delivers later).

    Raises StudyError for an unknown study or other settings than a launch has, ConfigError for a configuration
    that is not valid, TrackingError where a server refuses and OutputError where nothing can be written."""
    from rich.console import Console

    from studies import launch as launching
    from studies.display import Display
    from studies.prepare import Options
    from workbench.home import home_unless_refused

    options = Options(
        name=name,
        preset=preset,
        launch=launch,
        trials=trials,
        seeds=seeds,
        overrides=dict(overrides or {}),
        storage=storage,
        tracking_uri=tracking_uri,
        workers=workers,
        threads=threads,
    )
    with home_unless_refused(home) as place:
        return launching.run(options, place, Display(Console(file=io.StringIO()), name))


def status(launch: str, *, home: Path | str = "runs") -> Snapshot:
    """Trials and cells of a launch as they stand; ``calm study status``.

    Raises StudyError where there is no such launch."""
    from studies.prepare import find_launch
    from studies.progress import snapshot
    from workbench.home import home_unless_refused

    with home_unless_refused(home) as place:
        return snapshot(find_launch(place, launch))
