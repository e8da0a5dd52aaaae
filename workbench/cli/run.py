"""``calm train``, ``calm evaluate``, ``calm sample``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from workbench.config import RunConfig
    from workbench.records import Evaluation, RunRecord

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="CALM_HOME", help="Folder of runs, caches and databases.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a field, e.g. model.chunk_size=4."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(train)
    app.command()(evaluate)
    app.command()(sample)


def train(
    config: Annotated[
        Path, typer.Argument(help="YAML file, or a preset such as small-calm; every field has a default.")
    ],
    set_: SetOption = None,
    home: HomeOption = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the file's name.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow; default: a local database in --home; 'none': no tracking.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Parameters and FLOPs; trains nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Train and evaluate one model. An interrupted run is continued by the same command."""
    from workbench.config_file import load_config, parse_assignments

    asked = load_config(config, parse_assignments(set_ or []))
    title = name or asked.name or config.stem
    if dry_run:
        _dry_run(asked, home, as_json)
        return
    from workbench.cli.display import RunDisplay, make_console
    from workbench.home import open_home
    from workbench.runner import Identity, execute, resolve
    from workbench.tracking import SINGLE, open_tracker

    place = open_home(home)
    tracker = open_tracker(tracking_uri, experiment=SINGLE, home=place)
    console = make_console(stderr=as_json)
    resolved = resolve(asked, place)
    run_dir = place.single_runs() / f"{_slug(title)}-{resolved.hash()[:8]}"
    try:
        with RunDisplay(console) as display:
            record = execute(
                resolved, run_dir, home=place, identity=Identity(name=title), tracker=tracker, display=display
            )
    except KeyboardInterrupt:
        typer.echo("calm: interrupted; the same command continues where it stopped", err=True)
        raise
    finally:
        tracker.close()
    if as_json:
        print(record.model_dump_json(indent=1))
    else:
        _print_record(console, record, run_dir)
    if record.status == "not_finite":
        raise typer.Exit(1)


def evaluate(
    run: Annotated[str, typer.Argument(help="Run folder, id or name.")],
    set_: SetOption = None,
    split: Annotated[str | None, typer.Option(help="validation or test; default: as in training.")] = None,
    home: HomeOption = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a trained run again: other positions, more samples, the test split (--set eval.NAME=VALUE)."""
    from workbench import files
    from workbench.cli.display import make_console
    from workbench.config_file import build_config, parse_assignments
    from workbench.errors import ConfigError
    from workbench.evaluate import evaluate as score
    from workbench.evaluate import evaluation_grid, floors
    from workbench.home import open_home
    from workbench.saved_runs import find_run, load_run

    place = open_home(home)
    run_dir = find_run(run, place)
    overrides = parse_assignments(set_ or []) | ({"eval.split": split} if split else {})
    foreign = [field for field in overrides if not field.startswith("eval.")]
    if foreign:
        raise ConfigError(f"calm evaluate changes eval.* only, {foreign[0]} given; train a run with it instead")
    saved = load_run(run_dir, place)
    config = build_config(saved.config.to_dict(), overrides)
    grid = evaluation_grid(config.eval, saved.corpus)
    with make_console(stderr=True).status("evaluating"):
        evaluation, _ = score(
            saved.model,
            config.eval,
            grid,
            phase=saved.phase,
            step=saved.step,
            tokens=saved.tokens,
            flops=saved.train_flops,
        )
        floor = floors(saved.corpus, config.eval, grid, place.cache)
    file = run_dir / f"evaluation-{evaluation.fingerprint}-s{config.eval.seed}.json"
    files.write_atomic(file, evaluation.model_dump_json(indent=1) + "\n")
    if as_json:
        print(evaluation.model_dump_json(indent=1))
        return
    console = make_console()
    floor_values = {name: [*value.brier, value.brierlm] for name, value in floor.items()}
    _print_scores(console, f"{saved.record.name}, {config.eval.split}", evaluation, floor_values)


def sample(
    run: Annotated[str, typer.Argument(help="Run folder, id or name.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 256,
    num: Annotated[int, typer.Option(min=1, help="Independent continuations.")] = 1,
    seed: Annotated[int, typer.Option(help="Equal seed, equal text.")] = 0,
    home: HomeOption = Path("runs"),
) -> None:
    """Continue a text at temperature 1."""
    from rich.console import Console
    from rich.progress import Progress

    from workbench.home import open_home
    from workbench.layers import generator
    from workbench.sampling import generate
    from workbench.saved_runs import find_run, load_run

    place = open_home(home)
    saved = load_run(find_run(run, place), place)
    tokenizer = saved.corpus.tokenizer
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("sampling", total=tokens)
        made = generate(
            saved.model,
            tokenizer.encode(prompt),
            num_texts=num,
            num_tokens=tokens,
            rng=generator(seed, "sample", device=saved.model.device),
            progress=lambda done: progress.update(task, completed=done),
        )
    for i, row in enumerate(made[:, :tokens].tolist()):
        if num > 1:
            print(f"--- {i + 1} of {num}")
        print(prompt + tokenizer.decode(row))


def _dry_run(asked: RunConfig, home: Path, as_json: bool) -> None:
    import json

    from workbench.flops import describe, vocab_size
    from workbench.home import Home
    from workbench.machine import resolve
    from workbench.speed import training_flops_per_second

    config = resolve(asked, Home(home.resolve()).cache)
    described = describe(config)
    speed = training_flops_per_second(config, vocab_size(config))
    described["training_flops_per_second"] = speed
    described["estimated_training_seconds"] = described["train_flops"] / speed if speed else None
    if as_json:
        print(json.dumps({**described, "config": config.to_dict()}, indent=1))
        return
    from rich.table import Table

    from workbench.cli.display import make_console

    table = Table("", "", title="dry run: nothing is trained", show_header=False)
    for name, value in _flat(described):
        table.add_row(name, value)
    make_console().print(table)


def _flat(described: dict[str, Any]) -> list[tuple[str, str]]:
    from workbench.config_file import flatten

    shown = []
    for name, value in flatten(described).items():
        text = (
            f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        )
        shown.append((name.replace(".", ": ").replace("_", " "), text))
    return shown


def _print_record(console: Console, record: RunRecord, run_dir: Path) -> None:
    """The summary at the end of a run."""
    from rich.table import Table

    if record.final is not None:
        floors = {name: [*floor.brier, floor.brierlm] for name, floor in record.floors.items()}
        _print_scores(console, record.name, record.final, floors)
    table = Table("", "", show_header=False)
    table.add_row("status", record.status + (f": {record.reason}" if record.reason else ""))
    table.add_row("steps, tokens", f"{record.step:,} of {record.num_steps:,}, {record.tokens:,}")
    table.add_row("parameters", f"{record.parameters.get('total', 0):,}")
    table.add_row("training", f"{record.train_seconds:.0f} s, {record.tokens_per_second:,.0f} tokens/s")
    table.add_row("training FLOPs", f"{record.compute.get('train_flops', 0):.3g}")
    table.add_row("inference FLOPs/token", f"{record.compute.get('infer_flops_per_token', 0):.3g}")
    _add_autoencoder(table, run_dir)
    for diagnostic in record.diagnostics:
        table.add_row(diagnostic.code, diagnostic.message)
    table.add_row("folder", str(run_dir))
    console.print(table)


def _add_autoencoder(table: Table, run_dir: Path) -> None:
    from workbench.records import read_autoencoder_report

    report = read_autoencoder_report(run_dir)
    if report is None:
        return
    accuracy = ", ".join(f"{p.accuracy:.2%} ({p.noise:g})" for p in report.noise_accuracy)
    table.add_row("autoencoder", f"{report.train_seconds:.0f} s, {report.train_flops:.3g} FLOPs, apart")
    table.add_row("held-out accuracy (noise)", f"{accuracy}; posterior samples {report.posterior_accuracy:.2%}")
    table.add_row("latent dimensions", f"{report.latent_dim}, {report.num_collapsed} collapsed")


def _print_scores(console: Console, title: str, evaluation: Evaluation, floors: dict[str, list[float]]) -> None:
    from rich.table import Table

    brier = evaluation.brier
    table = Table("", "Brier-1 %", "Brier-2 %", "Brier-3 %", "Brier-4 %", "BrierLM", title=title)
    pairs = zip([*brier.brier, brier.brierlm], [*brier.brier_se, brier.brierlm_se], strict=True)
    table.add_row("model", *(f"{value:.2f} ± {se:.2f}" for value, se in pairs))
    for name, values in floors.items():
        table.add_row(f"{name} table", *(f"{value:.2f}" for value in values))
    console.print(table)
    if evaluation.cross_entropy is not None:
        console.print(f"cross-entropy {evaluation.cross_entropy:.4f} nats per token")
    console.print(
        f"{brier.num_positions:,} positions in {brier.num_clusters} clusters; ± is one standard error; "
        f"evaluation {evaluation.fingerprint}",
        highlight=False,
    )


def _slug(text: str) -> str:
    import re

    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "run"
