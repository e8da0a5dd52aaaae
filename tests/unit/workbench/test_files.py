"""Files appear whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from workbench import files
from workbench.errors import OutputError


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

    def test_others_may_read_it(self, tmp_path: Path) -> None:
        files.write_atomic(tmp_path / "file", "x")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644

    def test_a_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot write"):
            files.write_atomic(tmp_path / "file" / "below", "x")


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


class TestBuildOnce:
    def test_builds_what_is_missing_only(self, tmp_path: Path) -> None:
        built: list[Path] = []

        def build(folder: Path) -> None:
            built.append(folder)
            (folder / "x").write_text("1")

        for _ in range(2):
            assert files.build_once(tmp_path / "made", build) == tmp_path / "made"
        assert len(built) == 1
        assert built[0] != tmp_path / "made", "built elsewhere, then renamed"
        assert names(tmp_path / "made") == ["x"]

    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        def build(folder: Path) -> None:
            (folder / "x").write_text("half")
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            files.build_once(tmp_path / "made", build)
        assert [n for n in names(tmp_path) if not n.endswith(".lock")] == []

    def test_two_processes_build_once(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_build_slowly, args=(str(tmp_path), i)) for i in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert len((tmp_path / "log").read_text().split()) == 1
        assert len(list((tmp_path / "made").iterdir())) == 1


def _build_slowly(root: str, number: int) -> None:
    def build(folder: Path) -> None:
        with open(Path(root) / "log", "a") as log:
            log.write(f"{number}\n")
        (folder / str(number)).write_text("")
        time.sleep(0.5)

    files.build_once(Path(root) / "made", build)
