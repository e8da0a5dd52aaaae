"""``calm ui`` and ``calm sync``: MLflow's pages on this machine, and delivering what it has not seen."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import EachServerOption, HomeOption

if TYPE_CHECKING:
    from workbench.tracking_report import StudyReport


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("ui")(ui)
    app.command("sync")(sync)


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    home: HomeOption = Path("runs"),
) -> None:
    """Show the runs in MLflow's pages at http://127.0.0.1:PORT, until Ctrl-C."""
    from rich.console import Console

    from workbench.home import open_home
    from workbench.tracking_server import serve

    console = Console()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)  # a polite kill must end the server, too
    try:
        console.print("starting MLflow ...", style="dim")
        with serve(open_home(home), port) as (url, process):
            page = f"{url}/#/experiments?workflowType=machine_learning"  # not its pages for traces and prompts
            console.print(f"MLflow shows the runs at [bold]{page}[/bold] (Ctrl-C ends it)", soft_wrap=True)
            code = process.wait()
            console.print(f"the MLflow server ended by itself with code {code}", style="yellow")
            raise typer.Exit(1)
    except KeyboardInterrupt:
        console.print("MLflow ended", style="dim")
    finally:
        signal.signal(signal.SIGTERM, previous)


def sync(
    home: HomeOption = Path("runs"),
    tracking_uri: EachServerOption = None,
) -> None:
    """Deliver to MLflow whatever it does not have of the runs under --home, and the reports of their studies: to
    the server that each was begun with, or all of it to --tracking-uri. What was killed without a word is shown
    as killed. Exit code 1 where a run could not be delivered (its folder cannot be read, it was deleted there) or
    a study's files are damaged, 2 where a server does not answer or stops answering: again later."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from workbench import records
    from workbench.cli.study_report import build_study_report
    from workbench.errors import TrackingError, UserError
    from workbench.home import open_home
    from workbench.tracking_sync import sync as deliver_all

    console = Console()
    opened = open_home(home)
    total = len(records.find_runs(opened.root))
    if total == 0:
        console.print(f"no runs under {opened.root}", markup=False, soft_wrap=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("delivering", total=total)

        def build(study: str) -> StudyReport | None:
            progress.update(task, description=f"report of {escape(study)}")
            try:
                return build_study_report(opened, study)
            except UserError as error:
                console.print(
                    f"[yellow]no report of {escape(study)}: {escape(str(error))}[/yellow]", soft_wrap=True
                )
                return None

        report = deliver_all(opened, tracking_uri, lambda _, __: progress.advance(task), build)
    for problem in report.problems:
        console.print(f"[yellow]{escape(problem)}[/yellow]", soft_wrap=True)
    console.print(f"{total} runs: {report}", markup=False, soft_wrap=True)
    reached = [server for server in report.servers if server not in report.silent]
    if reached:
        console.print(f"delivered to {', '.join(reached)}", markup=False, soft_wrap=True)
    if report.away:
        raise TrackingError(
            f"{', '.join(sorted(report.silent))} did not answer, or stopped answering; run calm sync again to "
            "deliver the rest"
        )
    if report.failed or report.problems:
        raise typer.Exit(1)
