"""``calm study``: list, show, run, status, retry, stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.accounts import AutoencoderOption, CausalOption, ContextOption, CountOption, LengthOption
from workbench.cli.devices import DevicesOption, FlopsOption, MemoryOption, UtilisationOption
from workbench.cli.options import HomeOption, JsonOption, TrackingOption
from workbench.cli.study_slurm import Cpus, Gpus, Launcher, Partition, SlurmOptions, Time

if TYPE_CHECKING:
    from rich.console import Console

    from studies.spec import Study

Name = Annotated[str, typer.Argument(help="A study, or the name of a launch (STUDY-PRESET unless --name said).")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="CALM_STORAGE",
        help="Database URL (sqlite or postgresql); default: the launch's own or HOME/optuna.db.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="dotted.name=value of the shared configuration; may be repeated."),
]
Execute = Annotated[
    str | None,
    typer.Option("--execute", help="module:function that runs a configuration (custom runners).", hidden=True),
]

Workers = Annotated[
    str | None,
    typer.Option(
        "--workers",
        help="Processes; auto tries which number trains most in all on this machine. Left out: as asked for in "
        "the last session, otherwise auto.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=4096,
        help="Of each worker; left out: as in the last session, otherwise OMP_NUM_THREADS, otherwise the cores "
        "are shared out.",
    ),
]

study_app = typer.Typer(no_args_is_help=True, help="Studies: many runs that answer one question.")


def register(app: typer.Typer) -> None:
    app.add_typer(study_app, name="study")


def _number_of_workers(text: str | None) -> int | None:
    """None for ``auto`` and where nothing is said. Raises StudyError for what is no number; ``studies.staffing``
    checks its size."""
    from workbench.errors import StudyError

    if text is None or text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise StudyError(f"--workers wants a number or auto, {text!r} given") from None


def _console(*, lasting: bool = False) -> Console:
    from workbench.cli.display import make_console

    return make_console(lasting=lasting)


@study_app.command("list")
def list_studies(home: HomeOption = Path("runs")) -> None:
    """The studies there are, their presets, and what was launched."""

    from studies import find_studies
    from workbench.home import home_as_it_is

    console = _console()
    for name, study in find_studies().items():
        console.print(f"{name}  {study.summary}", markup=False)
        for line, wrong in _presets_of(study):
            style = "yellow" if wrong else None
            console.print(f"  {line}", style=style, soft_wrap=True, markup=False)
    launched = home_as_it_is(home).root
    for path in sorted(launched.glob("*/study.json")):
        state = "finished" if (path.parent / "summary.json").exists() else "started"
        shown = path.parent.name.encode("utf-8", "replace").decode()
        console.print(f"launched: {shown} ({state})", soft_wrap=True, markup=False)


def _presets_of(study: Study) -> list[tuple[str, bool]]:
    """A line for each preset, and whether it says what cannot be read: no reason to list no other study."""
    from workbench.errors import UserError

    try:
        presets = study.load_presets()
    except UserError as error:
        return [(str(error), True)]
    lines = []
    for name in presets:
        try:
            lines.append((f"--preset {name}: {study.preset(name).description}", False))
        except UserError as error:
            lines.append((f"--preset {name} cannot be used: {error}", True))
    return lines


@study_app.command("show")
def show(
    name: Name,
    preset: Annotated[str | None, typer.Option("--preset", help="quick (default), cpu, ...")] = None,
    workers: Workers = None,
    threads: Threads = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, max=1_000_000)] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, max=10_000)] = None,
    storage: Storage = None,
    sets: Sets = None,
    home: HomeOption = Path("runs"),
    count: CountOption = "executed",
    causal: CausalOption = False,
    autoencoder: AutoencoderOption = "apart",
    context: ContextOption = None,
    length: LengthOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every setting and cell, not only what costs apart.")
    ] = False,
    devices: DevicesOption = 1,
    device_memory: MemoryOption = None,
    device_flops: FlopsOption = None,
    utilisation: UtilisationOption = 0.4,
    as_json: JsonOption = False,
) -> None:
    """Dry run: search space if any, cells, parameters, training and inference FLOPs by part, steps and estimated
    time, on this machine or on devices that are not here. Nothing is trained. Of a launch: as it was launched."""

    from studies.prepare import Options, read_study_file, spec_to_show
    from studies.show import dry_run, on_devices, structures
    from studies.staffing import device_staffing, last_session, planned_staffing
    from workbench.cli.accounts import counting_of
    from workbench.cli.devices import devices_of
    from workbench.cli.study_show import dry_run_json, print_dry_run
    from workbench.config_file import parse_assignments
    from workbench.home import home_as_it_is

    place = home_as_it_is(home)
    counting = counting_of(count, causal, autoencoder, context, length, shared="apart")
    asked = Options(name, preset, None, trials, seeds, parse_assignments(sets or []), storage)
    spec = spec_to_show(asked, place)
    planned = devices_of(devices, device_memory, device_flops, utilisation)
    if planned is not None and planned.flops is not None and workers in (None, "auto"):
        staffing = device_staffing(spec, planned.count)
    else:
        last = None if workers == "auto" else last_session(read_study_file(place, spec.name))
        number = _number_of_workers(workers)
        staffing = planned_staffing(spec, place, workers=number, threads=threads, last=last)
    plan = dry_run(spec, place, staffing.split, planned)
    costs = structures(spec, counting, shared=autoencoder == "shared", every=every)
    there = on_devices(spec, costs, planned) if planned is not None else ()
    if as_json:
        print(dry_run_json(spec, plan, costs, staffing, there))
    else:
        print_dry_run(_console(), spec, plan, costs, staffing, there)


@study_app.command("run")
def run(
    name: Name,
    preset: Annotated[str | None, typer.Option("--preset", help="quick (default), cpu, ...")] = None,
    launch: Annotated[
        str | None, typer.Option("--name", help="Name of a new launch; default STUDY-PRESET.")
    ] = None,
    workers: Workers = None,
    threads: Threads = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="Trials of a search that are to complete.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Runs per trial or cell, averaged.")] = None,
    storage: Storage = None,
    tracking_uri: TrackingOption = None,
    sets: Sets = None,
    home: HomeOption = Path("runs"),
    launcher: Launcher = "local",
    partition: Partition = None,
    gpus_per_worker: Gpus = None,
    cpus_per_worker: Cpus = None,
    time: Time = None,
    slurm: SlurmOptions = None,
    execute: Execute = None,
) -> None:
    """Launch a study, or resume it: finished trials and cells are never repeated. Exit code 1: none completed."""
    from studies import launch as launching
    from studies.display import Display
    from studies.objective import DEFAULT_RUNNER
    from studies.prepare import Options
    from workbench.cli.study_slurm import JobOptions, check_launcher, submit_jobs
    from workbench.config_file import parse_assignments
    from workbench.home import home_unless_refused

    jobs = JobOptions(partition, gpus_per_worker, cpus_per_worker, time, slurm)
    check_launcher(launcher, threads, jobs)
    options = Options(
        name=name,
        preset=preset,
        launch=launch,
        trials=trials,
        seeds=seeds,
        overrides=parse_assignments(sets or []),
        storage=storage,
        tracking_uri=tracking_uri,
        workers=_number_of_workers(workers),
        threads=threads,
        anew=workers == "auto",
        execute=execute or DEFAULT_RUNNER,
    )
    console = _console(lasting=True)
    with home_unless_refused(home) as place:
        if launcher == "slurm":
            submit_jobs(console, options, place, jobs)
            return
        try:
            result = launching.run(options, place, Display(console, name))
        except KeyboardInterrupt:  # before the workers had begun, or for the second time
            typer.echo("calm: interrupted; the same command goes on where it stopped", err=True)
            raise
    _print_result(console, result)
    if result.interrupted:
        raise typer.Exit(130)
    if not result.already_finished and tracking_uri != "none":
        from workbench.cli.study_report import deliver_report

        note = deliver_report(result.launch.home, result.launch.name, tracking_uri=tracking_uri)
        if note:
            console.print(note, style="yellow", markup=False, soft_wrap=True)
    if result.state.in_vain:
        raise typer.Exit(1)


def _print_result(console: Console, result: Any, command: str = "run") -> None:
    from studies.display import ending_text, final_table, progress_text

    name, named, state = result.launch.name, result.launch.named, result.state
    if result.interrupted:
        console.print(
            f"interrupted ({progress_text(state)}); continue with: calm study {command} {named}",
            soft_wrap=True,
            markup=False,
        )
        return
    if result.already_finished:
        more = f"; more trials: calm study run {named} --trials N" if result.launch.spec.may_grow else ""
        console.print(f"{name} is finished already{more}", soft_wrap=True, markup=False)
    console.print(final_table(state))
    for row in state.of_state("fail"):
        console.print(f"failed: {row.label} {row.params}: {row.reason}", markup=False, soft_wrap=True)
    if state.finished and state.search.complete < state.trials_wanted:
        console.print(
            f"the search ended with {state.search.complete} of {state.trials_wanted} trials: "
            f"{state.search.pruned + state.search.failed} were pruned or failed{_allowed(result.launch.spec)}",
            soft_wrap=True,
        )
    console.print(f"study folder: {result.launch.folder}", soft_wrap=True, markup=False)
    ending = ending_text(name, state, result.launch.home)
    if state.in_vain:
        print(f"calm: {ending}", file=sys.stderr, flush=True)
    elif ending:
        console.print(f"warning: {ending}", style="yellow", markup=False, soft_wrap=True)


def _allowed(spec: Any) -> str:
    return f", more than {spec.max_extra} are not replaced" if spec.may_grow else "; a grid does not replace them"


@study_app.command("status")
def status(
    name: Name, storage: Storage = None, home: HomeOption = Path("runs"), as_json: JsonOption = False
) -> None:
    """Trials, workers alive, time left, failures with their reasons."""
    import json

    from studies.prepare import find_launch
    from studies.status import status as status_of
    from studies.status import status_lines
    from workbench.home import home_unless_refused

    with home_unless_refused(home) as place:
        launch = find_launch(place, name, storage)
    state = status_of(launch)
    if as_json:
        print(json.dumps(state.to_dict(), indent=1))
        return
    console = _console()
    console.print(f"{launch.name} ({launch.folder})", markup=False, soft_wrap=True)
    for line in status_lines(state):
        console.print(line, markup=False, soft_wrap=True)


@study_app.command("stop")
def stop(name: Name, storage: Storage = None, home: HomeOption = Path("runs")) -> None:
    """Cancel the SLURM jobs of a study; `calm study run` continues it."""
    from workbench.cli.study_slurm import stop_jobs
    from workbench.home import home_unless_refused

    with home_unless_refused(home) as place:
        stop_jobs(_console(), name, storage, place)


@study_app.command("retry")
def retry(
    name: Name,
    queue: Annotated[
        bool, typer.Option("--queue", help="Only queue them; `calm study run NAME` then runs them with the rest.")
    ] = False,
    workers: Workers = None,
    threads: Threads = None,
    storage: Storage = None,
    tracking_uri: TrackingOption = None,
    home: HomeOption = Path("runs"),
    execute: Execute = None,
) -> None:
    """Run the failed trials and cells again, and nothing else."""
    from studies import launch as launching
    from studies.database import said_plainly
    from studies.display import Display
    from studies.objective import DEFAULT_RUNNER
    from studies.prepare import Options, find_launch
    from studies.prepare import retry as retry_failed
    from studies.retried import queued as queued_again
    from workbench.home import home_unless_refused

    number = _number_of_workers(workers)
    with home_unless_refused(home) as place:
        launch = find_launch(place, name, storage)
    runner = execute or DEFAULT_RUNNER
    retry_failed(launch, None if queue else runner)
    with said_plainly(launch.url, "the same command does it"):
        queued = queued_again(launch, running=not queue)
    console = _console()
    if not queued:
        console.print(f"{launch.name}: nothing has failed", markup=False)
        return
    listed = ", ".join(queued)
    if queue:
        then = f"now: calm study run {launch.named}"
        console.print(f"queued again: {listed}; {then}", markup=False, soft_wrap=True)
        return
    console.print(f"again: {listed}", markup=False, soft_wrap=True)
    options = Options(
        name=launch.name,
        storage=storage,
        tracking_uri=tracking_uri,
        workers=number,
        threads=threads,
        anew=workers == "auto",
        execute=runner,
        only_queued=True,
    )
    result = launching.run(options, place, Display(console, launch.name))
    _print_result(console, result, "retry")
    if result.interrupted:
        raise typer.Exit(130)
    if result.state.in_vain or result.state.of_state("fail"):
        raise typer.Exit(1)
