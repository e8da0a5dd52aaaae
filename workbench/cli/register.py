"""``calm register`` and ``calm models``: trained models in MLflow's registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.options import HomeOption, JsonOption, ServerOption


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("register")(register_run)
    app.command("models")(models)


def register_run(
    run: Annotated[str, typer.Argument(help="Run folder, id or name; a completed run.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the registered model; default: calm- and its corpus.")
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", help="Let this name (for example champion) mean the version.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="A new version also of a run that has one.")] = False,
    tracking_uri: ServerOption = None,
    home: HomeOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Register a run's model with MLflow: weights, tokenizer, signature, scores. A run that is registered already
    keeps its version; a registration that was broken off is continued by the same command."""
    from workbench.home import open_home
    from workbench.run_names import find_run
    from workbench.tracking_registry import register

    place = open_home(home)
    made = register(
        find_run(run, place), home=place, name=name, alias=alias, tracking_uri=tracking_uri, again=again
    )
    if as_json:
        print(_json(made))
        return
    from workbench.cli.display import make_console

    console = make_console()
    words = "registered as" if made.new else "is registered already, as"
    aliases = f" ({', '.join(made.aliases)})" if made.aliases else ""
    console.print(f"{run} {words} {made.name} version {made.version}{aliases}", markup=False, soft_wrap=True)
    if made.alias_was is not None:
        console.print(f"{alias} was version {made.alias_was}", markup=False, soft_wrap=True)
    console.print(made.description, style="dim", markup=False, soft_wrap=True)
    console.print(f"mlflow.pyfunc.load_model({made.uri!r})", markup=False, soft_wrap=True)


def models(
    tracking_uri: ServerOption = None,
    home: HomeOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """The registered models and their versions, the latest first."""
    from workbench.home import home_as_it_is
    from workbench.tracking_registry import registered_models

    place = home_as_it_is(home)  # which a mistyped name must not make
    found = registered_models(place, tracking_uri)
    if as_json:
        print(_json(found))
        return
    from rich.table import Table
    from rich.text import Text

    from workbench.cli.display import make_console

    console = make_console()
    if not found:
        where = f" ({place.root} does not exist)" if tracking_uri is None and not place.root.exists() else ""
        console.print(f"no models are registered yet{where}; calm register RUN registers one", soft_wrap=True)
        return
    table = Table("model", "version", "alias", "what it is")
    for row in found:
        cells = (row.name, row.version, ", ".join(row.aliases), row.description)
        table.add_row(*map(Text, cells))
    console.print(table)


def _json(found: Any) -> str:
    import dataclasses
    import json

    def tree(row: Any) -> dict[str, Any]:
        return {**dataclasses.asdict(row), "uri": row.uri}

    return json.dumps([tree(row) for row in found] if isinstance(found, list) else tree(found), indent=1)
