"""Which workers of a launch are there, also those that wait: a small file each, in the launch's folder.

Files of killed workers of this machine are removed when somebody looks; of those elsewhere nobody can tell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench import files, processes
from workbench.errors import OutputError

WORKERS = ".workers"
LAUNCHER = "launcher"
"""Index of a launcher, which is there before its workers are."""


@contextmanager
def present(folder: Path, worker: dict[str, Any]) -> Iterator[None]:
    """Be seen while the block lasts. It is no reason to fail where it cannot be written."""
    path = folder / WORKERS / f"{worker['host']}-{worker['pid']}.json"
    with contextlib.suppress(OutputError):
        files.write_json(path, worker)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def workers(folder: Path) -> list[dict[str, Any]]:
    """Those that live or may live; ``alive`` is True, or None where it cannot be seen from here."""
    found = []
    for path in sorted((folder / WORKERS).glob("*.json")):
        try:
            worker = dict(files.read_json(path))
            alive, gone = processes.is_alive(worker), processes.gone(worker)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if gone:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        else:
            found.append({**worker, "alive": alive})
    return found
