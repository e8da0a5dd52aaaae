"""docs/cluster.md, executed: PostgreSQL and MLflow's server are real, the scheduler is the tests' own."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.suites import doc_folders, doc_runs, fake_slurm, postgres, warm
from tests.suites.doc_pages import ROOT
from tests.suites.doc_reader import Reader
from tests.suites.study_launch import FAKE
from tests.suites.waiting import wait_for

PAGE = "docs/cluster.md"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def addresses(server: postgres.Server, folder: Path) -> dict[str, str]:
    """What the page's names stand for. SLURM's study has a database of its own, and its runs train nothing: what
    is new there is how its workers come to be."""
    port, host = free_port(), f"{postgres.HOST}:{server.port}"
    shared = f"--home {folder / 'shared'} --storage {server.new_database('slurm')}"
    return {
        "--host 0.0.0.0 --port 5000": f"--host 127.0.0.1 --port {port} --workers 1",
        "SERVER:5000": f"127.0.0.1:{port}",
        "calm@localhost": f"calm@{host}",
        "calm@SERVER": f"calm@{host}",
        "/srv/mlartifacts": str(folder / "artifacts"),
        "--preset cpu --trials 40": "--preset quick --name joint-cpu --trials 1",
        "calm doctor": "calm doctor || true",
        "--preset cpu --launcher slurm": f"--preset cpu --trials 1 --execute {FAKE} --launcher slurm",
        "--home /shared/runs --storage postgresql://calm@SERVER/calm": shared,
        "calm study status NAME": f"calm study status joint-cpu {shared}",
        "calm study stop NAME": f"calm study stop joint-cpu {shared}",
        "calm study run NAME": f"calm study run joint-cpu --execute {FAKE} {shared}",
        "NAME": "joint-cpu",
    }


@pytest.mark.slow
@postgres.NEEDED
def test_the_page_does_what_it_says(
    tmp_path: Path, server: postgres.Server, checkout: warm.Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkout"
    doc_folders.prepare(folder)
    where = postgres.programs()
    assert where is not None
    for name in ("CALM_HOME", "CALM_STORAGE", "CALM_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    scheduler = fake_slurm.install(tmp_path / "slurm")
    programs = [str(tmp_path / "slurm" / "bin"), checkout.variables["PATH"], str(where)]
    quick = {"FAKE_KILL_WAIT": "6", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    login = {"PGHOST": postgres.HOST, "PGPORT": str(server.port), "PGUSER": "calm"}
    variables = {**checkout.variables, **scheduler, **quick, **login, "PATH": os.pathsep.join(programs)}
    reader = Reader(folder, variables, {PAGE: addresses(server, folder)}, begun=None)
    jobs = tmp_path / "slurm" / "jobs"
    try:
        reader.read(ROOT / PAGE)
        left = set(doc_runs.commands(ROOT / PAGE)) - reader.executed - reader.listed
        assert not left, f"neither executed nor in NOT_RUN: {left}"
        states = [path / "state" for path in jobs.iterdir()]
        wait_for(lambda: all(path.read_text() in fake_slurm.GONE for path in states))
        assert len(states) == 2, "the first one, and that which was submitted after the stop"
    finally:
        subprocess.run(["scancel", *(path.name for path in jobs.iterdir())], env={**os.environ, **variables})
