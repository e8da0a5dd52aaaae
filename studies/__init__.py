"""Studies: questions that several runs answer together, launched with one command under Optuna.

Adding a study is adding a file to this folder: a module that defines ``STUDY`` (a ``studies.spec.Study``)
is found by its name, with its presets in the module itself or in ``presets/<name>.yaml``. Only this
package imports Optuna.
"""

from __future__ import annotations

import importlib
import logging
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studies.spec import Study

logger = logging.getLogger(__name__)
_DEFINES_STUDY = re.compile(r"^STUDY\b\s*[:=]", re.MULTILINE)
_MAKES_STUDY = re.compile(r"^(?:\w+\s*(?::[^=\n]*)?=\s*)?(?:\w+\.)*Study\(", re.MULTILINE)
"""What a study under another name begins with; the package's other modules make none."""


def find_studies(folder: Path | None = None, package: str = "studies") -> dict[str, Study]:
    """Every study in ``folder`` (default: here) by its name.

    Only modules whose text defines ``STUDY`` are imported, so that listing the studies does not load
    Optuna. The name of a study is that of its file. One that cannot be imported, or is not called ``STUDY``, is
    left out, with a warning."""
    folder = folder or Path(__file__).parent
    found: dict[str, Study] = {}
    for path in sorted(folder.glob("*.py")):
        try:
            text = path.read_text(encoding="utf-8")
            if _DEFINES_STUDY.search(text):
                study = importlib.import_module(f"{package}.{path.stem}").STUDY
                if study.name != path.stem:
                    raise ValueError(f"its study is called {study.name!r}, which must be the file's name")
                found[study.name] = study
            elif _MAKES_STUDY.search(text):
                logger.warning("%s, so it is left out", _without_name(path))
        except Exception as error:  # somebody's own code
            why = f"{type(error).__name__}: {error}"
            logger.warning("the study in %s is left out: %s%s", path, why, _line_of(error, path))
    return found


def why_none(name: str, folder: Path | None = None) -> str:
    """What a file of that name lacks to be a study, with a colon before it; empty where there is no such file, or
    it makes no study."""
    path = (folder or Path(__file__).parent) / f"{name}.py"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    nameless = _MAKES_STUDY.search(text) and not _DEFINES_STUDY.search(text)
    return f": {_without_name(path)}" if nameless else ""


def _without_name(path: Path) -> str:
    return f"{path.parent.name}/{path.name} defines no STUDY (STUDY = Study(name={path.stem!r}, ...) is wanted)"


def _line_of(error: BaseException, path: Path) -> str:
    """Where in the file it was raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    number = lines[-1] if lines else getattr(error, "lineno", None)
    return f" (line {number})" if number else ""
