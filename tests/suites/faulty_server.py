"""A real MLflow server on loopback that is killed, stopped and started again, and a proxy before it that
misbehaves; what the server holds at the end, against the run folders."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil

from tests.suites.delivered import Verdict, compare_shown
from workbench.home import Home
from workbench.tracking import open_tracker
from workbench.tracking_server import HOST, serve

LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"
LONGEST_SECONDS = 60.0
FAULTS = ("kill", "hang", "500", "503", "lost", "slow")
"""The server is killed and started again; stopped and continued; the proxy answers with an error, forwards a
request and drops the connection, answers late."""


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards to the server, as ``mode`` says."""

    daemon_threads = True

    def __init__(self, backend: int) -> None:
        super().__init__((HOST, 0), _Handler)
        self.backend = backend
        self.mode = "pass"
        self.arrived: Counter[tuple[str, str, int]] = Counter()
        """How often each point (run, key, step) was sent to the server."""
        self.lost_answers = 0
        self.disturbed = 0
        """Requests that did not go through undisturbed."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break here all the time."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode = self.server.mode if self.path != "/health" else "pass"  # it answers to this, and yet fails
        self.server.disturbed += mode != "pass" and (mode != "lost" or self.command != "GET")
        if mode in ("500", "503"):
            self._reply(int(mode), b"out of order")
            return
        if self.path == LOG_BATCH:
            batch = json.loads(body)
            sent = batch.get("metrics", [])
            self.server.arrived.update((batch["run_id"], m["key"], int(m["step"])) for m in sent)
        if mode == "slow":
            time.sleep(1.5)
        backend = http.client.HTTPConnection(HOST, self.server.backend, timeout=120)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
        try:
            backend.request(self.command, self.path, body, headers)
            answer = backend.getresponse()
            status, content, kind = answer.status, answer.read(), answer.getheader("Content-Type")
        except OSError:
            self.close_connection = True  # nobody there
            return
        finally:
            backend.close()
        if mode == "lost" and self.command != "GET":
            self.server.lost_answers += 1
            self.close_connection = True
            return
        self._reply(status, content, kind)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def _reply(self, status: int, content: bytes, kind: str | None = None) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the screen."""


class Server:
    """MLflow's own, with the proxy before it; a context manager."""

    def __init__(self, home: Home) -> None:
        self.home = home
        open_tracker(None, home=home).close()  # makes its database
        self._start()
        self.proxy = Proxy(self.port)
        self.down = 0.0
        """Seconds of faults, together."""

    def _start(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self._running = contextlib.ExitStack()
        _, self.process = self._running.enter_context(serve(self.home, self.port))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
        self.proxy.shutdown()

    def family(self) -> list[psutil.Process]:
        this = psutil.Process(self.process.pid)
        return [this, *this.children(recursive=True)]

    def fault(self, kind: str, seconds: float) -> None:
        """Be out of order in this way for at least so long; the proxy until somebody has noticed."""
        start = time.monotonic()
        if kind == "kill":
            for process in self.family():
                process.kill()
            self._running.close()
            time.sleep(seconds)
            self._start(self.port)
        elif kind == "hang":
            stopped = self.family()
            for process in stopped:
                process.suspend()
            time.sleep(seconds)
            for process in stopped:
                process.resume()
        else:
            before = self.proxy.disturbed
            self.proxy.mode = kind
            time.sleep(seconds)
            while self.proxy.disturbed == before and time.monotonic() - start < LONGEST_SECONDS:
                time.sleep(0.05)
            self.proxy.mode = "pass"
        self.down += time.monotonic() - start

    @contextlib.contextmanager
    def faults(self, kinds: tuple[str, ...], *, out: float, well: float) -> Iterator[list[str]]:
        """One after the other, ``out`` seconds each and ``well`` seconds apart, until left; gives what was."""
        leave, done = threading.Event(), []

        def act() -> None:
            while kinds:
                for kind in kinds:
                    if leave.wait(well):
                        return
                    done.append(kind)
                    self.fault(kind, out)

        thread = threading.Thread(target=act)
        thread.start()
        try:
            yield done
        finally:
            leave.set()
            thread.join()


def compare(server: Server, home: Home, study: str, launch_status: str = "FINISHED") -> Verdict:
    """What the server holds of the study under ``home``, and what reached it again although it had it."""
    tracker = open_tracker(f"http://{HOST}:{server.port}", experiment=study, home=home)
    verdict = compare_shown(tracker, home, study, launch_status)
    verdict.sent_twice = sum(times > 1 for times in server.proxy.arrived.values())
    return verdict


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
