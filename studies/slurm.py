"""Workers of a study as SLURM jobs: submitting them through submitit, how they stand, cancelling them.

The launch is prepared where the command is given: everything is checked, the specification frozen and stored, the
launch shown on the tracking server. Then one job array is submitted, each job with one worker
(``studies.slurm_job``), and the command ends; the jobs join in as another host does. What was submitted is written
to ``slurm/jobs.json`` in the launch's folder, which also gets submitit's files and the jobs' logs.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import sqlalchemy

from studies import database, plan
from studies.delivery import Delivery
from studies.prepare import Options, prepare, storage_of, write_study_file
from studies.staffing import Split, Staffing
from studies.storage import Launch
from workbench import files
from workbench.errors import StudyError, UnreadableError
from workbench.home import Home
from workbench.tracking import open_tracker
from workbench.tracking_schema import without_password

if TYPE_CHECKING:
    import submitit

FOLDER, JOBS = "slurm", "jobs.json"
REQUEUES = 1000
"""Time limits that a job may meet; it ends for good when the study is finished, so no fewer are of any use."""
SIGNAL_SECONDS = 90
"""Before its time limit a job is told: ten to give its trial back, and SLURM may be a minute early or late."""
PROGRAMS = ("sbatch", "srun", "scontrol")
ASK_SECONDS = 10.0
"""What squeue and scancel get to answer."""
LOOPBACK = ("", "localhost", "127.0.0.1", "::1")
OURS = (
    "array",
    "error",
    "job_name",
    "nodes",
    "ntasks",
    "ntasks_per_node",
    "open_mode",
    "output",
    "requeue",
    "signal",
)
"""Options of sbatch on which the jobs rely."""
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<fields>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class Resources:
    """Of each job, which has one worker."""

    minutes: int = 60
    cpus: int = 1
    gpus: int = 0
    partition: str | None = None
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other options of sbatch by their names; of ``setup``, lines of shell that precede the worker, several."""


@dataclass(frozen=True)
class Submission:
    """What became of a request."""

    launch: Launch
    jobs: tuple[str, ...]
    """Empty where the study was finished already."""

    @property
    def folder(self) -> Path:
        return self.launch.folder / FOLDER


def minutes_of(text: str) -> int:
    """Of a time limit as SLURM writes it: ``90`` (minutes), ``30:00``, ``12:00:00``, ``2-12`` (days, hours),
    ``2-12:30``. Rounded up.

    Raises StudyError."""
    match = _TIME.fullmatch(text.strip())
    numbers = [int(number) for number in match["fields"].split(":")] if match else []
    if match and match["days"]:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        hours += 24 * int(match["days"])
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0, 0][:2]
    total = hours * 60 + minutes + -(-seconds // 60)
    if total < 1:
        raise StudyError(
            f"--time wants a limit as SLURM writes it (90 minutes, 12:00:00, 2-12:00:00), {text!r} given"
        )
    return total


def parse_more(assignments: list[str]) -> dict[str, tuple[str, ...]]:
    """Of ``--slurm NAME=VALUE``, with names as in sbatch. Raises StudyError."""
    more: dict[str, tuple[str, ...]] = {}
    for text in assignments:
        name, sign, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not (sign and name.isidentifier() and value) or "\n" in value:
            raise StudyError(f"--slurm wants NAME=VALUE with a long option of sbatch (mem=16GB), {text!r} given")
        if name in OURS:
            raise StudyError(f"--slurm {name.replace('_', '-')} is set by the launcher and cannot be given")
        if name in more and name != "setup":
            raise StudyError(f"--slurm {name} is given twice")
        more[name] = (*more.get(name, ()), value)
    return more


def submit(
    options: Options,
    resources: Resources,
    home: Home,
    note: Callable[[str], None] = lambda text: None,
    *,
    cluster: str = "slurm",
) -> Submission:
    """Prepare the launch here and submit ``options.workers`` jobs, or none where it is finished.

    ``cluster``: another of submitit's, such as ``local``. Nothing is created where something is missing.

    Raises StudyError, ConfigError, DataError, TrackingError, OutputError."""
    submitit = _submitit()
    url, stored = storage_of(options, home)
    uri = options.tracking_uri or (stored or {}).get("tracking_uri")
    missing = []
    if cluster == "slurm":
        missing += missing_programs()
    if options.workers is None:
        missing.append("--launcher slurm wants --workers N: the number of jobs, each with one worker")
    missing += missing_servers(url, uri)
    if missing:  # all at once: not one refusal after each that is mended
        raise StudyError("\n".join(missing))
    assert options.workers is not None
    for what, host in (
        ("--storage", sqlalchemy.make_url(url).host),
        ("--tracking-uri", urlsplit(uri or "").hostname),
    ):
        if (host or "") in LOOPBACK and not (what == "--tracking-uri" and uri == "none"):
            note(f"{what} is an address of this machine only; jobs on other machines cannot reach it")
    options = replace(options, threads=resources.cpus, tracking_uri=uri, elsewhere=True)
    with contextlib.ExitStack() as stack:
        launch, _ = prepare(options, home, lambda name: _check_server(uri, name, home))
        if plan.is_finished(launch.spec, launch.search, launch.cells):
            return Submission(launch, ())
        staffing = Staffing(Split(options.workers, resources.cpus), f"{options.workers} jobs of one worker each")
        write_study_file(launch, uri, staffing)
        tracker = open_tracker(uri, experiment=launch.name, home=home, later=True)
        stack.enter_context(contextlib.closing(tracker))
        Delivery(launch, tracker).begin()  # once, before all jobs find that there is none
        return Submission(launch, _submit(submitit, launch, options, resources, cluster))


def _check_server(uri: str | None, name: str, home: Home) -> None:
    """Raises TrackingError where it does not answer."""
    open_tracker(uri, experiment=name, home=home).close()


def missing_programs() -> Iterator[str]:
    """What to say where this machine cannot submit jobs."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        yield (
            f"--launcher slurm needs SLURM's programs, {', '.join(missing)} cannot be found; give the command on "
            "a machine of the cluster that submits jobs, or leave out --launcher to work on this one"
        )


def missing_servers(url: str, uri: str | None) -> Iterator[str]:
    """What to say of databases that are files: those of one machine only."""
    if sqlalchemy.make_url(url).get_backend_name() == "sqlite":
        yield (
            f"jobs on several machines need the database of a server, {database.masked(url)} is a file; give "
            "--storage postgresql://USER@HOST/DATABASE (how to set one up: docs/cluster.md)"
        )
    if uri is None or uri.startswith("sqlite"):
        given = "HOME/mlflow.db" if uri is None else without_password(uri)
        yield (
            f"jobs on several machines need a tracking server, {given} is a file; give "
            "--tracking-uri http://HOST:PORT, or --tracking-uri none and `calm sync` later"
        )


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise StudyError("--launcher slurm needs submitit: pip install 'submitit>=1.5.4,<2'") from None
    return submitit


def _submit(
    submitit: Any, launch: Launch, options: Options, resources: Resources, cluster: str
) -> tuple[str, ...]:
    """The jobs' numbers. Raises StudyError where they are refused."""
    from studies.slurm_job import WorkerJob

    folder = files.writable_folder(launch.folder / FOLDER)
    earlier = submissions(launch.folder)
    first = sum(len(one["jobs"]) for one in earlier)
    assert options.workers is not None
    jobs = [
        WorkerJob(
            name=launch.name,
            home=str(launch.home.root),
            storage=database.masked(launch.url),
            tracking_uri=None if options.tracking_uri is None else without_password(options.tracking_uri),
            index=first + number,
            threads=resources.cpus,
            execute=options.execute,
            only_queued=options.only_queued,
        )
        for number in range(options.workers)
    ]
    secrets = {"CALM_STORAGE": launch.url, "CALM_TRACKING_URI": options.tracking_uri or ""}
    with submitit.helpers.clean_env(), submitit.helpers.environment_variables(**secrets):
        try:
            executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=REQUEUES)
            executor.update_parameters(**_parameters(executor, launch.name, resources))
            with executor.batch():
                submitted = [executor.submit(job) for job in jobs]
        except submitit.core.utils.FailedJobError as error:
            said = str(error).strip() or "it said nothing"
            raise StudyError(
                f"sbatch refused the jobs: {said}\nthe options of --slurm go to it as given"
            ) from None
    numbers = tuple(job.job_id for job in submitted)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    row = {"submitted": now, "cluster": cluster, "jobs": numbers, "minutes": resources.minutes}
    row |= {"cpus": resources.cpus, "gpus": resources.gpus, "partition": resources.partition}
    files.write_json(folder / JOBS, [*earlier, row])
    return numbers


def _parameters(executor: submitit.AutoExecutor, name: str, resources: Resources) -> dict[str, Any]:
    """As submitit names them; what it does not know goes to sbatch as it is."""
    known = executor._executor._valid_parameters() if executor.cluster == "slurm" else set()
    given: dict[str, Any] = {
        "name": "calm-" + re.sub(r"[^\w.-]", "-", name),
        "timeout_min": resources.minutes,
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus or None,
        "slurm_partition": resources.partition,
        "slurm_signal_delay_s": SIGNAL_SECONDS,
    }
    rest: dict[str, Any] = {"requeue": True}
    for key, values in resources.more.items():
        if key == "setup":
            given["slurm_setup"] = list(values)
        elif key in known:
            given[f"slurm_{key}"] = int(values[0]) if values[0].isdigit() else values[0]
        else:
            rest[key] = values[0]
    return {**given, "slurm_additional_parameters": rest}


def submissions(folder: Path) -> list[dict[str, Any]]:
    """What was submitted for the launch in ``folder``, oldest first; a damaged file counts as none.
    Raises UnreadableError."""
    try:
        rows = files.read_json(folder / FOLDER / JOBS)
        return [dict(row, jobs=[str(job) for job in row["jobs"]]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        files.raise_unreadable(folder / FOLDER / JOBS, error)  # a submission would write over it
        return []


@dataclass(frozen=True)
class Job:
    """As squeue shows it."""

    number: str
    state: str
    """RUNNING, PENDING, ..."""
    node: str
    why: str
    """It waits; empty where it does not."""

    def words(self) -> str:
        where = f" on {self.node}" if self.node else ""
        return f"job {self.number}: {self.state.lower()}{where}" + (f" ({self.why})" if self.why else "")


def queued_jobs(folder: Path) -> list[Job]:
    """Those of the launch in ``folder`` that SLURM still has; none where it does not answer."""
    try:
        numbers = sorted({job.partition("_")[0] for one in submissions(folder) for job in one["jobs"]})
    except UnreadableError:  # another's launch is shown without them
        return []
    if not numbers or shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%N|%r", f"--jobs={','.join(numbers)}"]
    jobs = []
    for line in _answer(command).splitlines():
        number, state, node, why = [*line.strip().split("|"), "", "", ""][:4]
        if number and state:
            jobs.append(Job(number, state, node, "" if why in ("None", "") else why))
    return jobs


def cancel(folder: Path) -> list[str]:
    """Cancel the jobs of the launch in ``folder`` that SLURM still has; their numbers. Each gives its trial back.

    Raises StudyError where this machine has no scancel, or that is refused."""
    jobs = [job.number for job in queued_jobs(folder)]
    if not jobs:
        return []
    if shutil.which("scancel") is None:
        raise StudyError("scancel cannot be found; give the command on a machine of the cluster that submits jobs")
    done = subprocess.run(
        ["scancel", *jobs], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    if done.returncode:
        raise StudyError(f"scancel refused: {done.stderr.strip() or done.returncode}")
    return jobs


def _answer(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout  # it fails where every job has long been forgotten, and says nothing
