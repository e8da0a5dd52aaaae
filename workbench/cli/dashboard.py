"""``calm study dashboard``: Optuna's own pages on a study's storage."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import HomeOption
from workbench.cli.study import Storage, study_app


def register(_: typer.Typer) -> None:
    """Add the command to ``calm study``."""
    study_app.command("dashboard")(dashboard)


def dashboard(
    name: Annotated[
        str | None, typer.Argument(help="A launch, or a study that has one; left out, all in the storage.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 8080,
    storage: Storage = None,
    home: HomeOption = Path("runs"),
) -> None:
    """Show the trials in optuna-dashboard's pages, for reading, until Ctrl-C."""
    import threading

    from studies.dashboard import serve
    from workbench.cli.display import make_console
    from workbench.home import open_home

    console = make_console()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        with serve(open_home(home), name, storage, port) as page:
            console.print(f"optuna-dashboard shows the trials at {page} (Ctrl-C ends it)", soft_wrap=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        console.print("optuna-dashboard ended", style="dim")
    finally:
        signal.signal(signal.SIGTERM, previous)
