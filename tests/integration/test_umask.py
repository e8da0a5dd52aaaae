"""Who may read and write what commands leave is the umask's to say."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suites.released_weights import settings, write_folders
from workbench.home import open_home
from workbench.released.bring import Released, import_released
from workbench.released.export import export_released


@pytest.fixture(params=[0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.slow
def test_import_and_export(tmp_path: Path, umask: int) -> None:
    place = tmp_path / "place"
    place.mkdir()
    given = write_folders(tmp_path)
    released = Released(given.autoencoder, given.language_model)
    import_released(released, place / "run", home=open_home(place / "home"), overrides=settings(tmp_path))
    export_released(place / "run", place / "few", shard_bytes=20_000)
    export_released(place / "run", place / "one")
    assert len(list(place.rglob("*.safetensors"))) > 6
    for path in place.rglob("*"):
        usual = 0o777 if path.is_dir() else 0o666
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(usual & ~umask), path
