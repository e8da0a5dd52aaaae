"""``calm report``: HTML, figures, data and LaTeX tables from run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command()
    def report(
        studies: Annotated[
            list[str] | None, typer.Argument(metavar="[STUDY]...", help="Studies to report on; default: all.")
        ] = None,
        home: Annotated[Path, typer.Option(envvar="CALM_HOME", help="Folder with the runs.")] = Path("runs"),
        out: Annotated[
            Path | None,
            typer.Option(help="Folder for the report; default: reports/STUDY beside the home folder."),
        ] = None,
    ) -> None:
        """Write a self-contained HTML report with figures, data and LaTeX tables.

        The path of the HTML file is printed last."""
        from rich.console import Console

        from analysis.report import write_reports

        console = Console()
        for written in write_reports(home, studies or None, out):
            for warning in written.warnings:
                console.print(f"note: {warning}", style="yellow", markup=False, highlight=False)
            # not wrapped, so that the line can be copied or used by a script
            print(written.html)
