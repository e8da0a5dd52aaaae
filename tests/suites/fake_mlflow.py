"""An MLflow client without a server: everything in memory, and every point kept that was sent.

MLflow's own database drops a point that is the same in every field, so that a double goes unseen there; other
servers may not. ``Mortal`` ends the process that uses it, so to speak, at a chosen moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workbench import files
from workbench.tracking_mlflow import MlflowException

READS = {"set_experiment_tag", "get_run", "get_experiment_by_name", "search_runs", "get_experiment"}


class MemoryClient:
    """What the tracker needs of ``mlflow.MlflowClient``."""

    def __init__(self) -> None:
        self.runs: dict[str, SimpleNamespace] = {}
        self.experiments: dict[str, SimpleNamespace] = {}
        self._numbers = itertools.count(1)

    def get_experiment_by_name(self, name: str) -> Any:
        return next((e for e in self.experiments.values() if e.name == name), None)

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        made = str(next(self._numbers))
        self.experiments[made] = SimpleNamespace(
            name=name,
            experiment_id=made,
            artifact_location=artifact_location,
            lifecycle_stage="active",
            tags=dict(tags),
            creation_time=0,
        )
        return made

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        self.experiments[experiment_id].tags[key] = value

    def create_run(
        self, experiment_id: str, start_time: Any = None, tags: Any = None, run_name: Any = None
    ) -> Any:
        if experiment_id not in self.experiments:
            raise _unknown("experiment", experiment_id)
        info = SimpleNamespace(
            run_id=f"{next(self._numbers):032x}",
            experiment_id=experiment_id,
            status="RUNNING",
            lifecycle_stage="active",
            run_name=run_name,
        )
        run = SimpleNamespace(info=info, tags=dict(tags), params={}, points=[], files={}, inputs=[])
        self.runs[info.run_id] = run
        return self.get_run(info.run_id)

    def get_run(self, run_id: str) -> Any:
        run = self._run(run_id)
        latest: dict[str, Any] = {}
        for metric in run.points:
            if metric.key not in latest or metric.step >= latest[metric.key].step:
                latest[metric.key] = metric
        data = SimpleNamespace(
            metrics={key: metric.value for key, metric in latest.items()},
            tags=dict(run.tags),
            params=dict(run.params),
            to_proto=lambda: SimpleNamespace(metrics=list(latest.values())),
        )
        return SimpleNamespace(info=run.info, data=data, inputs=SimpleNamespace(dataset_inputs=list(run.inputs)))

    def search_runs(self, experiments: list[str], filter_string: str, max_results: int = 100) -> list[Any]:
        token = filter_string.split("'")[1]
        return [
            self.get_run(run_id)
            for run_id, run in self.runs.items()
            if run.tags.get("calm.token") == token and run.info.lifecycle_stage == "active"
        ][:max_results]

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        run = self._run(run_id)
        run.points += list(metrics)
        run.params |= {param.key: param.value for param in params}
        run.tags |= {tag.key: tag.value for tag in tags}

    def log_inputs(self, run_id: str, datasets: Any) -> None:
        self._run(run_id).inputs += list(datasets)

    def log_artifact(self, run_id: str, path: str, folder: str | None = None) -> None:
        self._run(run_id).files["/".join(filter(None, (folder, Path(path).name)))] = Path(path).read_bytes()

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self._run(run_id).files[path] = text.encode()

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._run(run_id).tags[key] = value

    def delete_tag(self, run_id: str, key: str) -> None:
        del self._run(run_id).tags[key]

    def update_run(self, run_id: str, status: str) -> None:
        self._run(run_id).info.status = status

    def set_terminated(self, run_id: str, status: str, end_time: Any = None) -> None:
        self._run(run_id).info.status = status

    def delete_run(self, run_id: str) -> None:
        self._run(run_id).info.lifecycle_stage = "deleted"

    def active(self) -> list[SimpleNamespace]:
        return [run for run in self.runs.values() if run.info.lifecycle_stage == "active"]

    def _run(self, run_id: str) -> SimpleNamespace:
        if run_id not in self.runs:
            raise _unknown("run", run_id)
        return self.runs[run_id]


class KilledError(BaseException):
    """As if by SIGKILL."""


class Mortal:
    """A client whose user dies at event ``last``: before it, or when it has taken effect and nobody hears of it.
    Events are the calls that change something, and the writing of cursors (``watching``)."""

    def __init__(self, client: MemoryClient, last: int, *, after: bool) -> None:
        self.client, self.last, self.after = client, last, after
        self.count = 0
        self.dead = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real = getattr(self.client, name)
        return self.event(real, counts=name not in READS)

    def event(self, real: Callable[..., Any], *, counts: bool = True) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise KilledError
            self.count += counts
            if not counts or self.count != self.last:
                return real(*args, **kwargs)
            self.dead = True
            if self.after:
                real(*args, **kwargs)
            raise KilledError

        return act

    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Count what is written to disk as well; the dead write nothing."""
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_atomic", self.event(files.write_atomic))
            yield


def _unknown(kind: str, identity: str) -> MlflowException:
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    return MlflowException(f"no {kind} {identity}", error_code=RESOURCE_DOES_NOT_EXIST)
