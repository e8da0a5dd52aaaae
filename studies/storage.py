"""The Optuna side of a launch: storage with heartbeats, two Optuna studies, trials given back to the queue.

A launch ``joint-quick`` has two Optuna studies in one storage: ``joint-quick`` (the search) and
``joint-quick/cells`` (token baselines and sensitivity checks, one parameter ``cell``). Both have the same
heartbeat: a trial whose worker is gone is queued again with its parameters and its run folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import sqlalchemy
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from studies.search_spec import HeartbeatSpec, PrunerSpec, SamplerSpec
from studies.spec import StudySpec
from workbench import files
from workbench.errors import StudyError
from workbench.home import Home

SQLITE_TIMEOUT = 60.0
"""Seconds a process waits for another's write."""


UNAVAILABLE = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.OperationalError)


@dataclass(frozen=True)
class Launch:
    """A launched study as every part sees it."""

    home: Home
    url: str
    spec: StudySpec
    search: optuna.Study
    cells: optuna.Study

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def folder(self) -> Path:
        return self.home.study(self.name)

    def claim_lock(self) -> FileLock:
        """Held from counting the trials until the new one's parameters are stored, so that workers on one
        machine never start more trials than wanted. Workers on other machines can exceed it by one each."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(str(self.folder / ".claim.lock"))


def storage_url(url: str | None, home: Home) -> str:
    """The storage's URL; relative SQLite paths become absolute.

    Raises StudyError for what is no database: only those know heartbeats."""
    if url is None:
        return home.optuna_url
    scheme = url.partition("://")[0] if "://" in url else ""
    if not scheme or scheme in ("grpc", "http", "https", "redis", "journal", "file"):
        raise StudyError(
            f"--storage wants a database URL (sqlite:////path/optuna.db or postgresql://user@host/name), "
            f"{url!r} given; journal files and gRPC proxies have no heartbeat, so a dead worker's trial "
            "would be lost"
        )
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise StudyError(f"--storage {url!r} is not a database URL: {error}") from None
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise StudyError("--storage wants an SQLite file that all workers see, not a database in memory")
        parsed = parsed.set(database=str(Path(str(parsed.database)).resolve()))
    return parsed.render_as_string(hide_password=False)


def masked(url: str) -> str:
    """The URL as it may be shown and stored: without its password."""
    return sqlalchemy.make_url(url).render_as_string(hide_password=True)


def open_storage(
    url: str, home: Home, heartbeat: HeartbeatSpec, *, checked: bool = False
) -> optuna.storages.RDBStorage:
    """Connect, creating the tables once. ``checked``: another process has just done so, and need not be
    repeated. Raises StudyError where the database does not answer."""
    quiet()
    sqlite = url.startswith("sqlite")
    if sqlite:
        files.writable_folder(Path(str(sqlalchemy.make_url(url).database)).parent)
    try:
        with files.locked(home.root / ".optuna.lock"):
            if url == home.optuna_url:
                _write_ahead(home.root / "optuna.db")
            database = optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": SQLITE_TIMEOUT}} if sqlite else {"pool_pre_ping": True},
                heartbeat_interval=heartbeat.interval,
                grace_period=heartbeat.grace,
                heartbeat_stale_trial_callback=retry_callback(heartbeat),
                skip_compatibility_check=checked,
                skip_table_creation=checked,
            )
            if url == home.optuna_url:
                sqlalchemy.event.listen(database.engine, "connect", _seldom_flushed)
                database.engine.dispose()  # connections opened before are not set so
            return database
    except ImportError as error:
        raise StudyError(
            f"storage {masked(url)} needs a database driver that is not installed ({_first_line(error)}); "
            "for PostgreSQL: pip install 'calm-workbench[postgres]'"
        ) from None
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError) as error:
        remedy = "no other program holds the file and it is not damaged" if sqlite else "the server is running"
        raise StudyError(
            f"storage {masked(url)} cannot be opened: {_first_line(error)}; check the address and that {remedy}"
        ) from None


def _write_ahead(path: Path) -> None:
    """A trial's thirty commits then cost one millisecond each, not ten, and readers never block a worker. Only for
    the home's own file: not every network file system can do it, and a home on one needs another ``--storage``.
    Who copies ``optuna.db`` must copy ``optuna.db-wal`` beside it, which holds the latest commits."""
    with contextlib.closing(sqlite3.connect(path, timeout=SQLITE_TIMEOUT)) as connection:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")


def _seldom_flushed(connection: Any, _: object) -> None:
    """With write-ahead logging a killed process loses nothing; a power cut can take the last commits, never the
    file. Must be said on every connection."""
    connection.execute("PRAGMA synchronous=NORMAL")


def quiet() -> None:
    """Optuna's own log lines and experimental warnings say nothing a user of studies can act on."""
    import warnings

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def retry_callback(heartbeat: HeartbeatSpec) -> optuna.storages.RetryHeartbeatStaleTrialCallback:
    quiet()
    return optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=heartbeat.max_retries)


def load(name: str, storage: optuna.storages.RDBStorage) -> tuple[optuna.Study, optuna.Study] | None:
    """The Optuna studies of a launch; None where the storage has none of that name."""
    try:
        search = optuna.load_study(study_name=name, storage=storage)
        if "spec" not in search.user_attrs:
            return None
        cells = optuna.load_study(
            study_name=cells_name(name), storage=storage, sampler=optuna.samplers.RandomSampler(seed=0)
        )
    except KeyError:
        return None
    return search, cells


def create(spec: StudySpec, storage: optuna.storages.RDBStorage) -> tuple[optuna.Study, optuna.Study]:
    """Create both Optuna studies, the specification in them and the starting points queued.

    The specification is written last: a study without it is an unfinished creation and is completed."""
    search = optuna.create_study(study_name=spec.name, storage=storage, direction="maximize", load_if_exists=True)
    optuna.create_study(
        study_name=cells_name(spec.name), storage=storage, direction="maximize", load_if_exists=True
    )
    for setting in spec.start[: spec.trials]:
        search.enqueue_trial(dict(setting), skip_if_exists=True)
    store_spec(search, spec)
    loaded = load(spec.name, storage)
    assert loaded is not None
    return loaded


def cells_name(name: str) -> str:
    return f"{name}/cells"


def store_spec(search: optuna.Study, spec: StudySpec) -> None:
    search.set_user_attr("spec", json.dumps(spec.to_dict()))


def stored_spec(search: optuna.Study) -> StudySpec:
    return StudySpec.model_validate(json.loads(search.user_attrs["spec"]))


def make_sampler(sampler: SamplerSpec, trial_number: int) -> optuna.samplers.BaseSampler:
    """The sampler that draws trial ``trial_number``.

    Its seed depends on the trial and not on the worker, so that a resumed worker does not draw again
    what it drew before, and one worker gives the same sequence interrupted or not."""
    seed = int(np.random.SeedSequence([sampler.seed, trial_number]).generate_state(1)[0])
    if sampler.kind != "tpe":  # of a grid every setting is queued from the start
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=sampler.startup_trials)


def make_pruner(pruner: PrunerSpec) -> optuna.pruners.BasePruner:
    if pruner.kind == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.PercentilePruner(
        pruner.keep_percent,
        n_startup_trials=pruner.startup_trials,
        n_warmup_steps=pruner.warmup_evaluations,
        n_min_trials=pruner.startup_trials,
    )


def cell_of(trial: FrozenTrial) -> str:
    """The cell of a trial in the cells study, also before it has started."""
    return str(trial.params.get("cell") or trial.system_attrs.get("fixed_params", {}).get("cell", ""))


def this_worker(index: int) -> dict[str, Any]:
    """Who runs a trial; the process is told from a later one with its number by its start time."""
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": process.create_time(),
        "index": index,
    }


def is_alive(worker: dict[str, Any]) -> bool | None:
    """Whether a worker process lives; None where it is on another host."""
    if worker.get("host") != socket.gethostname():
        return None
    try:
        process = psutil.Process(int(worker["pid"]))
        same = abs(process.create_time() - float(worker["started"])) < 1.0
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def recover(study: optuna.Study, heartbeat: HeartbeatSpec) -> list[int]:
    """Queue again the trials of dead workers: those of this host at once, others when their heartbeat has
    been missing for the grace period. Numbers of the former are returned.

    Call it holding the claim lock: a trial that was just taken up still names its previous worker."""
    quiet()
    optuna.storages.fail_stale_trials(study)
    dead = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get("worker")
        if worker and is_alive(worker) is False:
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                continue  # another worker was faster
            retry_callback(heartbeat)(study, _trial(study, trial.number))
            dead.append(trial.number)
    return dead


def requeue(study: optuna.Study, number: int) -> None:
    """Queue a failed trial again with its parameters, seeds and run folders."""
    trial = _trial(study, number)
    attrs = {k: v for k, v in trial.user_attrs.items() if k not in ("reason", "ended", "worker")}
    attrs["continues"] = [*trial.user_attrs.get("continues", []), number]
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attrs,
            system_attrs=trial.system_attrs,
        )
    )


def superseded(trials: list[FrozenTrial]) -> set[int]:
    """Numbers of failed trials that were queued again under another number."""
    numbers: set[int] = set()
    for trial in trials:
        numbers.update(trial.user_attrs.get("continues", []))
        numbers.update(trial.system_attrs.get("retry_history", []))
    return numbers


def failed(study: optuna.Study) -> list[FrozenTrial]:
    """Failed trials that nobody has taken up again."""
    trials = study.get_trials(deepcopy=False)
    again = superseded(trials)
    return [t for t in trials if t.state == TrialState.FAIL and t.number not in again]


def failure_reason(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("reason", "its worker died, more often than it may be retried"))


def _trial(study: optuna.Study, number: int) -> FrozenTrial:
    return next(t for t in study.get_trials(deepcopy=False) if t.number == number)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def run_folder_lock(folder: Path, run_id: str) -> Iterator[None]:
    """One process at a time in a run folder: a worker that was declared dead but lives (a suspended
    machine) finishes first, and its successor then finds the finished run."""
    with files.locked(folder / ".locks" / f"{run_id}.lock"):
        yield
