"""``calm heads``: whether a generative head does what heads must."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import JsonOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.head_check import Checked
    from workbench.head_sections import HeadSection

STYLES = {"passed": "green", "failed": "bold red", "not run": "yellow"}
FIELD = "model.head."

heads_app = typer.Typer(help="Generative heads, the workbench's and your own.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(heads_app, name="heads")
    heads_app.command("check")(check)


@heads_app.callback()
def _heads() -> None:
    """Generative heads, the workbench's and your own."""


def check(
    kind: Annotated[str, typer.Argument(help="As in model.head.kind, the workbench's or your own.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A field of the head, e.g. model.head.num_calls=4."),
    ] = None,
    one_mode: Annotated[
        bool,
        typer.Option(
            "--one-mode",
            help="For a head that can have one mode only and is trained for the mean (squared error, normal "
            "likelihood; not absolute error, Laplace): it must find the means.",
        ),
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Of the short training; default: the suite's 1600.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a head: shapes, seeds, gradients, mixed precision, and what a short training reaches on a known
    distribution. The same tests can be inherited under pytest (workbench.testing).

    Exit code 1 where one fails."""
    import json

    from workbench.cli.display import RunDisplay, make_console
    from workbench.head_check import check_head

    head = _head(kind, set_ or [])
    with RunDisplay(make_console(stderr=True, lasting=True)) as display:
        found = check_head(head, one_mode=one_mode, steps=steps, display=display)
    passed = all(each.outcome == "passed" for each in found)
    if as_json:
        checks = [each.to_dict() for each in found]
        print(json.dumps({"kind": kind, "outcome": "passed" if passed else "failed", "checks": checks}, indent=1))
    else:
        _print(kind, found)
    raise typer.Exit(0 if passed else 1)


def _head(kind: str, assignments: list[str]) -> HeadSection:
    """Its section. Raises ConfigError for a kind that is not here, and for fields that it has not."""
    from workbench.config import CalmConfig
    from workbench.config_file import build_config, parse_assignments, require_effect
    from workbench.errors import ConfigError

    fields = parse_assignments(assignments)
    for name in fields:
        if not name.startswith(FIELD) or name == f"{FIELD}kind":
            raise ConfigError(f"calm heads check sets the head's own fields, as {FIELD}NAME=VALUE; {name} given")
    overrides = {f"{FIELD}kind": kind, **fields}
    config = build_config({}, overrides)
    require_effect(config, overrides)
    model = config.resolved().model
    assert isinstance(model, CalmConfig)
    return model.head


def _print(kind: str, found: Sequence[Checked]) -> None:
    from collections import Counter

    from rich.table import Table
    from rich.text import Text

    from workbench.cli.display import make_console

    console = make_console()
    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "seconds", "why"):
        table.add_column(column, overflow="fold", justify="right" if column == "seconds" else "left")
    for each in found:
        outcome = Text(each.outcome, style=STYLES[each.outcome])
        table.add_row(outcome, Text(each.name), f"{each.seconds:.2f}", Text(each.reason))
    console.print(table)
    counts = Counter[str](each.outcome for each in found)
    words = ", ".join(f"{counts[outcome]} {outcome}" for outcome in STYLES if counts[outcome])
    console.print(f"{len(found)} checks of the head {kind!r}: {words}", markup=False)
