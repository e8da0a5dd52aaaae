"""``calm train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.accounts import (
    AutoencoderOption,
    CausalOption,
    ContextOption,
    CountOption,
    LengthOption,
    require_no_counting,
)
from workbench.cli.devices import (
    DevicesOption,
    FlopsOption,
    MemoryOption,
    UtilisationOption,
    devices_of,
    require_dry_run,
)
from workbench.cli.options import HomeOption, TrackingOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from workbench.cli.ranks import Group
    from workbench.config import RunConfig
    from workbench.home import Home
    from workbench.progress import Display
    from workbench.records import Bottleneck, RunRecord
    from workbench.tracking import Tracker

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a field, e.g. model.chunk_size=4."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    config: Annotated[
        Path, typer.Argument(help="YAML file, or a preset such as small-calm; every field has a default.")
    ],
    set_: SetOption = None,
    home: HomeOption = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the file's name.")] = None,
    tracking_uri: TrackingOption = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=10_000, help="So many runs, with the seeds seed, seed + 1, ...")
    ] = 1,
    ranks: Annotated[
        int, typer.Option("--ranks", min=1, max=1024, help="Processes on this machine that train a run together.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Parameters and FLOPs; trains nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    count: CountOption = "executed",
    causal: CausalOption = False,
    autoencoder: AutoencoderOption = "apart",
    context: ContextOption = None,
    length: LengthOption = None,
    devices: DevicesOption = 1,
    device_memory: MemoryOption = None,
    device_flops: FlopsOption = None,
    utilisation: UtilisationOption = 0.4,
) -> None:
    """Train and evaluate one model, or the same one with several seeds. An interrupted run is continued by the
    same command, with as many --ranks as you like; what is finished is not repeated. On several machines: torchrun
    -m workbench.cli train, or srun."""
    from workbench.api import require_name
    from workbench.cli.ranks import among_ranks
    from workbench.config_file import load_config, parse_assignments

    if name is not None:
        require_name(name)
    if not dry_run:
        require_dry_run(devices, device_memory, device_flops)
        require_no_counting(count, causal, autoencoder, context, length)
    with among_ranks(1 if dry_run else ranks, home) as group:
        asked = load_config(config, parse_assignments(set_ or []))
        group.agree_on(asked, seeds)
        title = name or asked.name or config.stem
        if group.leads and not dry_run:
            _train(asked, title, seeds, home, tracking_uri, as_json, group)
    if dry_run:
        from workbench.cli.accounts import counting_of
        from workbench.cli.dry_run import print_dry_run

        counting = counting_of(count, causal, autoencoder, context, length, shared=1 / seeds)
        planned = devices_of(devices, device_memory, device_flops, utilisation)
        print_dry_run(asked, title, home, seeds, as_json, counting, planned)


def _train(
    asked: RunConfig, title: str, seeds: int, home: Path, tracking_uri: str | None, as_json: bool, group: Group
) -> None:
    from workbench.api import slug
    from workbench.cli.display import make_console
    from workbench.data import require_source
    from workbench.home import Home, open_home
    from workbench.records import BAD_NUMBERS as bad_numbers
    from workbench.tracking import SINGLE, open_tracker
    from workbench.tracking_sync import deliver_left_aside

    begun = any(Home(home).single_runs().glob(f"{slug(title)}-*/record.json"))  # goes on without a server, too
    if not begun:
        require_source(asked.data)
    place = open_home(home)
    tracker = open_tracker(tracking_uri, experiment=SINGLE, home=place, later=begun)
    deliver_left_aside(place, tracking_uri)
    console = make_console(stderr=as_json, lasting=True)
    try:
        done = _train_seeds(console, asked, title, seeds, place, tracker, group)
    except KeyboardInterrupt:
        if not group.has_failed():
            typer.echo("calm: interrupted; the same command continues where it stopped", err=True)
        raise
    finally:
        tracker.close()
    records = [record for record, _ in done]
    if as_json:
        print(records[0].model_dump_json(indent=1) if seeds == 1 else _json_list(records))
    elif seeds == 1:
        _print_record(console, *done[0])
    else:
        _print_seeds(console, records, [run_dir for _, run_dir in done])
    if any(record.status in bad_numbers for record in records):
        raise typer.Exit(1)


def _train_seeds(
    console: Console, asked: RunConfig, title: str, seeds: int, place: Home, tracker: Tracker, group: Group
) -> list[tuple[RunRecord, Path]]:
    """The records and folders of the runs with seeds ``asked.seed``, ``asked.seed + 1``, ...

    A run's folder depends on its own seed alone, so that ``--seeds 3`` finds what ``--seeds 1`` has trained.
    One whose loss is not finite does not stop the others."""
    from workbench.api import run_folder
    from workbench.cli.display import RunDisplay
    from workbench.runner import Identity, execute, resolve

    done = []
    for number in range(seeds):
        resolved = resolve(asked.model_copy(update={"seed": asked.seed + number}), place)
        run_dir = run_folder(title, resolved, place)
        name = title if seeds == 1 else f"{title} s{resolved.seed}"
        with RunDisplay(console) as display:
            shown: Display = display
            if seeds > 1:
                shown = _SeedDisplay(display, resolved.seed)
                shown.note(f"run {number + 1} of {seeds}, folder {run_dir}")
            record = execute(
                resolved,
                run_dir,
                home=place,
                identity=Identity(name=name),
                tracker=tracker,
                display=shown,
                ranks=group.ranks(),
            )
        done.append((record, run_dir))
    return done


class _SeedDisplay:
    """A ``workbench.progress.Display`` that says which seed's run it shows."""

    def __init__(self, inner: Display, seed: int) -> None:
        self.inner, self.seed = inner, seed

    def stage(self, name: str, total: int) -> None:
        self.inner.stage(f"seed {self.seed}: {name}", total)

    def advance(self, done: int, **values: float) -> None:
        self.inner.advance(done, **values)

    def saved(self, done: int) -> None:
        self.inner.saved(done)

    def note(self, text: str) -> None:
        self.inner.note(f"seed {self.seed}: {text}")


def _print_record(console: Console, record: RunRecord, run_dir: Path) -> None:
    """The summary at the end of a run."""
    from rich.markup import escape
    from rich.table import Table

    from workbench.cli.score import print_overlap, print_scores

    if record.final is not None:
        floors = {name: [*floor.brier, floor.brierlm] for name, floor in record.floors.items()}
        print_scores(console, record.name, record.final, floors)
    if record.overlap is not None:
        print_overlap(console, record.overlap)
    if record.bottleneck is not None:
        _print_bottleneck(console, record.bottleneck)
    table = Table("", "", show_header=False)
    table.add_row("status", escape(record.status + (f": {record.reason}" if record.reason else "")))
    table.add_row("steps, tokens", f"{record.step:,} of {record.num_steps:,}, {record.tokens:,}")
    table.add_row("parameters", f"{record.parameters.get('total', 0):,}")
    table.add_row("training", f"{record.train_seconds:.0f} s, {record.tokens_per_second:,.0f} tokens/s")
    table.add_row("training FLOPs", f"{record.compute.get('train_flops', 0):.3g}")
    table.add_row("inference FLOPs/token", f"{record.compute.get('infer_flops_per_token', 0):.3g}")
    _add_autoencoder(table, run_dir)
    for diagnostic in record.diagnostics:
        table.add_row(diagnostic.code, escape(diagnostic.message))
    table.add_row("folder", escape(str(run_dir)))
    console.print(table)


def _print_bottleneck(console: Console, panel: Bottleneck) -> None:
    """Where the quality of a CALM is lost, part by part."""
    from rich.markup import escape
    from rich.table import Table

    from workbench.bottleneck_words import lost

    table = Table("", "", title="bottleneck, %", show_header=False)
    for name, value in lost(panel):
        table.add_row(escape(name), escape(value))
    console.print(table)


def _print_seeds(console: Console, records: list[RunRecord], run_dirs: list[Path]) -> None:
    """The runs of one configuration with several seeds: BrierLM ± one standard error of the evaluation for each,
    and over those that completed their mean and standard deviation (n - 1)."""
    import statistics

    from rich.table import Table
    from rich.text import Text

    table = Table("seed", "name", "BrierLM", "status", "folder", title=f"{len(records)} seeds")
    for record, run_dir in zip(records, run_dirs, strict=True):
        score = record.final.brier.words() if record.final is not None else ""
        status = record.status + (f": {record.reason}" if record.reason else "")
        table.add_row(str(record.seed), *map(Text, (record.name, score, status, str(run_dir))))
    console.print(table)
    for record in records:
        for diagnostic in record.diagnostics:
            console.print(f"seed {record.seed}: {diagnostic.code}: {diagnostic.message}", markup=False)
    scores = [r.final.brier.brierlm for r in records if r.status == "completed" and r.final is not None]
    if not scores:
        console.print("no seed completed, so there is no mean")
        return
    between = f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "not known from one run"
    console.print(
        f"mean BrierLM of {len(scores)} completed seed(s): {statistics.mean(scores):.2f}; standard deviation "
        f"between seeds: {between}; ± is one standard error of the evaluation alone",
        soft_wrap=True,
    )
    _print_noise(console, records, run_dirs, statistics.mean(scores))


def _print_noise(console: Console, records: list[RunRecord], run_dirs: list[Path], mean: float) -> None:
    """The variance between seeds split into training and evaluation noise, and what that means for comparisons."""
    import math

    from workbench.pairs import align
    from workbench.positions import POSITIONS, read_positions
    from workbench.seeds import seed_noise, seeds_needed

    done = [d for r, d in zip(records, run_dirs, strict=True) if r.status == "completed" and r.final is not None]
    if len(done) < 2:
        return
    shared = align([read_positions(run_dir / POSITIONS) for run_dir in done], [run_dir.name for run_dir in done])
    noise = seed_noise([shared.values], shared.clusters)
    if noise is None:
        console.print("a seed has a BrierLM of 0: the seeds' scatter says nothing about training noise")
        return
    console.print(
        f"of it training noise {noise.sd_training:.2f} and evaluation noise {noise.sd_evaluation:.2f}; 95 % "
        f"interval of the whole [{noise.low:.2f}, {noise.high:.2f}] ({noise.dof} degrees of freedom)",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    unit = 10.0 ** math.floor(math.log10(mean)) if mean > 0 else 1.0
    needed = ((step * unit, seeds_needed(noise, step * unit)) for step in (0.2, 0.5, 1.0))
    words = [f"{wish:g}: {'over 1,000' if num is None else num}" for wish, num in needed]
    console.print(
        "seeds of each of two settings that show a true difference of so many BrierLM points with a chance of "
        "80 %: " + ", ".join(words),
        soft_wrap=True,
        highlight=False,
    )


def _json_list(records: list[RunRecord]) -> str:
    import json

    return json.dumps([record.model_dump(mode="json") for record in records], indent=1)


def _add_autoencoder(table: Table, run_dir: Path) -> None:
    from workbench.records import read_autoencoder_report

    report = read_autoencoder_report(run_dir)
    if report is None:
        return
    accuracy = ", ".join(f"{p.accuracy:.2%} ({p.noise:g})" for p in report.noise_accuracy)
    table.add_row("autoencoder", f"{report.train_seconds:.0f} s, {report.train_flops:.3g} FLOPs, apart")
    table.add_row("held-out accuracy (noise)", f"{accuracy}; posterior samples {report.posterior_accuracy:.2%}")
    table.add_row("latent dimensions", f"{report.latent_dim}, {report.num_collapsed} collapsed")
