"""Entries of the cache: made once, whole or not at all, checked before use, made anew where they are damaged."""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.suites.cache_entries import CONTENT, build, refuse
from tests.suites.processes import apart, killed_at_random, small_disk
from workbench import cache, files
from workbench.errors import OutputError


def whole(folder: Path) -> bool:
    return (folder / "a.bin").read_bytes() == CONTENT and (folder / "deeper" / "b.txt").read_text() == "b"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return cache.build_once(tmp_path / "made", build)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed; files that have just changed count as settled."""
    found: list[str] = []
    real = files.sha256

    def sha256(path: Path) -> str:
        found.append(path.name)
        return real(path)

    monkeypatch.setattr(files, "sha256", sha256)
    monkeypatch.setattr(cache, "_SETTLED", -(10**18))
    return found


class TestMaking:
    def test_what_is_missing_only(self, tmp_path: Path) -> None:
        built: list[Path] = []

        def logged(folder: Path) -> None:
            built.append(folder)
            build(folder)

        for _ in range(2):
            assert cache.build_once(tmp_path / "made", logged) == tmp_path / "made"
        assert len(built) == 1
        assert built[0] != tmp_path / "made", "built elsewhere, then renamed"
        assert names(tmp_path / "made") == ["a.bin", "deeper", "manifest.json"]
        manifest = files.read_json(tmp_path / "made" / "manifest.json")
        assert (manifest["format"], manifest["name"]) == (1, "made")
        assert manifest["files"]["a.bin"]["size"] == 500
        assert list(manifest["files"]) == ["a.bin", "deeper/b.txt"]

    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        def fail(folder: Path) -> None:
            build(folder)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            cache.build_once(tmp_path / "made", fail)
        assert names(tmp_path) == [".made.lock"]

    def test_everything_is_on_disk_before_it_has_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        happened = []
        real_sync, real_replace = os.fsync, os.replace

        def sync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            happened.append(path.name if path == tmp_path or not path.name.startswith(".") else "temporary")
            real_sync(descriptor)

        def replace(source: Path, target: Path) -> None:
            happened.append(f"rename {Path(target).name}")
            real_replace(source, target)

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "replace", replace)
        cache.build_once(tmp_path / "made", build)
        renamed = happened.index("rename made")
        assert {"a.bin", "b.txt", "deeper", "temporary", "rename manifest.json"} <= set(happened[:renamed])
        assert happened[renamed + 1 :] == [tmp_path.name]

    def test_what_killed_processes_have_left_is_removed(self, tmp_path: Path) -> None:
        for name in (".made.x1y2z3_4", ".made.partial", ".made.damaged", ".other.x1y2z3_4"):
            (tmp_path / name).mkdir()
        (tmp_path / "..made.verified.x1y2z3_4.new").touch()
        cache.build_once(tmp_path / "made", build)
        assert names(tmp_path) == [".made.damaged", ".made.lock", ".made.partial", ".other.x1y2z3_4", "made"]

    def test_several_processes_make_it_once(self, tmp_path: Path) -> None:
        waits = [apart(_build_slowly, tmp_path, number, wait=False) for number in range(3)]
        assert [wait() for wait in waits] == [""] * 3
        assert len((tmp_path / "log").read_text().split()) == 1
        assert whole(tmp_path / "made")

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        with small_disk(300):
            said = apart(cache.build_once, tmp_path / "made", build)
        assert "OutputError: cannot write" in said
        assert "then the same command continues" in said
        assert names(tmp_path) == [".made.lock"]

    def test_an_error_in_writing_without_a_number(self, tmp_path: Path) -> None:
        def fail(_: Path) -> None:
            raise OSError("1000 requested and 300 written")

        with pytest.raises(OutputError, match=r"cannot write .*made: 1000 requested and 300 written"):
            cache.build_once(tmp_path / "made", fail)
        assert names(tmp_path) == [".made.lock"]

    def test_an_error_that_is_not_the_disks_is_left_alone(self, tmp_path: Path) -> None:
        def fail(_: Path) -> None:
            (tmp_path / "nowhere").read_bytes()

        with pytest.raises(FileNotFoundError):
            cache.build_once(tmp_path / "made", fail)

    @pytest.mark.slow
    def test_killed_at_any_moment_an_entry_is_whole_or_not_there(self, tmp_path: Path) -> None:
        rng = random.Random(2)
        for _ in range(5):
            killed_at_random(_build_forever, tmp_path, rng=rng)
            for folder in tmp_path.glob("[!.]*"):
                assert whole(folder)
                assert cache.build_once(folder, refuse) == folder
        for folder in {tmp_path / path.name.split(".")[1] for path in tmp_path.glob(".*")}:
            cache.build_once(folder, build)
        assert {name.rsplit(".", 1)[-1] for name in names(tmp_path) if name.startswith(".")} <= {
            "lock",
            "verified",
        }


def _cut(entry: Path) -> None:
    os.truncate(entry / "a.bin", 499)


def _flip(entry: Path) -> None:
    found = os.stat(entry / "a.bin")
    (entry / "a.bin").write_bytes(b"X" + CONTENT[1:])
    os.utime(entry / "a.bin", ns=(found.st_atime_ns, found.st_mtime_ns))  # as if nothing had happened


def _link(entry: Path) -> None:
    shutil.copy(entry / "a.bin", entry.parent / "elsewhere")
    (entry / "a.bin").unlink()
    (entry / "a.bin").symlink_to(entry.parent / "elsewhere")


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(entry: Path) -> None:
        manifest = files.read_json(entry / "manifest.json")
        change(manifest)
        files.write_json(entry / "manifest.json", manifest)

    return apply


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (_cut, "a.bin has 499 bytes, written were 500"),
    "flip": (_flip, "a.bin was altered"),
    "missing": (lambda entry: (entry / "a.bin").unlink(), "a.bin is missing"),
    "deeper": (lambda entry: (entry / "deeper" / "b.txt").write_text("c"), "deeper/b.txt was altered"),
    "more": (lambda entry: (entry / "c").write_text("c"), "c does not belong to it"),
    "link": (_link, "a.bin is not a plain file"),
    "no manifest": (lambda entry: (entry / "manifest.json").unlink(), "it has no manifest.json"),
    "empty manifest": (lambda entry: (entry / "manifest.json").write_text(""), "its manifest.json is damaged"),
    "bytes": (lambda entry: (entry / "manifest.json").write_bytes(b"\0\xff"), "its manifest.json is damaged"),
    "list": (
        lambda entry: (entry / "manifest.json").write_text("[]"),
        "it is of format None, this version reads 1",
    ),
    "format": (_manifest(lambda m: m.update(format=2)), "it is of format 2, this version reads 1"),
    "name": (_manifest(lambda m: m.update(name="other")), "it was made as 'other'"),
    "files": (_manifest(lambda m: m.update(files=[])), "no list of files"),
    "no sum": (_manifest(lambda m: m["files"]["a.bin"].pop("sha256")), "no list of files"),
    "unlisted": (_manifest(lambda m: m["files"].pop("a.bin")), "a.bin does not belong to it"),
    "above": (_manifest(lambda m: m["files"].update({"../x": m["files"]["a.bin"]})), "../x is missing"),
    "a file": (lambda entry: (shutil.rmtree(entry), entry.write_text("x")), "it is not a folder"),
}


class TestDamage:
    @pytest.mark.parametrize("remembered", [False, True])
    @pytest.mark.parametrize("kind", list(DAMAGES))
    def test_is_refused_with_the_reason_and_made_anew(
        self,
        entry: Path,
        kind: str,
        remembered: bool,
        hashed: list[str],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        if remembered:  # as sound
            time.sleep(0.02)  # the clock of a file system ticks every 10 ms
            assert cache.sound(entry)
            assert cache._is_verified(entry)
        damage, reason = DAMAGES[kind]
        damage(entry)
        assert not cache.sound(entry)
        with caplog.at_level(logging.WARNING):
            cache.build_once(entry, build)
        assert whole(entry)
        assert f"{entry} is not used: " in caplog.text
        assert reason in caplog.text
        assert "it is set aside as .made.damaged and made anew" in caplog.text
        assert (entry.parent / ".made.damaged").exists()
        assert cache.build_once(entry, refuse) == entry

    def test_any_byte_of_the_manifest(self, entry: Path, hashed: list[str]) -> None:
        content = (entry / "manifest.json").read_bytes()
        refused = 0
        for place in range(len(content)):
            if content[place : place + 1].isspace():
                continue
            altered = bytearray(content)
            altered[place] ^= 1 << place % 7
            (entry / "manifest.json").write_bytes(altered)
            assert not cache.sound(entry), place
            refused += 1
        assert refused > 200

    def test_only_the_last_one_refused_is_kept(self, entry: Path) -> None:
        for content in (b"first", b"second"):
            (entry / "a.bin").write_bytes(content)
            cache.build_once(entry, build)
        assert (entry.parent / ".made.damaged" / "a.bin").read_bytes() == b"second"

    def test_an_entry_under_another_name(self, entry: Path, caplog: pytest.LogCaptureFixture) -> None:
        shutil.copytree(entry, entry.parent / "other")
        with caplog.at_level(logging.WARNING):
            cache.build_once(entry.parent / "other", build)
        assert "it was made as 'made'" in caplog.text

    def test_a_copy_from_another_machine_is_used(self, entry: Path, tmp_path: Path) -> None:
        shutil.copytree(entry, tmp_path / "elsewhere" / "made")
        assert cache.build_once(tmp_path / "elsewhere" / "made", refuse) == tmp_path / "elsewhere" / "made"

    def test_several_processes_that_notice_make_it_anew_once(self, tmp_path: Path) -> None:
        cache.build_once(tmp_path / "made", build)
        _flip(tmp_path / "made")
        waits = [apart(_build_slowly, tmp_path, number, wait=False) for number in range(3)]
        assert [wait() for wait in waits] == [""] * 3
        assert len((tmp_path / "log").read_text().split()) == 1
        assert whole(tmp_path / "made")

    def test_who_has_it_mapped_keeps_what_was_there(self, entry: Path) -> None:
        mapped = np.memmap(entry / "a.bin", dtype=np.uint8, mode="r")
        (entry / "deeper" / "b.txt").write_text("damaged")
        for _ in range(2):  # set aside, then removed from there
            cache.build_once(entry, build)
            assert bytes(mapped) == CONTENT
            (entry / "deeper" / "b.txt").write_text("damaged")

    def test_a_cache_that_may_only_be_read_is_used(self, entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OutputError("read-only")

        monkeypatch.setattr(os, "access", lambda *_: False)
        monkeypatch.setattr(files, "locked", fail)
        monkeypatch.setattr(files, "write_atomic", fail)
        assert cache.build_once(entry, refuse) == entry
        _flip(entry)
        assert not cache.sound(entry)

    def test_no_right_to_set_it_aside(self, entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _cut(entry)

        def fail(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match=r"cannot write .*\.made\.damaged: permission denied"):
            cache.build_once(entry, build)


class TestRemembering:
    def test_a_file_is_hashed_once_for_every_state(self, entry: Path, hashed: list[str]) -> None:
        for _ in range(3):
            cache.build_once(entry, refuse)
        assert sorted(hashed) == ["a.bin", "b.txt"]
        os.utime(entry / "a.bin")
        for _ in range(2):
            cache.build_once(entry, refuse)
        assert sorted(hashed) == ["a.bin", "a.bin", "b.txt"]

    def test_files_that_have_just_changed_are_not_remembered(self, entry: Path) -> None:
        """They could change again within a tick of the clock."""
        assert cache.sound(entry)
        assert not cache._is_verified(entry)

    @pytest.mark.parametrize("text", ["", "[]", "null", '{"a.bin": 3}', '{"a.bin": [500]}', "\0"])
    def test_a_damaged_memory_is_no_trust(self, entry: Path, text: str, hashed: list[str]) -> None:
        (entry.parent / ".made.verified").write_text(text)
        _flip(entry)
        assert not cache.sound(entry)

    def test_another_state_or_sum_in_memory_is_no_trust(self, entry: Path, hashed: list[str]) -> None:
        assert cache.sound(entry)
        memory = entry.parent / ".made.verified"
        known = files.read_json(memory)
        for place in range(5):
            altered = {name: list(state) for name, state in known.items()}
            altered["a.bin"][place] = "0" if place == 4 else altered["a.bin"][place] + 1
            files.write_json(memory, altered)
            hashed.clear()
            assert cache.sound(entry)
            assert hashed == ["a.bin"]

    def test_it_may_fail(self, entry: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OutputError("no room")

        monkeypatch.setattr(files, "write_atomic", fail)
        assert cache.build_once(entry, refuse) == entry


def _build_slowly(root: Path, number: int) -> None:
    def slowly(folder: Path) -> None:
        with open(root / "log", "a") as log:
            log.write(f"{number}\n")
        build(folder)
        time.sleep(0.3)

    cache.cached(root / "made", slowly, lambda folder: (folder / "a.bin").read_bytes())


def _build_forever(root: Path, acknowledge: Any) -> None:
    number = len(names(root))
    while True:
        cache.build_once(root / f"e{number}", build)
        number += 1
        acknowledge(number)
