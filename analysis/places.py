"""Where a report goes that nobody gave a folder: to ``reports`` beside the home, which several homes may share.

Which home a report there is of stands beside it and not in it: reports on the same runs are the same, wherever the
runs lie, and tell nobody what folders are called.
"""

from __future__ import annotations

from pathlib import Path

from workbench import files

HOMES = ".homes.json"
"""Report to the name of the home folder that it is of. Earlier versions did not write it."""


def place_beside(home: Path, what: str) -> tuple[Path, str | None]:
    """The folder for the report on ``what``, and a word where it is not ``reports/WHAT`` since that is of another
    home: then it is ``reports/WHAT@HOME``, as no study can be called."""
    base = home.parent / "reports"
    usual, own = base / what, base / f"{what}@{home.name}"
    owner = _homes(base).get(what, _name(home))
    if not usual.exists() or owner == _name(home) or not (home.parent / owner).is_dir():
        return usual, None
    return own, f"{usual} is the report of the home folder {owner}, and stays; the one of {home.name} is in {own}"


def keep_owner(home: Path, folder: Path) -> None:
    """Note that the report in ``folder`` is of ``home``. Raises OutputError."""
    homes = _homes(folder.parent)
    if homes.get(folder.name) != _name(home):
        files.write_json(folder.parent / HOMES, {**homes, folder.name: _name(home)})


def _name(home: Path) -> str:
    return home.name.encode("utf-8", "backslashreplace").decode()


def _homes(base: Path) -> dict[str, str]:
    """An unreadable file counts as none."""
    try:
        return {str(what): str(home) for what, home in files.read_json(base / HOMES).items()}
    except (OSError, ValueError, AttributeError):
        return {}
