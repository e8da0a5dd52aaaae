"""``calm rerun``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import HomeOption, JsonOption, TrackingOption

if TYPE_CHECKING:
    from rich.console import Console

    from workbench.rerun import Rerun
    from workbench.rerun_state import State

DIFFERENT = 1
"""Exit code where the results are not the same."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(rerun)


def rerun(
    run: Annotated[str, typer.Argument(help="Run folder, id or name.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the rerun; default: HOME/single/NAME-rerun.")] = None,
    any_code: Annotated[
        bool, typer.Option("--any-code", help="Also where the workbench's code is not the same as then.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Of the machine only, e.g. runtime.threads=2."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Read the text and train the autoencoder anew: nothing from the cache.")
    ] = False,
    compare_only: Annotated[
        bool, typer.Option("--compare-only", help="Train nothing: compare what is there already.")
    ] = False,
    home: HomeOption = Path("runs"),
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a run again from its stored configuration, and say whether it comes out the same.

    What the result depends on is compared first: code, data, packages, processor. Other data are refused, other
    code too without --any-code. The rerun goes into a folder of its own; interrupted, the same command continues
    it. Exit code 1: the results differ."""
    from workbench.cli.display import RunDisplay, make_console
    from workbench.config_file import parse_assignments
    from workbench.home import open_home
    from workbench.rerun import rerun as make
    from workbench.tracking import SINGLE, open_tracker

    place = open_home(home)
    console = make_console(stderr=as_json, lasting=True)
    tracker = open_tracker("none" if compare_only else tracking_uri, experiment=SINGLE, home=place)
    try:
        with RunDisplay(console) as display:
            outcome = make(
                run,
                place,
                out=out,
                any_code=any_code,
                overrides=parse_assignments(set_ or []),
                fresh=fresh,
                compare_only=compare_only,
                tracker=tracker,
                display=display,
                on_state=lambda state: print_state(console, state),
            )
    except KeyboardInterrupt:
        typer.echo("calm: interrupted; the same command continues where it stopped", err=True)
        raise
    finally:
        tracker.close()
    if as_json:
        import json

        print(json.dumps(as_tree(outcome), indent=1))
    else:
        print_outcome(console, outcome)
    if outcome.results is not None and not outcome.results.identical:
        raise typer.Exit(DIFFERENT)


def print_state(console: Console, state: State) -> None:
    """What the result depends on, then and now."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", "then", "now", "")
    for point in state.points:
        said, style = {True: ("same", "green"), False: ("DIFFERS", "red"), None: ("not known", "yellow")}[
            point.same
        ]
        now = "" if point.same else point.now
        table.add_row(point.name, Text(point.then), Text(now), Text(said, style=style))
    console.print(table)
    for line in state.details:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_outcome(console: Console, outcome: Rerun) -> None:
    """The verdict, and the folder."""
    if outcome.before:
        console.print(
            "this rerun was finished before (what stands above is as it was then); for a new one: --out FOLDER",
            soft_wrap=True,
        )
    if outcome.results is None:
        console.print(f"there is no rerun in {outcome.folder} yet", markup=False, soft_wrap=True)
        return
    verdict, *lines = outcome.results.words()
    console.print(verdict, style="bold", markup=False, soft_wrap=True)
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"folder {outcome.folder}", markup=False, highlight=False, soft_wrap=True)


def as_tree(outcome: Rerun) -> dict[str, Any]:
    """As JSON holds it."""
    from workbench.rerun_results import to_dict

    return {
        "run": str(outcome.run_dir),
        "folder": str(outcome.folder),
        "finished_before": outcome.before,
        "state": [vars(point) for point in outcome.state.points],
        "details": outcome.state.details,
        "results": None if outcome.results is None else to_dict(outcome.results),
    }
