"""``calm evaluate``, ``calm compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from workbench.compare import Comparison
    from workbench.records import Evaluation, Overlap
    from workbench.rescore import Rescored

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a field, e.g. eval.num_samples=64."),
]
SplitOption = Annotated[str | None, typer.Option(help="validation or test; default: as in training.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(evaluate)
    app.command()(compare)


def evaluate(
    run: Annotated[str, typer.Argument(help="Run folder, id or name.")],
    set_: SetOption = None,
    split: SplitOption = None,
    target_se: Annotated[
        float | None, typer.Option(help="Draw more positions or samples until BrierLM's error is this small.")
    ] = None,
    home: HomeOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Score a trained run again: other positions, more samples, the test split (--set eval.NAME=VALUE)."""
    from workbench.cli.display import RunDisplay, make_console
    from workbench.cli.sampling_tables import print_sampling
    from workbench.home import open_home
    from workbench.rescore import rescore
    from workbench.run_names import find_run

    place = open_home(home)
    overrides = _overrides(set_, split)
    if target_se is not None:
        overrides["eval.target_se"] = target_se
    with RunDisplay(make_console(stderr=True, lasting=True)) as display:
        stage: list[int] = []

        def progress(done: int, wanted: int) -> None:
            if stage != [wanted]:
                stage[:] = [wanted]
                display.stage("evaluating (windows)", wanted)
            display.advance(done)

        found = rescore(find_run(run, place), place, overrides, progress=progress)
    if as_json:
        _print_json(found)
        return
    console = make_console()
    floor_values = {name: [*value.brier, value.brierlm] for name, value in found.background.floors.items()}
    print_scores(console, f"{found.name}, {found.config.split}", found.evaluation, floor_values)
    print_overlap(console, found.background.overlap)
    _print_needed(console, found)
    print_sampling(console, found.call_curve, found.tradeoff)


def _print_json(found: Rescored) -> None:
    """The evaluation, and other numbers of calls and samplers where they were asked for."""
    import json

    tree = found.evaluation.model_dump(mode="json")
    for name in ("call_curve", "tradeoff"):
        if points := getattr(found, name):
            tree[name] = [point.model_dump(mode="json") for point in points]
    print(json.dumps(tree, indent=1))


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Run folders, ids or names.")],
    set_: SetOption = None,
    split: SplitOption = None,
    difference: Annotated[
        float | None, typer.Option(help="Count the seeds that a difference of so many BrierLM points needs.")
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds/--no-seeds", help="Also use other seeds of the runs that lie beside them.")
    ] = True,
    home: HomeOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Paired difference of two or more runs at the same positions, with its 95 % interval.

    By default each run's evaluation at the end of its training is taken (not one of `calm evaluate`);
    with --split or --set all are scored anew alike."""
    from rich.markup import escape

    from workbench.cli.display import make_console
    from workbench.compare import compare_runs
    from workbench.errors import ConfigError
    from workbench.home import home_as_it_is
    from workbench.run_names import find_run

    if difference is not None and not difference > 0:
        raise ConfigError(f"--difference wants BrierLM points above 0, {difference} given")
    place = home_as_it_is(home)  # nothing is written, unless something has to be scored
    folders = [find_run(name, place) for name in runs]
    errors = make_console(stderr=True)
    with errors.status("comparing") as status:
        found = compare_runs(
            folders,
            place,
            overrides=_overrides(set_, split),
            wished=difference,
            with_seeds=seeds,
            progress=lambda name: status.update(f"scoring {escape(name)}"),
        )
    if as_json:
        import json

        print(json.dumps(_as_json(found), indent=1))
        return
    _print_comparison(make_console(), found, difference)


def _overrides(set_: Sequence[str] | None, split: str | None) -> dict[str, Any]:
    from workbench.config_file import parse_assignments

    return dict(parse_assignments(list(set_ or []))) | ({"eval.split": split} if split else {})


# ---- one run ------------------------------------------------------------------------------------------


def print_scores(
    console: Console, title: str, evaluation: Evaluation, floors: Mapping[str, Sequence[float]]
) -> None:
    from rich.markup import escape
    from rich.table import Table

    brier = evaluation.brier
    columns = ("", "Brier-1 %", "Brier-2 %", "Brier-3 %", "Brier-4 %", "BrierLM")
    table = Table(*columns, title=escape(title))
    orders = [f"{value:.2f} ± {se:.2f}" for value, se in zip(brier.brier, brier.brier_se, strict=True)]
    table.add_row("model", *orders, escape(brier.words()))
    for name, values in floors.items():
        table.add_row(f"{name} table", *(f"{value:.2f}" for value in values))
    console.print(table)
    for line in _score_lines(evaluation):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _score_lines(evaluation: Evaluation) -> list[str]:
    brier, lines = evaluation.brier, []
    if evaluation.solver is not None:
        lines.append(f"samples by {evaluation.solver} with {evaluation.network_calls} network calls")
    if brier.weak_orders:
        named = ", ".join(f"Brier-{n}" for n in brier.weak_orders)
        lines.append(
            f"{named} within three errors of 0 or below: BrierLM (estimate {brier.brierlm:.2f}) "
            "is given as [0, bound]"
        )
    elif brier.brierlm_low is not None and brier.brierlm_high is not None:
        check = f"; s.e. by bootstrap {brier.bootstrap_se:.2f}" if brier.bootstrap_se is not None else ""
        lines.append(f"BrierLM 95 % interval [{brier.brierlm_low:.2f}, {brier.brierlm_high:.2f}]{check}")
    if evaluation.cross_entropy is not None:
        error = f" ± {evaluation.cross_entropy_se:.4f}" if evaluation.cross_entropy_se is not None else ""
        text = f"cross-entropy {evaluation.cross_entropy:.4f}{error} nats per token"
        if evaluation.bits_per_byte is not None:
            text += f", {evaluation.bits_per_byte:.4f} bits per byte"
        if evaluation.byte_perplexity is not None:
            text += f", byte perplexity {evaluation.byte_perplexity:.5g}"
        lines.append(text)
    rounds = f" in {brier.rounds} rounds of samples" if brier.rounds > 1 else ""
    lines.append(
        f"{brier.num_positions:,} positions{rounds} in {brier.num_clusters} clusters; ± is one standard error; "
        f"evaluation {evaluation.fingerprint}"
    )
    return lines


def print_overlap(console: Console, overlap: Overlap) -> None:
    text = (
        f"{overlap.token_share:.2%} of the evaluated tokens lie in spans of {overlap.span_bytes} bytes that the "
    )
    text += "training text has too"
    if overlap.longest:
        text += f"; longest: {overlap.longest!r} ({overlap.longest_tokens} tokens)"
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _print_needed(console: Console, found: Rescored) -> None:
    """How many positions a smaller error would need."""
    from workbench.uncertainty import windows_needed

    brier, wanted = found.evaluation.brier, found.config.target_se
    stopped = {
        "target": f"the wished-for error {wanted} is reached",
        "budget": f"the wished-for error {wanted} is not reached: eval.max_positions = "
        f"{found.config.max_positions:,} is spent",
        "text": f"the wished-for error {wanted} is out of reach here: the {found.config.split} split has no more "
        "text, and what is left is the scatter between its positions, which more samples do not average out",
    }
    if found.evaluation.stopped_by is not None:
        console.print(stopped[found.evaluation.stopped_by], soft_wrap=True, highlight=False)
    if brier.weak_orders:
        console.print(
            "how many positions a smaller error needs cannot be told while an order is not clear of 0",
            soft_wrap=True,
            highlight=False,
        )
        return
    num = len(found.positions.starts)
    goals = [goal for goal in (wanted, brier.brierlm_se / 2) if goal is not None and goal < brier.brierlm_se]
    for goal in goals:
        windows = windows_needed(found.positions.values, found.positions.clusters, goal)
        if windows is None:
            text = "no number of windows: what windows of one document share is larger (more documents are needed)"
        else:
            text = f"about {windows * brier.num_positions // num:,} positions ({windows:,} windows)"
            if windows > found.capacity:
                text = f"more text than the {found.config.split} split has ({found.capacity:,} windows)"
        console.print(f"for an error of {goal:.2g}: {text}", soft_wrap=True, highlight=False)


# ---- several runs -------------------------------------------------------------------------------------


def _print_comparison(console: Console, found: Comparison, wished: float | None) -> None:
    tables = [_runs_table(found), _pairs_table(found)]
    if found.noise is not None:
        tables.append(_settings_table(found, wished))
    if found.differences:
        tables.append(_configurations_table(found))
    for table in tables:
        console.print(table)
    if found.noise is not None:
        noise = found.noise
        console.print(
            f"between seeds of one setting: sd {noise.sd:.2f} [{noise.low:.2f}, {noise.high:.2f}] BrierLM, of it "
            f"training {noise.sd_training:.2f}, evaluation {noise.sd_evaluation:.2f} ({noise.num_settings} "
            f"setting(s) repeated, {noise.dof} degrees of freedom)",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"evaluation {found.fingerprint}, {found.num_windows} shared windows", highlight=False)


def _runs_table(found: Comparison) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("run", "BrierLM", "95 % interval", *(f"Brier-{n} %" for n in range(1, 5)), "seed", title="runs")
    for run in found.runs:
        brier = run.brier
        orders = (f"{value:.2f} ± {se:.2f}" for value, se in zip(brier.brier, brier.brier_se, strict=True))
        table.add_row(
            escape(run.name),
            escape(brier.words()),
            _interval(brier.brierlm_low, brier.brierlm_high),
            *orders,
            str(run.seed),
        )
    return table


def _pairs_table(found: Comparison) -> Table:
    from rich.markup import escape
    from rich.table import Table

    corrected = f", corrected for {len(found.pairs)} pairs" if len(found.pairs) > 1 else ""
    table = Table(title=f"these trained models, pair by pair at the same positions (95 %{corrected})")
    for column in ("first − second", "BrierLM", "interval", "the first is", "positions for 80 % power"):
        table.add_column(column, overflow="fold")
    for n in range(1, 5):
        table.add_column(f"Brier-{n}")
    for pair in found.pairs:
        gap = pair.difference
        orders = (f"{order.value:+.2f} ± {order.se:.2f}" for order in gap.orders)
        table.add_row(
            escape(f"{pair.first} − {pair.second}"),
            f"{gap.value:+.2f}" + (f" ± {gap.se:.2f}" if gap.se is not None else " (bounds)"),
            _interval(gap.low, gap.high),
            gap.verdict,
            f"{gap.positions_needed:,}" if gap.positions_needed else "–",
            *orders,
        )
    return table


def _settings_table(found: Comparison, wished: float | None) -> Table:
    from rich.markup import escape
    from rich.table import Table

    size = "this difference" if wished is None else f"a difference of {wished:g}"
    table = Table(title="their settings, training noise included (95 %, corrected for all pairs)")
    columns = (
        "first − second",
        "seeds",
        "mean BrierLM",
        "interval",
        "the first is",
        f"seeds for 80 % power at {size}",
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    for pair in found.setting_pairs:
        gap = pair.difference
        needed = str(pair.seeds_needed) if pair.seeds_needed else "more text" if pair.positions_limit else "–"
        table.add_row(
            escape(f"{pair.first} − {pair.second}"),
            f"{gap.num_seeds[0]}, {gap.num_seeds[1]}",
            f"{gap.value:+.2f}",
            _interval(gap.low, gap.high),
            gap.verdict,
            needed,
        )
    return table


def _configurations_table(found: Comparison) -> Table:
    from rich.markup import escape
    from rich.table import Table

    columns = (escape(run.name) for run in found.runs)
    table = Table("field", *columns, title="where their configurations differ")
    for name, values in found.differences:
        table.add_row(name, *map(escape, values))
    return table


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"\\[{low:.2f}, {high:.2f}]"


def _as_json(found: Comparison) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "fingerprint": found.fingerprint,
        "num_windows": found.num_windows,
        "runs": [
            {"name": run.name, "folder": str(run.run_dir), "seed": run.seed, **run.brier.model_dump()}
            for run in found.runs
        ],
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                **asdict(pair.difference),
                "verdict": pair.difference.verdict,
            }
            for pair in found.pairs
        ],
        "noise": None if found.noise is None else asdict(found.noise),
        "settings": found.settings,
        "setting_pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                **asdict(pair.difference),
                "verdict": pair.difference.verdict,
                "seeds_needed": pair.seeds_needed,
            }
            for pair in found.setting_pairs
        ],
        "differences": dict(found.differences),
        "notes": found.notes,
    }
