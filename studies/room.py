"""Room on the disk that a study needs: all its runs, counted before anything is launched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from studies.space import baseline_config, setting_config, settings
from studies.spec import StudySpec
from workbench.home import Home
from workbench.room import Need, cached_bytes, require_room, runs_need

CACHED = ("data.", "autoencoder.", "model.chunk_size", "train.cache_targets")
"""Parameters that decide about what lies in the cache."""


def study_need(spec: StudySpec, *, workers: int = 1, cache: Path | None = None) -> Need:
    """Of the trials that complete (those that are pruned or fail come on top), the baselines and the checks, with
    every seed. Which settings a search will try is not known: each counts alike. A text that ``cache`` has is not
    counted."""
    tried = [setting_config(spec, setting).resolved() for setting in settings(spec)]
    cells = [baseline_config(spec, name).resolved() for name in spec.baselines]
    baselines = runs_need(cells, times=spec.seeds, at_once=workers, cache=cache)
    if not tried:
        return baselines
    num_runs = (spec.trials + len(spec.check_names)) * spec.seeds
    each = runs_need(tried, at_once=workers, cache=cache)
    share = num_runs / len(tried)
    cached = min(1.0, share) if any(name.startswith(CACHED) for name in spec.space) else 1.0
    search = replace(
        each,
        kept=round(share * each.kept),
        cache=round(cached * each.cache),
        num_files=round(share * each.num_files),
        bound=round(cached * each.bound),
    )
    return Need(
        kept=search.kept + baselines.kept,
        working=max(search.working, baselines.working),
        cache=search.cache,  # baselines read the same texts
        num_files=search.num_files + baselines.num_files,
        unknown=tuple(dict.fromkeys((*search.unknown, *baselines.unknown))),
        bound=search.bound,
        bounded=search.bounded,
    )


def require_room_for_study(spec: StudySpec, home: Home, *, workers: int | None) -> None:
    """Before anything of a new launch is written. What lies in the caches counts as its own.

    Raises OutputError where it will not fit."""
    need = study_need(spec, workers=workers or 1, cache=home.cache)
    require_room(home.study(spec.name), need, f"the study {spec.name}", there=cached_bytes(need, home.cache))
