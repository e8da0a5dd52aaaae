"""``calm import`` and ``calm export``: weights in the layout of the released CALM models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from workbench.home import Home
    from workbench.records import RunRecord

DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; default: as the weights are stored.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    autoencoder: Annotated[Path, typer.Argument(help="Folder of the autoencoder: config.json and weights.")],
    language_model: Annotated[Path, typer.Argument(help="Folder of the language model.")],
    name: Annotated[str, typer.Option("--name", help="Of the run.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json, or a folder with it; default: in one of the two folders.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Put the run among the runs of this study, as something to compare with.")
    ] = None,
    dtype: DtypeOption = None,
    trained_tokens: Annotated[
        float | None, typer.Option(help="What the model was trained on, where known: it counts as its training.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="How it is evaluated, e.g. data.corpus=kjv."),
    ] = None,
    home: HomeOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Make a run of released weights. It evaluates, samples and compares like any other, and other runs can start
    from it (--set train.init_from=RUN).

    A pytorch_model.bin is opened only as far as it holds tensors: nothing in it is run."""
    from workbench.api import import_weights, require_name

    require_name(name)  # before what takes seconds to import
    from workbench.cli.display import RunDisplay, make_console
    from workbench.config_file import parse_assignments
    from workbench.home import open_home

    overrides = parse_assignments(set_ or [])
    console = make_console(stderr=True, lasting=True)
    with RunDisplay(console) as display:
        made = import_weights(
            autoencoder,
            language_model,
            name=name,
            tokenizer=tokenizer,
            study=study,
            dtype=dtype,
            trained_tokens=trained_tokens,
            overrides=overrides,
            home=home,
            display=display,
        )
    if as_json:
        print(made.record.model_dump_json(indent=1))
    else:
        _print(made.record, made.folder, None if trained_tokens is None else round(trained_tokens))
    if study is not None:
        _note_text(made.folder, open_home(home), study)


def _note_text(run_dir: Path, place: Home, study: str) -> None:
    """One line where the run cannot be compared with those of the study; none where that one's file is damaged."""
    import contextlib

    from studies.beside import other_text
    from studies.prepare import read_study_file
    from studies.spec import from_stored
    from workbench import records
    from workbench.cli.display import make_console
    from workbench.config_file import stored_config
    from workbench.errors import UserError

    found = None
    with contextlib.suppress(UserError):  # the import has succeeded, whatever there is to say of the study
        tree = (read_study_file(place, study) or {}).get("spec") or {}
        spec = from_stored(tree, f"the specification of {study}")
        found = other_text(spec, stored_config(run_dir / records.CONFIG))
    if found is None:
        return
    told = f"note: the run is on {found.run}, {study} on {found.study}: their scores will not be compared"
    tokenizer = f"launch a study with the section data.tokenizer of {run_dir / records.CONFIG}"
    again = f"import with --set data.NAME=VALUE as {study} has it"
    remedy = tokenizer if found.tokenizer else again
    make_console(stderr=True).print(f"{told}; {remedy}", style="yellow", markup=False, soft_wrap=True)


def _print(record: RunRecord, run_dir: Path, trained_tokens: int | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from workbench.cli.display import make_console
    from workbench.records import read_autoencoder_report

    table = Table("", "", title=escape(record.name), show_header=False)
    for group, number in record.parameters.items():
        table.add_row(f"parameters: {escape(group)}", f"{number:,}")
    given = (
        f" ({trained_tokens:,} given: whole steps count)" if trained_tokens not in (None, record.tokens) else ""
    )
    table.add_row("training", f"{record.tokens:,} tokens{given}" if record.tokens else "not known")
    report = read_autoencoder_report(run_dir)
    if report is not None:
        accuracy = ", ".join(f"{p.accuracy:.2%} ({p.noise:g})" for p in report.noise_accuracy)
        table.add_row("autoencoder's held-out accuracy (noise)", accuracy)
    for diagnostic in record.diagnostics:
        table.add_row(diagnostic.code, escape(diagnostic.message))
    table.add_row("folder", escape(str(run_dir)))
    make_console().print(table)


def export(
    run: Annotated[str, typer.Argument(help="Run folder, id or name.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must be new or empty.")],
    dtype: DtypeOption = None,
    shard_gb: Annotated[
        float, typer.Option(min=0.001, max=10_000.0, help="Gigabytes of weights in one file at most.")
    ] = 5.0,
    home: HomeOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Write a run's weights in the layout of the released CALM models: OUT/autoencoder and OUT/language-model."""
    import json

    from workbench.cli.display import RunDisplay, make_console
    from workbench.home import open_home
    from workbench.released.export import export_released
    from workbench.run_names import find_run

    place = open_home(home)
    with RunDisplay(make_console(stderr=True, lasting=True)) as display:
        done = export_released(
            find_run(run, place), out, dtype=dtype, shard_bytes=round(shard_gb * 1e9), display=display
        )
    found: dict[str, Any] = {
        "autoencoder": str(done.autoencoder),
        "language_model": str(done.language_model),
        "tensors": done.dtypes,
        "notes": done.notes,
    }
    if as_json:
        print(json.dumps(found, indent=1))
        return
    console = make_console()
    for note in done.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    counts = ", ".join(f"{number} in {kind}" for kind, number in done.dtypes.items())
    console.print(f"tensors: {counts}", markup=False, soft_wrap=True)
    print(done.autoencoder)
    print(done.language_model)
