"""Nobody reads what a command prints any more, or its encoding is an old one: the work goes on."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies import plan, prepare
from tests.suites.study_launch import FAKE, create, tiny_spec
from tests.suites.tiny_runs import tree, write_text
from workbench import interruption, records
from workbench.cli.output import LastingOutput

CALM = [sys.executable, "-m", "workbench.cli"]


def training(folder: Path) -> list[str]:
    (folder / "config.yaml").write_text(yaml.safe_dump(tree(write_text(folder / "text.txt"))))
    return [*CALM, "train", str(folder / "config.yaml"), "--home", str(folder / "runs"), "--tracking-uri", "none"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", **more}


def the_run(folder: Path) -> records.RunRecord:
    (run_dir,) = records.find_runs(folder / "runs")
    return records.read_record(run_dir)


class Gone(io.StringIO):
    """Takes some writes, and then fails with ``error`` at each."""

    def __init__(self, writes: int, error: Exception) -> None:
        super().__init__()
        self.writes, self.error = writes, error

    def write(self, text: str) -> int:
        self.writes -= 1
        if self.writes < 0:
            raise self.error
        return super().write(text)


class TestStream:
    @pytest.mark.parametrize(
        "error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.EIO, "Input/output error"),
                  OSError(errno.ENOSPC, "No space left on device"), ValueError("I/O operation on closed file")]
    )  # fmt: skip
    def test_that_has_gone_is_said_once(self, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
        stream = Gone(1, error)
        output = LastingOutput(stream)
        assert [output.write(text) for text in ("first", "second", "third")] == [5, 6, 5]
        output.flush()
        assert output.gone
        assert stream.getvalue() == "first"
        said = capsys.readouterr().err
        assert said.count("nobody reads the output any more") == 1
        assert str(error) in said

    def test_that_is_slow_is_not_gone(self, capsys: pytest.CaptureFixture[str]) -> None:
        stream = Gone(0, BlockingIOError(errno.EAGAIN, "again"))
        output = LastingOutput(stream)
        assert output.write("lost") == 4
        stream.writes = 1
        output.write("kept")
        assert (stream.getvalue(), output.gone, capsys.readouterr().err) == ("kept", False, "")

    def test_standard_error_that_has_gone_is_not_written_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = Gone(0, BrokenPipeError())
        monkeypatch.setattr(sys, "stderr", stream)
        LastingOutput(stream).write("lost")
        assert stream.writes == -1

    def test_of_an_old_encoding(self) -> None:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="latin-1")
        output = LastingOutput(stream)
        output.write("é … K\u202f=\u202f4\n")
        output.flush()
        assert raw.getvalue() == b"\xe9 ? K?=?4\n"

    def test_is_otherwise_the_stream(self) -> None:
        with io.TextIOWrapper(io.BytesIO(), encoding="latin-1") as stream:
            assert (LastingOutput(stream).encoding, LastingOutput(stream).isatty()) == ("latin-1", False)


@pytest.mark.slow
class TestTraining:
    def test_to_a_reader_that_goes(self, tmp_path: Path) -> None:
        """As ``| head -1`` does."""
        process = subprocess.Popen(
            training(tmp_path), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert the_run(tmp_path).status == "completed"
        assert said.count("nobody reads the output any more") == 1
        assert "Traceback" not in said

    def test_to_an_old_encoding(self, tmp_path: Path) -> None:
        done = subprocess.run(
            training(tmp_path), env=environment(PYTHONIOENCODING="ascii"), capture_output=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
        assert the_run(tmp_path).status == "completed"


@pytest.mark.slow
def test_a_study_goes_on(tmp_path: Path) -> None:
    launch = create(tmp_path, tiny_spec(baselines={}, checks={}, trials=2))
    prepare.write_study_file(launch, "none")
    command = ["study", "run", "tiny-quick", "--home", str(tmp_path), "--workers", "1"]
    more = ["--tracking-uri", "none", "--execute", FAKE]
    process = subprocess.Popen(
        [*CALM, *command, *more], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    assert said.count("nobody reads the output any more") == 1


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_nohup_is_obeyed(handler: Any) -> None:
    """A hangup that is to be ignored stays so."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with interruption.listening():
            assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) == (handler == signal.SIG_IGN)
            if handler == signal.SIG_DFL:
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGHUP)
            else:
                signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)
