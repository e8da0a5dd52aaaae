"""Runs found again by what people call them. Imports no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from workbench import records
from workbench.errors import RunError
from workbench.home import Home


def find_run(name: str, home: Home, *, other_than: Path | None = None) -> Path:
    """A run's folder from its id, STUDY/ID or name below ``home``, or from its path; never ``other_than``. What
    begins with ``./`` is a path from the current folder, whatever the home has.

    Raises RunError where there is none or several, as where ``--seeds`` made several of the name."""
    apart = other_than.resolve() if other_than is not None else None
    below = [] if name.startswith(("./", "../")) else [home.root / name, home.single_runs() / name]
    for direct in [*below, Path(name)]:
        if os.path.exists(direct / records.RECORD) and direct.resolve() != apart:  # False for a name too long, too
            return direct
    known = [path for path in records.find_runs(home.root) if path.resolve() != apart]
    names = {path: _name(path) for path in known}
    matches = [path for path in known if name in (path.name, names[path])]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = _listed([str(path) for path in matches])
        raise RunError(f"{name!r} names {len(matches)} runs ({listed}); give STUDY/RUN or the folder")
    of_seeds = [other for other in names.values() if other and re.fullmatch(rf"{re.escape(name)} s\d+", other)]
    if of_seeds:
        runs = "1 run" if len(of_seeds) == 1 else f"{len(of_seeds)} runs"
        raise RunError(f"{name!r} is {runs}: {_listed([repr(other) for other in of_seeds])}; name one")
    latest = ", ".join(path.name for path in known[-5:])
    hint = f"latest: {latest}" if known else f"there are no runs under {home.root} yet"
    if damaged := [str(path) for path, known_as in names.items() if known_as is None]:
        hint += f"; not to be read, so that its name is not known: {_listed(damaged)}"
    raise RunError(f"no run {name!r}; {hint}")


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join([*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])])


def _name(run_dir: Path) -> str | None:
    try:
        return records.read_record(run_dir).name
    except RunError:  # a damaged record of another run is no reason to refuse this one
        return None
