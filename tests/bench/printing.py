"""What the benchmarks print and write."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.turns import CLOCKS, Form, Measured, take_turns
from workbench.cores import available_cores

DTYPES = ("float32", "bfloat16")
GB = 1e9


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def parser(description: str | None, *, seconds: float, turns: int) -> argparse.ArgumentParser:
    """With the options that all benchmarks share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=available_cores(), help="of torch (all cores: %(default)s)")
    made.add_argument("--seconds", type=float, default=seconds, help="of a form's turn (%(default)s)")
    made.add_argument("--turns", type=int, default=turns, help="of every form (%(default)s)")
    clocks = "wall, or processor: on a busy machine, with one thread"
    made.add_argument("--clock", default="wall", choices=tuple(CLOCKS), help=f"{clocks} (%(default)s)")
    made.add_argument("--json", type=Path, help="also write everything to this file")
    return made


def measured(forms: Sequence[Form], options: argparse.Namespace) -> list[Measured]:
    """``take_turns`` as the shared options say."""
    return take_turns(
        forms, seconds=options.seconds, turns=options.turns, threads=options.threads, clock=options.clock
    )


def conditions(options: argparse.Namespace) -> str:
    """For a table's title."""
    clock = "" if options.clock == "wall" else ", processor seconds"
    return f"{options.threads} thread(s){clock}"


def choice(text: str, known: Sequence[str], option: str) -> list[str]:
    """The comma-separated values of an option; ends the script for an unknown one."""
    chosen = text.split(",")
    if unknown := sorted(set(chosen) - set(known)):
        raise SystemExit(f"{option}: {', '.join(unknown)} given, wanted are some of {', '.join(known)}")
    return chosen


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "") -> None:
    """The first column on the left, numbers on the right."""
    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=150, highlight=False)
    console.print(table)
    console.print(f"{note}\n" if note else "")


def write(path: Path | None, options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Results with the machine they were measured on."""
    if path is None:
        return
    import torch

    from workbench.machine import cpu_name

    machine = {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "threads": options.threads,
        "load_average": list(os.getloadavg()),
        "torch": torch.__version__,
    }
    settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
    text = json.dumps({"machine": machine, "options": settings, "results": results}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.0f}"
