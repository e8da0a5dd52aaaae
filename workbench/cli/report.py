"""``calm report``: HTML, figures, data and LaTeX tables from run folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import HomeOption

if TYPE_CHECKING:
    from analysis.report import Written


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command()
    def report(
        studies: Annotated[
            list[str] | None,
            typer.Argument(metavar="[STUDY]...", help="Launches, or studies that have one only; default: all."),
        ] = None,
        home: HomeOption = Path("runs"),
        out: Annotated[
            Path | None,
            typer.Option(help="Folder for the report; default: reports/STUDY beside the home folder."),
        ] = None,
        together: Annotated[
            bool, typer.Option("--together", help="One page that compares the studies instead of one for each.")
        ] = False,
        data: Annotated[
            list[Path] | None,
            typer.Option(metavar="FILE", help="Anybody's results (CSV or Parquet) beside ours; repeatable."),
        ] = None,
        watch: Annotated[
            bool, typer.Option("--watch", help="Write again whenever runs change, until the study has finished.")
        ] = False,
        paper: Annotated[
            bool,
            typer.Option("--paper", help="Figures as PDF and SVG in the widths of a paper too (takes longer)."),
        ] = False,
        mlflow: Annotated[
            bool, typer.Option("--mlflow/--no-mlflow", help="Show the report at the study's launch in MLflow too.")
        ] = True,
        every: Annotated[
            float, typer.Option(min=1.0, max=86_400.0, help="Seconds between two looks of --watch.")
        ] = 30.0,
    ) -> None:
        """Write a self-contained HTML report with figures, data, LaTeX tables and a page for every run.

        The path of the HTML file is printed last."""
        from analysis.paper_figures import paper as for_paper
        from workbench.home import home_as_it_is

        home_as_it_is(home)
        if together:
            if watch or data:
                raise typer.BadParameter(
                    "--together goes with neither --watch nor --data", param_hint="--together"
                )
            from analysis.together import write_together

            with for_paper(paper):
                _say([write_together(home, studies or None, out)])
            return
        from analysis.report import write_reports

        if not watch:
            with for_paper(paper):
                written = write_reports(home, studies or None, out, external=data or [])
            _say(written)
            if mlflow:
                _deliver(home, written)
            return
        from analysis.watch import watch as keep_watching

        def write(reload: int | None) -> None:
            with for_paper(paper):
                written = write_reports(home, studies or None, out, external=data or [], reload=reload)
            _say(written)
            if mlflow and reload is None:  # the last one: the study has finished
                _deliver(home, written)

        print(f"looks for changes every {every:g} s until the study has finished; Ctrl-C ends it", file=sys.stderr)
        try:
            keep_watching(home, studies or None, write, every=every)
        except KeyboardInterrupt:
            print("no longer watching; the report stands as it was last written", file=sys.stderr)
            raise typer.Exit(130) from None


def _deliver(home: Path, reports: list[Written]) -> None:
    """Show each report at its launch; a launch that is not in MLflow, or a server that is away, fails nothing."""
    from workbench.cli.study_report import deliver_report
    from workbench.home import home_as_it_is

    for written in reports:
        note = deliver_report(home_as_it_is(home), written.study, written.html.parent)
        if note:
            print(f"note: {note}", file=sys.stderr)


def _say(reports: list[Written]) -> None:
    from rich.console import Console

    console = Console()
    for written in reports:
        for warning in written.warnings:
            console.print(f"note: {warning}", style="yellow", markup=False, highlight=False)
        # not wrapped, so that the line can be copied or used by a script; at once, for who watches through a pipe
        print(written.html, flush=True)
