"""Studies: questions that several runs answer together, launched with one command under Optuna.

Adding a study is adding a file to this folder: a module that defines ``STUDY`` (a ``studies.spec.Study``)
is found by its name, with its presets in the module itself or in ``presets/<name>.yaml``. Only this
package imports Optuna.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studies.spec import Study

_DEFINES_STUDY = re.compile(r"^STUDY\b\s*[:=]", re.MULTILINE)


def find_studies(folder: Path | None = None, package: str = "studies") -> dict[str, Study]:
    """Every study in ``folder`` (default: here) by its name.

    Only modules whose text defines ``STUDY`` are imported, so that listing the studies does not load
    Optuna. The name of a study is that of its file."""
    folder = folder or Path(__file__).parent
    found: dict[str, Study] = {}
    for path in sorted(folder.glob("*.py")):
        if _DEFINES_STUDY.search(path.read_text(encoding="utf-8")):
            study = importlib.import_module(f"{package}.{path.stem}").STUDY
            assert study.name == path.stem, f"{path.name} defines a study called {study.name}"
            found[study.name] = study
    return found
