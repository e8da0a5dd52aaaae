"""Figures of one run: written whole, for what the folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suites.run_folders import make_run_folder
from workbench import records, run_plots

pytestmark = pytest.mark.draws
PNG = b"\x89PNG\r\n\x1a\n"


def drawn(folder: Path) -> set[str]:
    run_plots.draw(folder, records.read_record(folder).floors)
    files = list((folder / records.PLOTS).iterdir())
    assert all(f.read_bytes().startswith(PNG) for f in files)
    assert all(f.stat().st_size > 5_000 for f in files)  # not blank
    return {f.name for f in files}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("calm", {"training.png", "autoencoder.png"}), ("baseline", {"training.png"})],
)
def test_draws_what_the_run_has(tmp_path: Path, kind: str, wanted: set[str]) -> None:
    make_run_folder(tmp_path / "run", kind=kind)
    for old in (tmp_path / "run" / records.PLOTS).glob("*"):
        old.unlink()
    assert drawn(tmp_path / "run") == wanted


def test_a_run_stopped_before_its_first_evaluation(tmp_path: Path) -> None:
    make_run_folder(tmp_path / "run", kind="baseline")
    (tmp_path / "run" / records.EVALUATIONS).unlink()
    for old in (tmp_path / "run" / records.PLOTS).glob("*"):
        old.unlink()
    assert drawn(tmp_path / "run") == {"training.png"}
