"""A PostgreSQL server of the tests' own: its data in a temporary folder, on a free port of the loopback address.

Its programs are looked for on the PATH and where Debian puts them. As root, who must not run it, it belongs to the
user ``postgres``, whom Debian's package makes.
"""

from __future__ import annotations

import glob
import os
import shlex
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HOST = "127.0.0.1"


def programs() -> Path | None:
    """Folder of ``initdb`` and ``pg_ctl``; None where PostgreSQL is not installed."""
    for folder in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True):
        if (Path(folder) / "initdb").exists():
            return Path(folder)
    found = shutil.which("initdb")
    return Path(os.path.realpath(found)).parent if found else None


def required_programs() -> Path:
    found = programs()
    assert found is not None, "CALM_REQUIRE_POSTGRES is set, PostgreSQL is not installed; apt install postgresql"
    return found


NEEDED = pytest.mark.skipif(
    programs() is None and not os.environ.get("CALM_REQUIRE_POSTGRES"),
    reason="PostgreSQL is not installed (Debian: apt install postgresql)",
)
"""Where CALM_REQUIRE_POSTGRES is set, its absence is a failure."""


@dataclass
class Server:
    """A cluster that was made; ``start`` it."""

    folder: Path
    port: int

    @classmethod
    def create(cls, folder: Path) -> Server:
        required_programs()
        folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        server = cls(folder, port)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server.run(
            "initdb", "--pgdata", str(folder / "data"), "--auth", "trust", "--username", "calm", "--no-sync"
        )
        return server

    def run(self, program: str, *arguments: str) -> None:
        where = required_programs()
        command = [str(where / program), *arguments]
        if os.geteuid() == 0:
            command = ["su", "postgres", "-s", "/bin/sh", "-c", shlex.join(command)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def control(self, action: str, *arguments: str) -> None:
        options = f"-p {self.port} -h {HOST} -k {self.folder} -c fsync=off"
        data, log = str(self.folder / "data"), str(self.folder / "log")
        self.run("pg_ctl", action, "--pgdata", data, "--wait", *arguments, "--log", log, "--options", options)

    def start(self) -> None:
        self.control("start")

    def stop(self) -> None:
        """As a crash does: connections end in the middle."""
        data = str(self.folder / "data")
        self.run("pg_ctl", "stop", "--pgdata", data, "--wait", "--mode", "immediate")

    def new_database(self, name: str) -> str:
        """Its URL."""
        self.run("createdb", "--host", HOST, "--port", str(self.port), "--username", "calm", name)
        return f"postgresql://calm@{HOST}:{self.port}/{name}"
