"""``calm study run --launcher slurm`` and ``calm study stop``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from workbench.home import Home

Launcher = Annotated[
    Literal["local", "slurm"],
    typer.Option(
        "--launcher", help="local: processes of this machine; slurm: --workers N jobs of one worker each."
    ),
]
Partition = Annotated[str | None, typer.Option("--partition", help="Of the SLURM jobs.")]
Gpus = Annotated[int | None, typer.Option("--gpus-per-worker", min=0, max=64, help="Of each SLURM job.")]
Cpus = Annotated[
    int | None,
    typer.Option("--cpus-per-worker", min=1, max=4096, help="Of each SLURM job, and threads of its worker."),
]
Time = Annotated[
    str | None, typer.Option("--time", help="Limit of each SLURM job (12:00:00); it is queued again and goes on.")
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="NAME=VALUE",
        help="Any other option of sbatch (account=me, mem=16GB), or setup=COMMAND to precede the worker.",
    ),
]


NAMES = ("--partition", "--gpus-per-worker", "--cpus-per-worker", "--time", "--slurm")


class JobOptions(NamedTuple):
    """As they were given, in the order of ``NAMES``."""

    partition: str | None
    gpus: int | None
    cpus: int | None
    time: str | None
    more: list[str] | None


def check_launcher(launcher: str, threads: int | None, jobs: JobOptions) -> None:
    """Raises StudyError for options of the other launcher."""
    from workbench.errors import StudyError

    if launcher == "slurm":
        if threads is not None:
            raise StudyError("a SLURM job's worker has a thread a core: give --cpus-per-worker, not --threads")
        return
    wrong = [name for name, value in zip(NAMES, jobs, strict=True) if value]
    if wrong:
        raise StudyError(f"only --launcher slurm knows {', '.join(wrong)}; add it, or leave {wrong[0]} out")


def submit_jobs(console: Console, options: Any, home: Home, jobs: JobOptions) -> None:
    """Submit and say what was submitted, and what to do then."""
    from studies import slurm

    resources = slurm.Resources(
        minutes=slurm.minutes_of("60" if jobs.time is None else jobs.time),
        cpus=jobs.cpus or 1,
        gpus=jobs.gpus or 0,
        partition=jobs.partition,
        more=slurm.parse_more(jobs.more or []),
    )

    def note(text: str) -> None:
        console.print(text, style="yellow", markup=False, soft_wrap=True)

    submission = slurm.submit(options, resources, home, note)
    name, named = submission.launch.name, submission.launch.named
    if not submission.jobs:
        console.print(f"{name} is finished already; no job was submitted", markup=False, soft_wrap=True)
        return
    for line in (
        f"submitted {len(submission.jobs)} job(s) for {name}: {', '.join(submission.jobs)}",
        f"logs and job files: {submission.folder}",
        f"how it goes: calm study status {named}; cancel: calm study stop {named}",
        f"when it is finished: calm report {named}",
    ):
        console.print(line, markup=False, soft_wrap=True)


def stop_jobs(console: Console, name: str, storage: str | None, home: Home) -> None:
    """Cancel the jobs of a launch and say which."""
    from studies import slurm
    from studies.prepare import find_launch

    launch = find_launch(home, name, storage)
    cancelled = slurm.cancel(launch.folder)
    if not cancelled:
        text = f"{launch.name} has no jobs in SLURM's queue; a local launch is stopped with Ctrl-C where it runs"
        console.print(text, markup=False, soft_wrap=True)
        return
    text = f"cancelled: {', '.join(cancelled)}; running ones give their trials back within seconds"
    console.print(text, markup=False, soft_wrap=True)
