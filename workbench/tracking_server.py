"""MLflow's own server and pages on this machine's loopback address, for the database of one home."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workbench.errors import TrackingError
from workbench.home import Home
from workbench.tracking_database import follow_home

HOST = "127.0.0.1"
START_SECONDS = 120.0
"""A loaded machine takes long; a server that dies is noticed at once."""


@contextmanager
def serve(home: Home, port: int = 5000) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start the server and wait until it answers; gives its address and process, and ends it and all its
    children on leaving.

    Raises TrackingError where there is no database yet, the port is taken or the server does not start."""
    database = home.mlflow_database
    if not database.exists():
        raise TrackingError(
            f"nothing to show yet: {database} does not exist; run a study (calm study run joint) or a training "
            "first, or fill it from existing run folders with calm sync"
        )
    _check_port(port)
    follow_home(home)
    home.cache.mkdir(parents=True, exist_ok=True)
    log = home.cache / "mlflow-server.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            _command(home, port),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            cwd=home.root,
            start_new_session=True,  # one signal reaches the server and its workers, and Ctrl-C only us
        )
    try:
        url = f"http://{HOST}:{port}"
        _wait(process, url, log)
        yield url, process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """End the process and everything it started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.send_signal(sign)
            _, family = psutil.wait_procs(family, timeout=patience)
            if not family:
                break
    process.wait(timeout=patience)


def _command(home: Home, port: int) -> list[str]:
    where = ["--backend-store-uri", home.mlflow_uri, "--artifacts-destination", home.artifacts.as_uri()]
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
        *where,
    ]


def _environment() -> dict[str, str]:
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return {**os.environ, **quiet}


def _check_port(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TrackingError(
                f"port {port} of {HOST} cannot be used ({reason}); choose another: "
                f"calm ui --port {port + 1 if port < 65535 else 5001}"
            ) from None


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        time.sleep(0.2)
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
    raise TrackingError(f"the MLflow server did not start at {url}: {tail[0][:300]} (all of it: {log})")
