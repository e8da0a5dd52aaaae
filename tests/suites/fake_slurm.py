"""A SLURM of one machine: sbatch, srun, squeue, scancel and scontrol, to be put first in the PATH.

Each job of an array is a process that runs the submitted script, again after a requeue. Signals reach what srun
started, as SLURM's do; a cancelled job is killed KILL_WAIT seconds after SIGTERM. Options are kept as they were
given, for tests to look at, and not obeyed. Time limits do not end a job: ``scancel --signal=USR2 JOB`` is what
SLURM does ahead of one.

The state lies in the folder FAKE_SLURM: ``jobs/NUMBER`` with ``state``, ``pid`` of the task and ``host``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = "FAKE_SLURM"
PROGRAMS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
KILL_WAIT = 30.0
GONE = ("COMPLETED", "FAILED", "CANCELLED")


def install(folder: Path) -> dict[str, str]:
    """The programs in ``folder``; gives the environment in which they are found first."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name in PROGRAMS:
        path = programs / name
        command = shlex.join([sys.executable, "-S", os.path.abspath(__file__), name])
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="ascii")
        path.chmod(0o755)
    (folder / "jobs").mkdir()
    return {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", STATE: str(folder)}


def _jobs() -> Path:
    return Path(os.environ[STATE]) / "jobs"


def _set(job: str, name: str, value: object) -> None:
    folder = _jobs() / job
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{name}-{os.getpid()}"
    temporary.write_text(str(value), encoding="utf-8")
    temporary.rename(folder / name)


def _get(job: str, name: str) -> str:
    try:
        return (_jobs() / job / name).read_text(encoding="utf-8")
    except OSError:
        return ""


def _matching(given: str) -> list[str]:
    """A job, or all of an array."""
    known = sorted(path.name for path in _jobs().iterdir() if path.is_dir())
    return [job for job in known if job == given or job.partition("_")[0] == given]


def sbatch(arguments: list[str]) -> int:
    script = Path(arguments[-1])
    lines = script.read_text(encoding="utf-8").splitlines()
    options = [shlex.split(line.removeprefix("#SBATCH --"))[0] for line in lines if line.startswith("#SBATCH --")]
    given = {name: value for name, _, value in (option.partition("=") for option in options)}
    if given.get("partition") == "nowhere":
        print("sbatch: error: invalid partition specified: nowhere", file=sys.stderr)
        return 1
    number = str(1001 + len({path.name.partition("_")[0] for path in _jobs().iterdir()}))
    last = re.match(r"0-(\d+)", given.get("array", ""))
    jobs = [f"{number}_{task}" for task in range(int(last[1]) + 1)] if last else [number]
    text = "\n".join(lines)
    for job in jobs:
        _set(job, "options", json.dumps(given))
        _set(job, "state", "PENDING")
        if os.fork() == 0:
            _detach(job)
            _live(job, text)
            os._exit(0)
    print(f"Submitted batch job {number}")
    return 0


def _detach(job: str) -> None:
    os.setsid()
    log = os.open(_jobs() / job / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)


def _live(job: str, text: str) -> None:
    """Run the script, and again after each requeue."""
    number, _, task = job.partition("_")
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    environment |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "FAKE_SLURM_JOB": job}
    if task:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task}
    while True:
        _set(job, "state", "RUNNING")
        code = subprocess.run(["bash", "-c", text], env=environment, check=False).returncode
        if _get(job, "requeue"):
            (_jobs() / job / "requeue").unlink()
            _set(job, "requeued", int(_get(job, "requeued") or 0) + 1)
            continue
        cancelled = _get(job, "state") == "CANCELLING"
        _set(job, "state", "CANCELLED" if cancelled else "FAILED" if code else "COMPLETED")
        return


def srun(arguments: list[str]) -> int:
    job = os.environ["FAKE_SLURM_JOB"]
    number, _, task = job.partition("_")
    files = {}
    while arguments and arguments[0].startswith("--"):
        option = arguments.pop(0)
        if option in ("--output", "--error"):
            path = arguments.pop(0).replace("%A", number).replace("%a", task).replace("%j", job).replace("%t", "0")
            files[option] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for option, target in (("--output", 1), ("--error", 2)):
        if option in files:
            os.dup2(files[option], target)
    _set(job, "pid", os.getpid())
    os.execvp(arguments[0], arguments)


def squeue(arguments: list[str]) -> int:
    (wanted,) = (a.partition("=")[2] for a in arguments if a.startswith("--jobs="))
    for given in wanted.split(","):
        for job in _matching(given):
            state = _get(job, "state")
            if state and state not in GONE:
                running = state == "RUNNING"
                print(f"{job}|{state}|{'fake1' if running else ''}|{'None' if running else 'Priority'}")
    return 0


def _signal(job: str, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, ValueError):
        os.kill(int(_get(job, "pid")), number)


def _end(job: str) -> None:
    """SIGTERM, then SIGKILL, in a process of its own."""
    if os.fork() == 0:
        _detach(job)
        _signal(job, signal.SIGTERM)
        end = time.monotonic() + float(os.environ.get("FAKE_KILL_WAIT", KILL_WAIT))
        while time.monotonic() < end and _get(job, "state") not in GONE:
            time.sleep(0.1)
        if _get(job, "state") not in GONE:
            _signal(job, signal.SIGKILL)
        os._exit(0)


def scancel(arguments: list[str]) -> int:
    name = next((a.partition("=")[2] for a in arguments if a.startswith("--signal=")), None)
    for given in (a for a in arguments if not a.startswith("--")):
        for job in _matching(given):
            if name:
                _signal(job, getattr(signal, f"SIG{name}"))
            else:
                _set(job, "state", "CANCELLING")
                _end(job)
    return 0


def scontrol(arguments: list[str]) -> int:
    """requeue JOB: SLURM ends what runs, and starts the job again."""
    assert arguments[0] == "requeue"
    for job in _matching(arguments[1]):
        _set(job, "requeue", "yes")
    return 0


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](sys.argv[2:]))
