"""The ``calm`` command. Command bodies import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import sys

import typer

from workbench.cli import (
    bench,
    dashboard,
    doctor,
    heads,
    options,
    plan,
    register,
    released,
    report,
    rerun,
    run,
    sample,
    score,
    study,
    ui,
)

app = typer.Typer(
    name="calm",
    help="Find out which Continuous Autoregressive Language Model to train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(options.common)
PARTS = (run, rerun, sample, register, bench, score, released, study, report, plan, ui, dashboard, doctor, heads)
for part in PARTS:
    part.register(app)


def program() -> None:
    """The entry point, in a process of its own."""
    from workbench import garbage

    garbage.start()
    main()


def main() -> None:
    """An error that a user can mend is one message and exit code 2. Typer ends with 130 after an
    interruption, without a word; a command that can be continued says so itself."""
    from workbench.cli.output import show_any_text
    from workbench.given_files import is_text

    show_any_text()
    for argument in sys.argv[1:]:
        if not is_text(argument):
            print(f"calm: the argument {argument!r} is not UTF-8 text; rename what it names", file=sys.stderr)
            sys.exit(2)
    try:
        app()
    except (Exception, SystemExit) as error:  # the latter ends every command, or comes of a head from outside
        if (message := _user_message(error)) is None:
            raise
        print(f"calm: {_printable(message)}", file=sys.stderr)
        sys.exit(2)


def _user_message(error: BaseException) -> str | None:
    """Of what the user can mend, a head from outside that fails included; None for our own mistakes."""
    from workbench.errors import UserError

    if isinstance(error, UserError):
        return str(error)
    if "workbench.own_heads" not in sys.modules:
        return None
    from workbench.own_heads import blame

    return blame(error)


def _printable(message: str, most: int = 8000) -> str:
    """A message may hold names and values of anybody: without control characters, which a terminal obeys, and not
    longer than can be read."""
    import re

    text = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", message)
    return text if len(text) <= most else f"{text[:most]} ... ({len(text) - most:,} characters more)"
