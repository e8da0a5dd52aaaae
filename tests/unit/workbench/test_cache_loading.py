"""Entries of the cache that are whole, and cannot be loaded."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tests.suites.cache_entries import CONTENT, build, refuse
from workbench import cache, files
from workbench.errors import RunError


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return cache.build_once(tmp_path / "made", build)


class TestLoading:
    def test_what_is_whole_but_another_s_is_refused_too(
        self, entry: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        manifest = files.read_json(entry / "manifest.json")
        (entry / "a.bin").write_bytes(b"another's")
        manifest["files"]["a.bin"] = {"size": 9, "sha256": files.sha256(entry / "a.bin")}
        files.write_json(entry / "manifest.json", manifest)

        def load(folder: Path) -> bytes:
            content = (folder / "a.bin").read_bytes()
            if content != CONTENT:
                raise RunError(f"it holds {content!r}")
            return content

        with caplog.at_level(logging.WARNING):
            assert cache.cached(entry, build, load) == CONTENT
        assert 'is not used: it holds b"another\'s"; it is set aside' in caplog.text
        assert cache.cached(entry, refuse, load) == CONTENT

    def test_what_cannot_be_loaded_even_when_new_is_an_error(self, tmp_path: Path) -> None:
        def load(_: Path) -> None:
            raise RunError("never")

        with pytest.raises(RunError, match="never"):
            cache.cached(tmp_path / "made", build, load)

    def test_one_that_vanishes_before_it_is_loaded(self, entry: Path) -> None:
        """Another process has set it aside, and is about to make it anew."""
        tries = []

        def load(folder: Path) -> bytes:
            if not tries:
                shutil.rmtree(folder)
            tries.append(folder)
            return (folder / "a.bin").read_bytes()

        assert cache.cached(entry, build, load) == CONTENT
        assert len(tries) == 3
