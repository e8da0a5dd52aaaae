"""What ``calm train --dry-run`` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from workbench.compute_account import Counting
    from workbench.config import RunConfig
    from workbench.device_plan import Devices
    from workbench.home import Home


def print_dry_run(
    asked: RunConfig,
    title: str,
    home: Path,
    seeds: int,
    as_json: bool,
    counting: Counting,
    devices: Devices | None,
) -> None:
    """``title``: of the run. What the run itself would be refused for is said on stderr. Nothing is trained."""
    from workbench.compute_account import account
    from workbench.data import require_source
    from workbench.device_plan import device_plan, for_devices
    from workbench.diagnostics import diagnose_config
    from workbench.errors import UserError
    from workbench.flops import describe, vocab_size
    from workbench.home import home_as_it_is
    from workbench.machine import resolve
    from workbench.room import need_fields, need_words, runs_need
    from workbench.speed import training_flops_per_second

    if devices is not None:
        asked = for_devices(asked)
    config = resolve(asked, home_as_it_is(home).cache)
    for warning in diagnose_config(config):
        typer.echo(f"calm: {warning.code}: {warning.message}", err=True)
    try:
        require_source(config.data)
        _require_beginning(asked, title, home_as_it_is(home))
    except UserError as error:
        typer.echo(f"calm: the run itself would be refused: {error}", err=True)
    described = describe(config)
    speed = training_flops_per_second(config, vocab_size(config))
    described["training_flops_per_second"] = speed
    described["estimated_training_seconds"] = described["train_flops"] / speed if speed else None
    if seeds > 1:  # the figures above are one run's
        described["seeds"] = seeds
        described["train_flops_all_seeds"] = seeds * described["train_flops"]
        one = described["estimated_training_seconds"]
        described["estimated_training_seconds_all_seeds"] = one and seeds * one
    need = runs_need([config], times=seeds)
    described |= need_fields(need)
    found = account(config, counting)
    on_devices = device_plan(config, vocab_size(config), devices) if devices is not None else None
    if as_json:
        if on_devices is not None:
            described["devices"] = on_devices.to_dict()
        print(json.dumps({**described, "account": found.to_dict(), "config": config.to_dict()}, indent=1))
        return
    from rich.markup import escape
    from rich.table import Table

    from workbench.cli.accounts import print_accounts
    from workbench.cli.display import make_console

    table = Table("", "", title="dry run: nothing is trained", show_header=False)
    for name, value in _flat(described):
        table.add_row(escape(name), escape(value))
    console = make_console()
    console.print(table)
    console.print(f"disk: {need_words(need)}", soft_wrap=True)
    print_accounts(console, [("this run", found)])
    if on_devices is not None:
        from workbench.cli.devices import print_device_plans

        print_device_plans(console, [("this run", on_devices)])


def _require_beginning(asked: RunConfig, title: str, home: Home) -> None:
    """Raises RunError and ConfigError where ``train.init_from`` would be refused; a run that has begun needs it no
    more."""
    if asked.train.init_from is None:
        return
    from workbench.api import run_folder
    from workbench.initial import initial_run
    from workbench.runner import resolve

    config = resolve(asked, home)  # with the tokenizer's file, which must be the same
    if not (run_folder(title, config, home) / "record.json").exists():
        initial_run(config, home)


def _flat(described: dict[str, Any]) -> list[tuple[str, str]]:
    from workbench.config_file import flatten

    shown = []
    for name, value in flatten(described).items():
        if value is None:
            continue
        text = (
            f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        )
        shown.append((name.replace(".", ": ").replace("_", " "), text))
    return shown
