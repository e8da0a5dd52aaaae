"""optuna-dashboard on the storage of a study, on this machine's loopback address.

It only shows. Its buttons could delete a study or end a trial behind its worker's back, so whatever would change
something is refused, and so is what another page in the browser asks for.
"""

from __future__ import annotations

import json
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy

from studies import database
from studies.prepare import find_launch
from studies.search_spec import HeartbeatSpec
from workbench.errors import StudyError
from workbench.home import Home

HOST = "127.0.0.1"
PORT = 8080
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@contextmanager
def serve(home: Home, name: str | None = None, url: str | None = None, port: int = PORT) -> Iterator[str]:
    """Show the launch ``name``, or without one everything in the storage; gives the page's address while it is
    served. ``port`` 0: any free one.

    Raises StudyError where there is no such launch or storage, the port is taken or the package is missing."""
    path = "/dashboard"
    if name is not None:
        launch = find_launch(home, name, url)
        url, path = launch.url, f"/dashboard/studies/{launch.search._study_id}"
    else:
        url = database.storage_url(url, home)
        _require_file(url)
    app = _app(url, home)
    server = _listen(port)
    server.set_app(guarded(app, server.server_port))
    thread = threading.Thread(target=server.serve_forever, name="dashboard", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}{path}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def guarded(app: App, port: int) -> App:
    """The same for reading alone, and for pages of its own."""
    ours = {f"{HOST}:{port}", f"localhost:{port}"}

    def guard(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        origin = environ.get("HTTP_ORIGIN", "")
        if environ.get("HTTP_HOST") not in ours or (origin and origin.partition("://")[2] not in ours):
            return _refuse(start, "asked for by another page or under another name")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(start, "shown for reading only: calm study run and calm study retry change a study")
        return app(environ, start)

    return guard


def _refuse(start: Callable[..., Any], reason: str) -> Iterable[bytes]:
    body = json.dumps({"reason": reason}).encode()
    start("403 Forbidden", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _app(url: str, home: Home) -> App:
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise StudyError(
            "optuna-dashboard is not installed; install it with: pip install 'optuna-dashboard>=0.21,<0.22'"
        ) from None
    app: App = wsgi(database.open_storage(url, home, HeartbeatSpec()))
    return app


def _require_file(url: str) -> None:
    """An SQLite file that is not there would be made."""
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
        raise StudyError(f"nothing to show yet: {parsed.database} does not exist; run a study first")


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the screen."""


def _listen(port: int) -> _Server:
    try:
        return _Server((HOST, port), _Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StudyError(
            f"port {port} of {HOST} cannot be used ({reason}); choose another with --port, 0 for any free one"
        ) from None
