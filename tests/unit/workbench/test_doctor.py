"""``calm doctor``: what each check finds, its limits, and the command."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from studies.doctor import storage_checks
from tests.suites.command_line import Command
from tests.suites.run_folders import make_run_folder
from tests.suites.study_launch import create, tiny_spec
from workbench import doctor, doctor_disk, doctor_home, doctor_machine, doctor_services, files
from workbench.checks import Check, Examination, run_all, worst
from workbench.home import Home
from workbench.room import Free


def by_name(checks: Iterator[Check] | list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def content(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


class TestLimits:
    def test_a_failing_check_and_a_hanging_one_do_not_stop_the_others(self) -> None:
        def hangs() -> list[Check]:
            time.sleep(3)
            return []

        def fails() -> Iterator[Check]:
            yield Check("t", "first", "ok", "fine")
            raise ValueError("no such thing\nand more")

        made = [
            Examination("t", "hangs", hangs, seconds=0.1),
            Examination("t", "fails", fails),
            Examination("t", "last", lambda: [Check("t", "last", "ok", "fine")]),
        ]
        start = time.monotonic()
        checks = by_name(run_all(made, seconds=20))
        assert time.monotonic() - start < 2
        assert (checks["hangs"].outcome, checks["hangs"].found) == ("failed", "no answer within 0 s")
        assert (checks["fails"].outcome, checks["fails"].found) == ("failed", "ValueError: no such thing")
        assert checks["first"].outcome == checks["last"].outcome == "ok"

    def test_what_there_is_no_time_for_is_a_warning(self) -> None:
        (check,) = run_all([Examination("t", "late", list)], seconds=0)
        assert check.outcome == "warning"
        (check,) = run_all([Examination("t", "slow", lambda: time.sleep(3) or [], 0.1, "warning")], seconds=9)
        assert (check.outcome, check.found) == ("warning", "no answer within 0 s")
        (check,) = run_all([Examination("t", "cut", lambda: time.sleep(3) or [], seconds=2)], seconds=0.1)
        assert check.outcome == "warning"
        assert "that were left" in check.found

    def test_worst(self) -> None:
        some = [Check("t", "n", "ok", ""), Check("t", "n", "warning", "")]
        assert worst(some) == "warning"
        assert worst([*some, Check("t", "n", "failed", "")]) == "failed"
        assert worst([]) == "ok"


class TestDisk:
    def test_a_good_folder(self, tmp_path: Path) -> None:
        checks = by_name(doctor_disk.disk_checks(tmp_path / "not" / "there", "home", holds_database=True))
        assert checks["home: locks"].outcome == "ok"
        assert "fsync" in checks["home: writing"].found
        assert list(tmp_path.iterdir()) == [], "nothing is left, and the home is not made"

    @pytest.mark.slow
    def test_no_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for size, outcome in ((10**12, "ok"), (10**9, "warning"), (10**6, "failed")):
            monkeypatch.setattr(doctor_disk, "free_room", lambda folder, size=size: Free(size, 10**6))
            checks = by_name(doctor_disk.disk_checks(tmp_path, "home", holds_database=False))
            assert checks["home: free"].outcome == outcome
        monkeypatch.setattr(doctor_disk, "free_room", lambda folder: Free(10**12, 3))
        assert by_name(doctor_disk.disk_checks(tmp_path, "home", holds_database=False))["home: free"].advice

    def test_the_kind_of_file_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mounts = "/dev/sda / ext4 rw 0 0\nserver:/x /mnt/far nfs4 rw 0 0\ntmpfs /mnt/my\\040disk tmpfs rw 0 0\n"
        assert doctor_disk.file_system(Path("/home"), mounts) == "ext4"
        assert doctor_disk.file_system(Path("/mnt/far/home"), mounts) == "nfs4"
        assert doctor_disk.file_system(Path("/mnt/farther"), mounts) == "ext4"
        assert doctor_disk.file_system(Path("/mnt/my disk/x"), mounts) == "tmpfs"
        monkeypatch.setattr(doctor_disk, "file_system", lambda place: "nfs4")
        (check,) = doctor_disk._kind(Path("/x"), "home", holds_database=True)
        assert check.outcome == "warning"
        assert "--storage postgresql" in check.advice

    def test_locks_that_do_not_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor_disk, "FileLock", lambda path: contextlib.nullcontext())
        monkeypatch.setattr(contextlib.nullcontext, "acquire", lambda self, timeout: self, raising=False)
        assert doctor_disk._locking(tmp_path, "home").outcome == "failed"

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**_: Any) -> None:
            raise OSError(30, os.strerror(30))

        monkeypatch.setattr(doctor_disk.tempfile, "TemporaryDirectory", refuse)
        check = by_name(doctor_disk._writing(tmp_path, "home"))["home: writing"]
        assert check.outcome == "failed"
        assert "Read-only file system" in check.found


class TestMachine:
    def test_versions_are_those_wanted(self) -> None:
        checks = by_name(doctor_machine.version_checks())
        assert checks["Python"].outcome == checks["dependencies"].outcome == "ok"

    def test_a_missing_and_an_old_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = doctor_machine._version
        other = {"torch": "1.0", "mlflow": None}
        monkeypatch.setattr(doctor_machine, "_version", lambda name: other.get(name, real(name)))
        check = by_name(doctor_machine.version_checks())["dependencies"]
        assert check.outcome == "failed"
        assert "mlflow is missing" in check.found
        assert "torch 1.0 (" in check.found

    @pytest.mark.parametrize(
        ("asked", "outcome"), [(None, "ok"), ("1", "ok"), ("400", "warning"), ("x", "warning")]
    )
    def test_threads(self, monkeypatch: pytest.MonkeyPatch, asked: str | None, outcome: str) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if asked:
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert doctor_machine._threads(2).outcome == outcome

    @pytest.mark.parametrize(("speedup", "words"), [(0.25, "4 times slower"), (2.0, "2 times faster")])
    def test_torch(self, monkeypatch: pytest.MonkeyPatch, speedup: float, words: str) -> None:
        monkeypatch.setattr("workbench.machine.bfloat16_speedup", lambda width, **_: speedup)
        checks = by_name(doctor_machine.torch_checks())
        assert checks["determinism"].outcome == "ok"
        chosen = "bfloat16" if speedup > 1 else "float32"
        assert checks["bfloat16"].found == f"{words} at width 128: {chosen} is chosen there"


class TestTracking:
    def test_of_the_home(self, tmp_path: Path) -> None:
        home = Home(tmp_path)
        (check,) = doctor_services.tracking_checks(None, home)
        assert check.outcome == "ok"
        path = tmp_path / "mlflow.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.commit()
        (check,) = doctor_services.tracking_checks(None, home)
        assert "whole" in check.found
        path.write_bytes(path.read_bytes()[:100] + b"x" * 4000)
        (check,) = doctor_services.tracking_checks(None, home)
        assert check.outcome == "failed"
        assert "calm sync" in check.advice

    def test_a_server_that_does_not_answer(self, tmp_path: Path) -> None:
        (check,) = doctor_services.tracking_checks("http://me:secret@127.0.0.1:9", Home(tmp_path))
        assert check.outcome == "failed"
        assert "secret" not in check.found

    @pytest.mark.parametrize(("date", "outcome"), [(None, "ok"), ("Mon, 02 Jan 2006 15:04:05 GMT", "warning")])
    def test_a_server_and_its_clock(self, tmp_path: Path, date: str | None, outcome: str) -> None:
        class Server(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"3.17.0")

            def date_time_string(self, timestamp: float | None = None) -> str:
                return date or super().date_time_string(timestamp)

            def log_message(self, *_: Any) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Server) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            uri = f"http://127.0.0.1:{server.server_port}"
            checks = by_name(doctor_services.tracking_checks(uri, Home(tmp_path)))
            server.shutdown()
        assert checks["server"].outcome == "ok"
        assert checks["server's version"].found.startswith("3.17.0")
        assert checks["against the tracking server"].outcome == outcome


class TestDatabase:
    def test_of_a_launch(self, tmp_path: Path) -> None:
        create(tmp_path, tiny_spec())
        before = content(tmp_path / "optuna.db")
        checks = by_name(storage_checks(None, Home(tmp_path)))
        assert {name: check.outcome for name, check in checks.items()} == dict.fromkeys(
            ("studies", "file", "tables", "heartbeats", "writing"), "ok"
        )
        assert content(tmp_path / "optuna.db") == before

    def test_none_yet_and_wrong_ones(self, tmp_path: Path) -> None:
        (check,) = storage_checks(None, Home(tmp_path))
        assert check.outcome == "ok"
        assert not (tmp_path / "optuna.db").exists()
        (check,) = storage_checks("redis://x", Home(tmp_path))
        assert check.outcome == "failed"
        (tmp_path / "optuna.db").write_bytes(b"no database at all" * 100)
        assert worst(list(storage_checks(None, Home(tmp_path)))) == "failed"

    def test_another_schema(self, tmp_path: Path) -> None:
        create(tmp_path, tiny_spec())
        with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as connection:
            connection.execute("UPDATE version_info SET schema_version = 1")
            connection.commit()
        check = by_name(storage_checks(None, Home(tmp_path)))["tables"]
        assert check.outcome == "failed"
        assert "upgrade" in check.advice


class TestHome:
    def test_damaged_newer_and_interrupted_runs_and_leftovers(self, tmp_path: Path) -> None:
        for name, status in (("a", "completed"), ("b", "interrupted"), ("c", "completed"), ("d", "completed")):
            make_run_folder(tmp_path / "s" / name, status=status, plots=False, num_points=2, num_windows=None)
        (tmp_path / "s" / "c" / "record.json").write_text("{")
        newer = files.read_json(tmp_path / "s" / "d" / "record.json") | {"format": 99}
        files.write_json(tmp_path / "s" / "d" / "record.json", newer)
        old = tmp_path / "s" / "a" / ".checkpoint.x1"
        old.mkdir()
        os.utime(old, (1, 1))
        (tmp_path / "s" / "b" / ".checkpoint.x2").mkdir()
        checks = by_name(doctor_home.home_checks(Home(tmp_path)))
        assert checks["runs"].found == "1 completed, 1 interrupted"
        assert checks["interrupted runs"].outcome == "warning"
        assert checks["damaged runs"].found == str(tmp_path / "s" / "c")
        assert checks["newer runs"].found == str(tmp_path / "s" / "d")
        assert str(old) in checks["leftovers"].found
        assert "x2" not in checks["leftovers"].found, "it may be in use"

    def test_a_corpus(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("some words\n" * 100)
        (check,) = doctor_home.corpus_check(f"text:{tmp_path}/a.txt")
        assert check.outcome == "ok"
        assert "1 documents, 1,100 byte tokens" in check.found
        (check,) = doctor_home.corpus_check("shakespear")
        assert check.outcome == "failed"
        assert "did you mean" in check.found


class TestCommand:
    @pytest.mark.slow
    def test_exit_codes_and_json(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.txt").write_text("some words\n" * 100)
        calm = Command(tmp_path, monkeypatch, capsys)
        monkeypatch.setattr("workbench.checks.left_behind", lambda: False)  # it would end the tests
        monkeypatch.setattr(doctor_machine, "torch_checks", list)
        done = calm("doctor", "--json", "--corpus", f"text:{tmp_path}/a.txt", "--tracking-uri", "none")
        tree = json.loads(done.out)
        failed = [check for check in tree["checks"] if check["outcome"] == "failed"]
        assert (done.code, failed) == (0, [])
        assert {check["topic"] for check in tree["checks"]} >= {"packages", "machine", "disk", "database", "code"}
        assert not (tmp_path / "runs").exists()
        done = calm("doctor", "--corpus", "no [bold]such", "--tracking-uri", "none")
        assert done.code == 1
        assert "no [bold]such" in done.out
        assert calm("doctor", "--no-such-option").code == 2

    def test_everything_is_in_it_and_within_its_time(self, tmp_path: Path) -> None:
        names = {each.topic for each in doctor.examinations(Home(tmp_path), storage_checks=storage_checks)}
        assert names == {"packages", "machine", "disk", "torch", "database", "tracking", "code", "home", "corpora"}
        assert doctor.SECONDS < 15
