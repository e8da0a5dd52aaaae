"""``calm`` without its start: commands run in forks of a process that has imported everything, each with an
environment, a folder and files of its own, so that they behave as fresh processes do.

    with warm.started(folder, code=ROOT) as variables:   # puts ``calm`` and ``python`` into folder
        subprocess.run(["bash", "-c", "calm doctor | tail -1"], env=os.environ | variables)

Importing torch, MLflow and the rest takes a processor four seconds; most commands of a page take less than one.
The workers of a study and the ranks of a training are forked by the process that starts them, which stays their
parent.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from tests.suites import pictures

SOCKET = "TESTS_WARM"
DRAWS = "TESTS_WARM_DRAWS"
"""A variable of a command's environment: without it pictures are blank. Drawing takes three quarters of the time
of a report and of a small training."""
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys
asked = {{"words": [{name!r}, *sys.argv[1:]], "folder": os.getcwd(), "environment": dict(os.environ)}}
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ[{variable!r}])
said = json.dumps(asked).encode()
server.sendmsg([b"%10d" % len(said)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(said)
pid = int(server.recv(20))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = server.recv(20)
sys.exit(int(code) if code else 1)
"""
"""Stands for a program: passes its words, folder, environment and files on, and signals while it runs."""


@dataclass(frozen=True)
class Checkout:
    """The packages, and the environment in which commands run them."""

    code: Path
    variables: dict[str, str]


@contextlib.contextmanager
def started(folder: Path, code: Path) -> Iterator[dict[str, str]]:
    """The process, and in ``folder`` the programs; gives the environment in which they are found and work.
    ``code``: what holds our packages."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name in ("calm", "python"):
        client = CLIENT.format(python=sys.executable, name=name, variable=SOCKET)
        (programs / name).write_text(client, encoding="utf-8")
        (programs / name).chmod(0o755)
    address = str(folder / "socket")
    paths = os.pathsep.join([str(code), str(Path(__file__).resolve().parents[2])])
    known = {**os.environ, "PYTHONPATH": paths, "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen([sys.executable, "-m", "tests.suites.warm", address], env=known, cwd=code)
    try:
        deadline = time.monotonic() + 120
        while not Path(address).exists():
            assert process.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it does not start"
            time.sleep(0.05)
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        yield {SOCKET: address, "PATH": path, "PYTHONPATH": paths, "PYTHON_EXEC": str(programs / "python")}
    finally:
        process.kill()
        process.wait()


# ---- the process itself ----------------------------------------------------------------------------------


def serve(address: str) -> None:
    """Fork for every command that is asked for, until killed."""
    _import_everything()
    signal.signal(signal.SIGCHLD, _reap)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{address}.new")
        listening.listen(64)
        os.rename(f"{address}.new", address)
        while True:
            asked, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(asked)
            asked.close()


def _reap(*_: object) -> None:
    """What has ended leaves nothing behind but its time."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _import_everything() -> None:
    import datasets
    import matplotlib.pyplot
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store
    import pandas
    import torch._dynamo
    import torch.distributed
    import torch.utils.flop_counter

    import analysis.api
    import analysis.downstream
    import analysis.report
    import studies.launch
    import studies.worker
    import workbench.api
    import workbench.cli
    import workbench.runner
    import workbench.tracking_mlflow

    assert all((datasets, matplotlib, mlflow, pandas, torch, analysis, studies, workbench))
    studies.crew.subprocess = workbench.rank_place.subprocess = _FORKING  # type: ignore[assignment, attr-defined]


def _answer(asked: socket.socket) -> None:
    """Run what is asked for in this process, with the files that came along; never returns."""
    length, ancillary, _, _ = asked.recvmsg(10, socket.CMSG_SPACE(12))
    files = array.array("i", ancillary[0][2])
    said = b""
    while len(said) < int(length):
        said += asked.recv(2**20)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    wanted = json.loads(said)
    asked.sendall(b"%20d" % os.getpid())
    name, *words = wanted["words"]
    code = 1
    try:
        os.chdir(wanted["folder"])
        code = _run(_program(name, words), words, wanted["environment"])
    finally:
        with contextlib.suppress(OSError):
            asked.sendall(b"%20d" % code)
        os._exit(code)


def _program(name: str, words: list[str]) -> Callable[[], object]:
    """``python`` takes a module or a text."""
    import studies.worker
    from workbench.cli import main

    if name == "calm" or words[:2] == ["-m", "workbench.cli"]:
        del words[: 0 if name == "calm" else 2]
        return main
    if words[:2] == ["-m", "studies.worker"]:
        del words[:2]
        return lambda: sys.exit(studies.worker.main(words))
    if words[0] == "-u":  # torchrun asks for it
        del words[0]
        return _program(name, words)
    flag, what = words[:2]
    del words[:2]
    if flag == "-m":
        return lambda: runpy.run_module(what, run_name="__main__", alter_sys=True)
    assert flag == "-c", flag
    return lambda: exec(compile(what, "<text>", "exec"), {"__name__": "__main__"})


def _run(program: Callable[[], object], words: Sequence[str], environment: dict[str, str]) -> int:
    """Its exit code, after what is left to do at the end of a process."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["calm", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if DRAWS not in environment:
        pictures.leave_blank()
    code: Any = 0
    try:
        program()
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        traceback.print_exc()
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


class Forked:
    """As ``subprocess.Popen`` of one of our programs, of this process."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: dict[str, str],
        stdin: int | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
        start_new_session: bool = False,
        pass_fds: Sequence[int] = (),  # a fork has them all
    ) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                atexit._clear()  # what this process has to do at its end
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
                if start_new_session:
                    os.setsid()
                for file, number in ((stdout, 1), (stderr, 2)):
                    if file is not None:
                        os.dup2(file.fileno(), number)
                words = list(command[1:])
                code = _run(_program("python", words), words, env)
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (1e9 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_FORKING = SimpleNamespace(
    Popen=Forked,
    DEVNULL=subprocess.DEVNULL,
    STDOUT=subprocess.STDOUT,
    TimeoutExpired=subprocess.TimeoutExpired,
    SubprocessError=subprocess.SubprocessError,
)


if __name__ == "__main__":
    serve(sys.argv[1])
