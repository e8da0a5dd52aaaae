"""What MLflow shows, for tests; and a client that fails when it is told to."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.suites.tracker_suite import Shown
from workbench.tracking import Tracker, link
from workbench.tracking_mlflow import MlflowException, MlflowTracker


def client(tracker: Tracker) -> Any:
    assert isinstance(tracker, MlflowTracker)
    return tracker._client


def look(tracker: Tracker, run_dir: Path) -> Shown:
    """What MLflow has of the run."""
    place = link(run_dir)
    assert place is not None
    run = client(tracker).get_run(place.run_id)
    history = {key: client(tracker).get_metric_history(place.run_id, key) for key in run.data.metrics}
    return Shown(
        name=run.info.run_name,
        status=run.info.status,
        parent=run.data.tags.get("mlflow.parentRunId"),
        params=run.data.params,
        tags=run.data.tags,
        history={key: sorted((m.step, m.value) for m in metrics) for key, metrics in history.items()},
        artifacts=artifacts(client(tracker), place.run_id),
    )


def artifacts(client: Any, run_id: str, folder: str | None = None) -> list[str]:
    found: list[str] = []
    for item in client.list_artifacts(run_id, folder):
        found += artifacts(client, run_id, item.path) if item.is_dir else [item.path]
    return found


class Faulty:
    """A client whose named method fails ``times`` times, before or after doing its work."""

    def __init__(self, client: Any, method: str, times: int = 1, *, after: bool = False) -> None:
        self.client, self.method, self.times, self.after = client, method, times, after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real = getattr(self.client, name)
        if name != self.method or self.times <= 0:
            return real  # type: ignore[no-any-return]

        def call(*args: Any, **kwargs: Any) -> Any:
            self.times -= 1
            if self.after:
                real(*args, **kwargs)
            raise MlflowException("API request failed: Max retries exceeded (Connection refused)")

        return call


def faulty(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch, method: str, **how: Any) -> None:
    monkeypatch.setattr(tracker, "_client", Faulty(tracker._client, method, **how))


def here(pid: int) -> dict[str, object]:
    return {"pid": pid, "host": socket.gethostname()}
