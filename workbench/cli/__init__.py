"""The ``calm`` command. Command bodies import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import sys

import typer

from workbench.cli import bench, plan, report, run, sample, score, study, ui

app = typer.Typer(
    name="calm",
    help="Find out which Continuous Autoregressive Language Model to train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (run, sample, bench, score, study, report, plan, ui):
    part.register(app)


def main() -> None:
    """Entry point: an error that a user can mend is one message and exit code 2. Typer ends with 130 after an
    interruption, without a word; a command that can be continued says so itself."""
    from workbench.errors import UserError

    try:
        app()
    except UserError as error:
        print(f"calm: {error}", file=sys.stderr)
        sys.exit(2)
