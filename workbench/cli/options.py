"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def folder(given: str | Path) -> Path:
    """A parameter's type. To pathlib an empty name is the current folder, and what is empty is a variable that was
    not set."""
    if not str(given):
        raise typer.BadParameter("the name of a folder is wanted, '' was given; the current folder is .")
    try:
        Path(given).resolve()
    except RuntimeError:  # pathlib's word for it
        raise typer.BadParameter(f"{given} is a link that leads in a circle; a folder is wanted") from None
    return Path(given)


HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="CALM_HOME", parser=folder, help="Folder of runs, caches and databases."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="CALM_TRACKING_URI",
        help="MLflow server or database; default: the database of the home; 'none': no tracking.",
    ),
]


def _but_not_none(context: typer.Context, given: str | None) -> str | None:
    """Where the environment says that trainings are not tracked, what is asked for a server is the home's own."""
    source = context.get_parameter_source("tracking_uri")
    return None if given == "none" and source is not None and source.name == "ENVIRONMENT" else given


ServerOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="CALM_TRACKING_URI",
        callback=_but_not_none,
        help="MLflow server or database; default: the database of the home.",
    ),
]
EachServerOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="CALM_TRACKING_URI",
        callback=_but_not_none,
        help="MLflow server or database; default: the one that each study, or single run, was begun with.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HeadSamplingOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="The head's own sampling, e.g. model.head.num_calls=4."),
]


def common(
    heads: Annotated[
        list[Path] | None,
        typer.Option("--heads", metavar="FILE.py", help="Heads of your own, beside those of CALM_HEADS."),
    ] = None,
) -> None:
    """Find out which Continuous Autoregressive Language Model to train."""
    if heads:
        from workbench.own_heads import give

        give(heads, by="--heads")
