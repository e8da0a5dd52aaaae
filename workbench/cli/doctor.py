"""``calm doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import HomeOption, JsonOption, TrackingOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.checks import Check

STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    home: HomeOption = Path("runs"),
    storage: Annotated[
        str | None,
        typer.Option(envvar="CALM_STORAGE", help="Database of the studies; default: the one of the home."),
    ] = None,
    tracking_uri: TrackingOption = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus", metavar="NAME", help="Look at this corpus (may be repeated), not the bundled ones."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check what runs need: packages, cores, memory, disk, torch, databases, servers, corpora; and say what to do.

    Exit code 1 where something has failed; warnings do not count."""
    import json
    import os
    import sys

    from studies.doctor import storage_checks
    from workbench.checks import left_behind, worst
    from workbench.doctor import examine
    from workbench.errors import OutputError

    if home.exists() and not home.is_dir():
        raise OutputError(f"--home wants a folder, {home} is a file; give another")
    checks = examine(
        home, storage=storage, tracking_uri=tracking_uri, corpora=corpus or (), storage_checks=storage_checks
    )
    if as_json:
        print(json.dumps({"outcome": worst(checks), "checks": [check.to_dict() for check in checks]}, indent=1))
    else:
        _print(checks)
    code = 1 if worst(checks) == "failed" else 0
    if left_behind():
        sys.stdout.flush()
        os._exit(code)
    raise typer.Exit(code)


def _print(checks: Sequence[Check]) -> None:
    from collections import Counter

    from rich.table import Table
    from rich.text import Text

    from workbench.cli.display import make_console

    console = make_console()
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        outcome = Text(check.outcome, style=STYLES[check.outcome])
        table.add_row(outcome, Text(f"{check.topic}: {check.name}"), Text(check.found), Text(check.advice))
    console.print(table)
    counts = Counter[str](check.outcome for check in checks)
    words = ", ".join(f"{counts[outcome]} {outcome}" for outcome in STYLES if counts[outcome])
    console.print(f"{len(checks)} checks: {words}")
