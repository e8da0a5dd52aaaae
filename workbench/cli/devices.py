"""Devices that a dry run plans for: memory and time on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from workbench.device_plan import DevicePlan, Devices, Memory

DevicesOption = Annotated[int, typer.Option("--devices", help="Of a dry run: so many.")]
MemoryOption = Annotated[
    str | None, typer.Option("--device-memory", metavar="SIZE", help="Of a dry run: each has so much, e.g. 80GB.")
]
FlopsOption = Annotated[
    float | None,
    typer.Option("--device-flops", help="Of a dry run: each does so many a second at best, e.g. 312e12."),
]
UtilisationOption = Annotated[
    float, typer.Option("--utilisation", help="Of a dry run: the part of that which training reaches.")
]


def devices_of(count: int, memory: str | None, flops: float | None, utilisation: float) -> Devices | None:
    """None where nothing was said. Raises ConfigError."""
    from workbench.device_plan import Devices, parse_bytes

    if count == 1 and memory is None and flops is None:
        return None
    return Devices(count, parse_bytes(memory) if memory is not None else None, flops, utilisation)


def require_dry_run(count: int, memory: str | None, flops: float | None) -> None:
    """Raises ConfigError where devices to plan for were given to a training."""
    from workbench.errors import ConfigError

    if count != 1 or memory is not None or flops is not None:
        raise ConfigError(
            "--devices, --device-memory and --device-flops are what a dry run plans for: add --dry-run; to train "
            f"on several devices of this machine: --ranks {max(2, count)}"
        )


def print_device_plans(console: Console, rows: Sequence[tuple[str, DevicePlan]]) -> None:
    """Memory of each strategy, then the autoencoder's stage and the time."""
    from rich.markup import escape
    from rich.table import Table

    from workbench.room import bytes_words

    table = Table(box=None, pad_edge=False, title="memory of one device (an estimate)", title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("strategy", overflow="fold")
    for name in ("state", "copies", "noise, loss", "a sequence", "at once", "in all", "fit at once"):
        table.add_column(name, justify="right")
    for label, plan in rows:
        for one in plan.memory:
            table.add_row(
                escape(label),
                _strategy_words(one),
                bytes_words(one.state),
                bytes_words(one.copies),
                bytes_words(one.beside),
                bytes_words(one.per_sequence),
                f"{one.at_once:,} of {one.sequences:,}",
                bytes_words(one.total()),
                "" if one.most_sequences is None else f"{one.most_sequences:,}",
            )
    console.print(table)
    for label, plan in rows:
        for line in _lines(plan):
            console.print(f"{label}: {line}", soft_wrap=True, markup=False)


def _strategy_words(one: Memory) -> str:
    return one.strategy + ", checkpointing" * one.checkpointing + " (as configured)" * one.configured


def _lines(plan: DevicePlan) -> list[str]:
    """What is not in the table."""
    from workbench.room import bytes_words

    lines = []
    for why in dict.fromkeys(plan.refused.values()):
        which = " and ".join(name for name, reason in plan.refused.items() if reason == why)
        lines.append(f"cannot be shared by {plan.devices.count} devices ({which}): {why}")
    if not plan.memory:
        lines.append("no estimate of activations for its head")
    if plan.seconds is not None:
        lines.append(
            f"{_hours(plan.seconds)} of training on {plan.devices.count} device(s) of {plan.devices.flops:.3g} "
            f"FLOP/s at {plan.devices.utilisation:.0%} utilisation, without evaluations"
        )
    stage = plan.autoencoder
    if stage is not None:
        on = "one device" if stage.devices == 1 else f"{stage.devices} devices"
        time = f": {_hours(stage.seconds)}" if stage.seconds is not None else ""
        fit = f" ({stage.most_chunks:,} fit)" if stage.most_chunks is not None else ""
        lines.append(
            f"before it the autoencoder on {on}{time}, {bytes_words(stage.memory)} with {stage.at_once:,} of "
            f"{stage.chunks:,} chunks at once{fit}"
        )
    return lines


def _hours(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 72 * 3600 else f"{seconds / 86400:.3g} days"
