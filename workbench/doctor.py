"""Whether this machine, its disk, databases and servers are fit for runs, and what to do where not.

Each check has a time limit and fails alone. Nothing that is there is changed; small temporary files are written to
see that writing works. Imports no torch before it is asked for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from workbench import doctor_disk, doctor_home, doctor_machine, doctor_services
from workbench.checks import Check, Examination, Outcome, run_all
from workbench.home import Home, home_as_it_is

SECONDS = 10.0
"""All checks together."""
StorageChecks = Callable[[str | None, Home], Iterable[Check]]


def examine(
    home: Path | str = "runs",
    *,
    storage: str | None = None,
    tracking_uri: str | None = None,
    corpora: Sequence[str] = (),
    storage_checks: StorageChecks | None = None,
    seconds: float = SECONDS,
) -> list[Check]:
    """Every check. ``corpora``: names as in ``data.corpus``, by default the bundled ones. ``storage_checks``: of
    the studies' database (``studies.doctor.storage_checks``), which needs Optuna."""
    return run_all(
        examinations(
            home_as_it_is(home),
            storage=storage,
            tracking_uri=tracking_uri,
            corpora=corpora,
            storage_checks=storage_checks,
        ),
        seconds=seconds,
    )


def examinations(
    home: Home,
    *,
    storage: str | None = None,
    tracking_uri: str | None = None,
    corpora: Sequence[str] = (),
    storage_checks: StorageChecks | None = None,
) -> list[Examination]:
    """What ``examine`` makes, in its order: what is quick and decides most comes first."""
    temporary = Path(tempfile.gettempdir())
    disk = partial(doctor_disk.disk_checks, holds_database=True)
    made = [
        _one("packages", "versions", doctor_machine.version_checks),
        _one("machine", "cores and memory", doctor_machine.machine_checks),
        _one("disk", "home", lambda: disk(home.root, "home")),
        _one("disk", "temporary", lambda: doctor_disk.disk_checks(temporary, "temporary", holds_database=False)),
        _one("torch", "torch", doctor_machine.torch_checks, seconds=6.0, late="warning"),
        _one("tracking", "server", lambda: doctor_services.tracking_checks(tracking_uri, home), seconds=7.0),
        _one("code", "git", doctor_machine.git_checks),
        _one("home", "runs", lambda: doctor_home.home_checks(home)),
    ]
    if storage_checks is not None:
        made.insert(5, _one("database", "studies", lambda: storage_checks(storage, home), seconds=6.0))
    names = doctor_home.corpora_wanted(corpora)
    made += [_one("corpora", n, partial(doctor_home.corpus_check, n), seconds=6.0, late="warning") for n in names]
    return made


def _one(
    topic: str, name: str, make: Callable[[], Iterable[Check]], seconds: float = 4.0, late: Outcome = "failed"
) -> Examination:
    return Examination(topic, name, make, seconds, late)
