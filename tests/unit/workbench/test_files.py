"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tests.suites.processes import apart, killed_at_random, small_disk
from workbench import files
from workbench.errors import OutputError, RunError


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


class TestWriteAtomic:
    @pytest.mark.parametrize("content", ["Ä text\n", b"\x00\xff", ""])
    def test_writes_and_replaces(self, tmp_path: Path, content: str | bytes) -> None:
        path = tmp_path / "new" / "file"
        files.write_atomic(path, "old and longer than what follows")
        files.write_atomic(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
        assert names(path.parent) == ["file"]

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    def test_a_failure_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        files.write_atomic(path, "old")

        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(os, "replace", fail)
        wanted = OutputError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(wanted):
            files.write_atomic(path, "new")
        assert path.read_text() == "old"
        assert names(tmp_path) == ["file"]

    def test_a_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot write"):
            files.write_atomic(tmp_path / "file" / "below", "x")

    def test_content_is_on_disk_before_the_name_and_the_name_before_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        happened = []
        real_sync, real_replace = os.fsync, os.replace

        def sync(descriptor: int) -> None:
            happened.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            real_sync(descriptor)

        def replace(source: str, target: Path) -> None:
            happened.append("rename")
            real_replace(source, target)

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "replace", replace)
        files.write_atomic(tmp_path / "file", "x")
        assert happened == ["file", "rename", "folder"]
        happened.clear()
        files.write_atomic(tmp_path / "new" / "deeper" / "file", "x")
        assert happened == ["folder", "folder", "file", "rename", "folder"], "new folders, too"

    @pytest.mark.parametrize(
        ("number", "wanted"),
        [
            (errno.ENOSPC, "no room left on its disk; free some, then the same command continues"),
            (errno.EDQUOT, "the quota is used up, no room left; free some, then the same command continues"),
            (errno.EROFS, "its file system is read-only; choose another folder"),
            (errno.EACCES, "permission denied; choose another folder, or change"),
            (errno.EIO, "the disk reports a fault; check it"),
            (errno.ENXIO, "No such device or address; choose another folder"),
        ],
    )
    def test_the_systems_error_comes_with_what_to_do(
        self, tmp_path: Path, number: int, wanted: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match=f"cannot write .*file: {wanted}"):
            files.write_atomic(tmp_path / "file", "x")
        assert names(tmp_path) == []

    def test_too_long_a_name(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="its name is too long; choose a shorter one"):
            files.write_atomic(tmp_path / ("n" * 300), "x")

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        files.write_atomic(path, "old")
        with small_disk(10_000):
            said = apart(files.write_atomic, path, "x" * 20_000)
        assert "OutputError: cannot write" in said
        assert "then the same command continues" in said
        assert path.read_text() == "old"
        assert names(tmp_path) == ["file"]


class TestWritableFolder:
    def test_makes_it(self, tmp_path: Path) -> None:
        assert files.writable_folder(tmp_path / "a" / "b").is_dir()
        assert names(tmp_path / "a" / "b") == []

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match=r"cannot write into .*file/runs: Not a directory; choose another"):
            files.writable_folder(tmp_path / "file" / "runs")


class TestJsonLines:
    def test_round_trip(self, tmp_path: Path) -> None:
        rows = [{"step": i, "loss": 0.1 * i} for i in range(3)]
        for row in rows:
            files.append_json_line(tmp_path / "m.jsonl", row)
        assert files.read_json_lines(tmp_path / "m.jsonl") == rows
        files.rewrite_json_lines(tmp_path / "m.jsonl", rows[:1])
        assert files.read_json_lines(tmp_path / "m.jsonl") == rows[:1]

    def test_a_torn_last_line_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2')
        assert files.read_json_lines(tmp_path / "m.jsonl") == [{"step": 1}]

    def test_even_one_that_is_complete_but_for_its_end(self, tmp_path: Path) -> None:
        """It may be the beginning of a longer number."""
        (tmp_path / "m.jsonl").write_text('{"step": 1}\n7')
        assert files.read_json_lines(tmp_path / "m.jsonl") == [{"step": 1}]

    def test_none(self, tmp_path: Path) -> None:
        assert files.read_json_lines(tmp_path / "m.jsonl") == []

    @pytest.mark.parametrize(
        "tail", [b"\0" * 5000, b"\0\0\n", b'{"step": 2, "text": "\xc3', b"\xff\xfe\n", b"7\n", b'{"step": 2\n']
    )
    def test_what_a_power_failure_leaves_at_the_end_is_left_out(self, tmp_path: Path, tail: bytes) -> None:
        (tmp_path / "m.jsonl").write_bytes(b'{"step": 1}\n' + tail)
        assert files.read_json_lines(tmp_path / "m.jsonl") == [{"step": 1}]

    @pytest.mark.parametrize("line", [b"\0\0\0", b'{"step": 2', b'{"step": 2{"step": 3}', b"\xff", b"[2]"])
    def test_a_damaged_line_before_others_is_named(self, tmp_path: Path, line: bytes) -> None:
        path = tmp_path / "m.jsonl"
        path.write_bytes(b'{"step": 1}\n\n' + line + b'\n{"step": 3}\n')
        with pytest.raises(
            RunError, match=r"m\.jsonl is damaged: line 3 is not a JSON object; bring the file back"
        ):
            files.read_json_lines(path)

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="cannot be read: Is a directory"):
            files.read_json_lines(tmp_path)

    def test_cut_anywhere_whole_lines_remain_and_others_follow(self, tmp_path: Path) -> None:
        path, rows = tmp_path / "m.jsonl", [{"step": 1}, {"text": "Ä" * 3}, {"step": 3}]
        for row in rows:
            files.append_json_line(path, row)
        content = path.read_bytes()
        for length in range(len(content)):
            path.write_bytes(content[:length])
            num = content[:length].count(b"\n")
            assert files.read_json_lines(path) == rows[:num]
            files.append_json_line(path, {"step": 9})
            assert path.read_bytes().startswith(content[:length][: content[:length].rfind(b"\n") + 1])
            assert files.read_json_lines(path) == [*rows[:num], {"step": 9}]

    def test_a_torn_line_longer_than_what_is_read_at_once_is_dropped(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        path.write_bytes(b'{"step": 1}\n' + b"\0" * 20_000)
        files.append_json_line(path, {"step": 2})
        assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
        path.write_bytes(b"\0" * 20_000)
        files.append_json_line(path, {"step": 2})
        assert path.read_bytes() == b'{"step": 2}\n'

    def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk takes what fits, and refuses the rest."""
        path, real = tmp_path / "m.jsonl", os.write
        files.append_json_line(path, {"step": 1})
        before, room = path.read_bytes(), 5

        def write(descriptor: int, data: bytes) -> int:
            nonlocal room
            if room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written, room = real(descriptor, data[:room]), 0
            return written

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(OutputError, match="no room left on its disk; free some, then the same command"):
                files.append_json_line(path, {"step": 2})
        assert path.read_bytes() == before
        monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
        files.append_json_line(path, {"step": 2})
        assert files.read_json_lines(path) == [{"step": 1}, {"step": 2}], "short writes are continued"

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        files.append_json_line(path, {"step": 1})
        before = path.read_bytes()
        with small_disk(1000):
            said = apart(files.append_json_line, path, {"text": "x" * 2000})
        assert "OutputError: cannot write" in said
        assert path.read_bytes() == before

    def test_lines_of_several_processes_stay_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        done = [apart(_append_many, path, number, wait=False) for number in range(4)]
        assert [wait() for wait in done] == [""] * 4
        rows = files.read_json_lines(path)
        assert sorted((row["who"], row["i"]) for row in rows) == [(w, i) for w in range(4) for i in range(100)]

    def test_a_line_under_way_is_no_torn_one(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        with path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b'{"step"')
            wait = apart(files.append_json_line, path, {"step": 2}, wait=False)
            time.sleep(0.1)
            file.write(b": 1}\n")
            fcntl.flock(file, fcntl.LOCK_UN)
        assert wait() == ""
        assert files.read_json_lines(path) == [{"step": 1}, {"step": 2}]

    def test_a_process_forked_meanwhile_keeps_nobody_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, forked = os.write, []

        def write(descriptor: int, data: bytes) -> int:
            if not forked:
                forked.append(os.fork())
                if forked[0] == 0:
                    time.sleep(60)
                    os._exit(0)
            return real(descriptor, data)

        monkeypatch.setattr(os, "write", write)
        start = time.monotonic()
        for step in (1, 2):
            files.append_json_line(tmp_path / "m.jsonl", {"step": step})
        seconds = time.monotonic() - start
        os.kill(forked[0], signal.SIGKILL)
        os.waitpid(forked[0], 0)
        assert seconds < 30
        assert files.read_json_lines(tmp_path / "m.jsonl") == [{"step": 1}, {"step": 2}]

    @pytest.mark.slow
    def test_killed_at_any_moment_no_line_is_lost_or_torn(self, tmp_path: Path) -> None:
        path, rng = tmp_path / "m.jsonl", random.Random(0)
        for _ in range(5):
            acknowledged = killed_at_random(_append_forever, path, rng=rng)
            rows = files.read_json_lines(path)
            assert [row["step"] for row in rows] == list(range(len(rows)))
            assert len(rows) >= acknowledged

    def test_some_lines_with_their_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        assert files.numbered_json_lines(path) == []
        path.write_bytes(b'{"step": 1}\n\n\0\0\0\n{"step": 7}\n')
        with pytest.raises(RunError, match="line 3 is not a JSON object"):
            files.numbered_json_lines(path, lambda row: row["step"] <= 7)
        some = files.numbered_json_lines(path, lambda row: row["step"] <= 1)
        assert some == [(1, {"step": 1})], "what follows what nobody wants may be damaged"
        path.write_bytes(b'\n{"step": 1}\n\n{"step": 7}\n')
        assert files.numbered_json_lines(path) == [(2, {"step": 1}), (4, {"step": 7})]

    def test_a_line_nested_too_deeply(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        path.write_bytes(b"[" * 100_000 + b'\n{"step": 7}\n')
        with pytest.raises(RunError, match="line 1 is not a JSON object"):
            files.read_json_lines(path)


class TestClaimed:
    def test_what_killed_processes_have_left_unfinished_is_removed(self, tmp_path: Path) -> None:
        def killed(*_: object) -> None:
            os._exit(9)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", killed)
            for name in ("record.json", "samples/text.txt"):
                assert apart(files.write_atomic, tmp_path / name, "x") == "it died"
        left = sorted(tmp_path.rglob(".*.new"))
        assert len(left) == 2
        files.write_atomic(tmp_path / "other.new", "not hidden")
        (tmp_path / ".gitignore").write_text("mine")
        for path in (*left, tmp_path / ".gitignore"):
            os.utime(path, (0, 0))
        (tmp_path / ".config.yaml.abc.new").write_text("another process is about to rename it")
        with files.claimed(tmp_path):
            assert names(tmp_path) == [".config.yaml.abc.new", ".gitignore", ".lock", "other.new", "samples"]
        assert names(tmp_path / "samples") == []


class TestSync:
    def test_files_and_their_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").write_text("x")
        (tmp_path / "b").write_text("x")
        synced = []
        real = os.fsync

        def sync(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", sync)
        files.sync(tmp_path / "a", tmp_path / "b", tmp_path / "missing", tmp_path / "no" / "folder")
        assert synced == [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path)]

    def test_only_then_a_disk_says_that_it_is_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").write_text("x")

        def fail(_: int) -> None:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match="the quota is used up"):
            files.sync(tmp_path / "a")


def test_checksum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert files.sha256(tmp_path / "a") == "f4096a131e7e6ebfa7a512b5c299e13b065df34d15624ee1202ab394cc4d7e90"


def _append_many(path: Path, who: int) -> None:
    for i in range(100):
        files.append_json_line(path, {"who": who, "i": i, "text": "x" * 3000})


def _append_forever(path: Path, acknowledge: Any) -> None:
    step = len(files.read_json_lines(path))
    while True:
        files.append_json_line(path, {"step": step, "text": "x" * 9000})
        step += 1
        acknowledge(step)
