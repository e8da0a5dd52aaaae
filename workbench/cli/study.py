"""``calm study``: list, show, run, status, retry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.accounts import AutoencoderOption, CausalOption, ContextOption, CountOption, LengthOption
from workbench.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

Home = Annotated[str, typer.Option("--home", envvar="CALM_HOME", help="Folder of runs and caches.")]
Name = Annotated[str, typer.Argument(help="A study, or the name of a launch (STUDY-PRESET unless --name said).")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage", help="Database URL (sqlite or postgresql); default: the launch's own or HOME/optuna.db."
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
    str, typer.Option("--workers", help="Processes; auto tries which number trains most in all on this machine.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Of each worker; left out, the cores are shared out.")
]

study_app = typer.Typer(no_args_is_help=True, help="Studies: many runs that answer one question.")


def register(app: typer.Typer) -> None:
    app.add_typer(study_app, name="study")


def _number_of_workers(text: str) -> int | None:
    """None for ``auto``. Raises StudyError for what is no number; ``studies.staffing`` checks its size."""
    from workbench.errors import StudyError

    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise StudyError(f"--workers wants a number or auto, {text!r} given") from None


def _console() -> Console:
    from workbench.cli.display import make_console

    return make_console()


@study_app.command("list")
def list_studies(home: Home = "runs") -> None:
    """The studies there are, their presets, and what was launched."""
    from pathlib import Path

    from studies import find_studies
    from workbench.home import Home as HomePaths

    console = _console()
    for name, study in find_studies().items():
        console.print(f"[bold]{name}[/bold]  {study.summary}")
        for preset in study.load_presets():
            console.print(f"  --preset {preset}: {study.preset(preset).description}", soft_wrap=True)
    launched = HomePaths(Path(home).resolve()).root
    for path in sorted(launched.glob("*/study.json")):
        state = "finished" if (path.parent / "summary.json").exists() else "started"
        console.print(f"launched: {path.parent.name} ({state})", soft_wrap=True)


@study_app.command("show")
def show(
    name: Name,
    preset: Annotated[str, typer.Option("--preset", help="quick, cpu, ...")] = "quick",
    workers: Workers = "auto",
    threads: Threads = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1)] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1)] = None,
    sets: Sets = None,
    home: Home = "runs",
    count: CountOption = "executed",
    causal: CausalOption = False,
    autoencoder: AutoencoderOption = "apart",
    context: ContextOption = None,
    length: LengthOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every setting and cell, not only what costs apart.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Dry run: search space if any, cells, parameters, training and inference FLOPs by part, steps and estimated
    time. Nothing is trained."""
    from pathlib import Path

    from studies import find_studies
    from studies.show import dry_run, structures
    from studies.spec import freeze, suggestion
    from studies.staffing import planned_staffing
    from workbench.cli.accounts import counting_of
    from workbench.cli.study_show import dry_run_json, print_dry_run
    from workbench.config_file import parse_assignments
    from workbench.errors import StudyError
    from workbench.home import Home as HomePaths

    known = find_studies()
    if name not in known:
        raise StudyError(f"there is no study {name!r}; {suggestion(name, known)}")
    counting = counting_of(count, causal, autoencoder, context, length, shared="apart")
    spec = freeze(known[name], preset, trials=trials, seeds=seeds, overrides=parse_assignments(sets or []))
    place = HomePaths(Path(home).resolve())
    staffing = planned_staffing(spec, place, workers=_number_of_workers(workers), threads=threads)
    plan = dry_run(spec, place, staffing.split)
    costs = structures(spec, counting, shared=autoencoder == "shared", every=every)
    if as_json:
        print(dry_run_json(spec, plan, costs, staffing))
    else:
        print_dry_run(_console(), spec, plan, costs, staffing)


@study_app.command("run")
def run(
    name: Name,
    preset: Annotated[str | None, typer.Option("--preset", help="quick (default), cpu, ...")] = None,
    launch: Annotated[
        str | None, typer.Option("--name", help="Name of a new launch; default STUDY-PRESET.")
    ] = None,
    workers: Workers = "auto",
    threads: Threads = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="Trials of a search that are to complete.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Runs per trial or cell, averaged.")] = None,
    storage: Storage = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", envvar="CALM_TRACKING_URI", help="MLflow server; 'none' for no tracking."),
    ] = None,
    sets: Sets = None,
    home: Home = "runs",
    execute: Execute = None,
) -> None:
    """Launch a study, or resume it: finished trials and cells are never repeated."""
    from studies import launch as launching
    from studies.display import Display
    from studies.objective import DEFAULT_RUNNER
    from studies.prepare import Options
    from workbench.config_file import parse_assignments
    from workbench.home import open_home

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
        execute=execute or DEFAULT_RUNNER,
    )
    console = _console()
    result = launching.run(options, open_home(home), Display(console, name))
    _print_result(console, result)
    if result.interrupted:
        raise typer.Exit(130)
    if not result.already_finished and tracking_uri != "none":
        from workbench.cli.study_report import deliver_report

        note = deliver_report(result.launch.home, result.launch.name, tracking_uri=tracking_uri)
        if note:
            console.print(note, style="yellow", markup=False, soft_wrap=True)


def _print_result(console: Console, result: Any) -> None:
    from studies.display import final_table, progress_text

    name, state = result.launch.name, result.state
    if result.interrupted:
        console.print(
            f"interrupted ({progress_text(state)}); continue with: calm study run {name}", soft_wrap=True
        )
        return
    if result.already_finished:
        more = f"; more trials: calm study run {name} --trials N" if state.searches else ""
        console.print(f"{name} is finished already{more}", soft_wrap=True)
    console.print(final_table(state))
    failures = state.of_state("fail")
    for row in failures:
        console.print(f"failed: {row.label} {row.params}: {row.reason}", markup=False, soft_wrap=True)
    if failures:
        console.print(f"failed ones again: calm study retry {name}, then calm study run {name}", soft_wrap=True)
    if state.search.complete < state.trials_wanted:
        console.print(
            f"the search ended with {state.search.complete} of {state.trials_wanted} trials: as many as allowed "
            f"({result.launch.spec.max_extra}) were pruned or failed",
            soft_wrap=True,
        )
    console.print(f"study folder: {result.launch.folder}", soft_wrap=True)


@study_app.command("status")
def status(name: Name, storage: Storage = None, home: Home = "runs") -> None:
    """Trials, workers, failures with their reasons, time left."""
    from studies.display import status_lines
    from studies.prepare import find_launch
    from studies.progress import snapshot
    from workbench.home import open_home

    launch = find_launch(open_home(home), name, storage)
    state = snapshot(launch, workers=None)
    console = _console()
    console.print(f"[bold]{launch.name}[/bold] ({launch.folder})", soft_wrap=True)
    for line in status_lines(state):
        console.print(line, markup=False, soft_wrap=True)
    message = launch.search.user_attrs.get("abort")
    if message:
        console.print(f"ended by an error: {message}", markup=False, soft_wrap=True)


@study_app.command("retry")
def retry(name: Name, storage: Storage = None, home: Home = "runs") -> None:
    """Queue failed trials and cells again; `calm study run NAME` then runs them."""
    from studies.prepare import find_launch
    from studies.prepare import retry as retry_failed
    from workbench.home import open_home

    launch = find_launch(open_home(home), name, storage)
    queued = retry_failed(launch)
    console = _console()
    if not queued:
        console.print(f"{launch.name}: nothing has failed")
        return
    console.print(f"queued again: {', '.join(queued)}; now: calm study run {launch.name}", soft_wrap=True)
