"""``calm plan``: what to train with a budget of compute, by the law that was fitted to runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import HomeOption, JsonOption

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.budget_plan import BudgetPlan, Choice, Estimate


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def plan(
    flops: Annotated[float, typer.Option("--flops", help="Budget of executed training FLOPs, e.g. 1e18.")],
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="Studies to learn from; default: all, or none with --data."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="A CSV or Parquet table of runs, ours or others'."),
    ] = None,
    infer: Annotated[
        float | None,
        typer.Option("--inference-flops-per-token", help="Only models that cost no more to sample from."),
    ] = None,
    with_autoencoder: Annotated[
        bool, typer.Option("--with-autoencoder", help="Charge the autoencoder's training to the budget.")
    ] = False,
    home: HomeOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Recommend K, size, tokens and latent for a budget of compute, and say how sure that is.

    A law of BrierLM in size, data and K is fitted to the runs of studies (best: `calm study run scaling`)."""
    from analysis.budget_plan import plan_budget
    from workbench.errors import StudyError

    evaluations, configs = _runs(studies, data, home)
    found = plan_budget(
        evaluations,
        flops=flops,
        infer_flops_per_token=infer,
        with_autoencoder=with_autoencoder,
        configs=configs,
    )
    if found.recommended is None:
        said = "".join(f" {note}." if not note.endswith(".") else f" {note}" for note in found.notes)
        raise StudyError(
            f"these runs cannot say what to train: {found.reason}.{said} `calm study run scaling` makes runs of "
            "several K, sizes and budgets"
        )
    if as_json:
        import json

        print(json.dumps(found.to_dict(), indent=1))
        return
    from workbench.cli.display import make_console

    print_plan(make_console(), found)


def _runs(
    studies: list[str] | None, data: Path | None, home: Path
) -> tuple[pd.DataFrame, dict[int, dict[str, Any]]]:
    """Evaluations, and a configuration of reference for each family."""
    import pandas as pd

    from analysis.table import load_runs

    frames, configs = [], {}
    if data is not None:
        from analysis.external import read_external

        frames.append(read_external(data))
    if studies or data is None:
        table = load_runs(home, studies or None)
        frames.append(table.evaluations)
        configs = _configs(table.runs, home)
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if len(filled) > 1 else (filled or frames)[0], configs


def _configs(runs: pd.DataFrame, home: Path) -> dict[int, dict[str, Any]]:
    """The configuration of each family's best run, as it lies in its folder; what cannot be read is left out."""
    from analysis.scaling_points import BASELINE
    from workbench.config_file import stored_config
    from workbench.errors import RunError
    from workbench.records import CONFIG

    found: dict[int, dict[str, Any]] = {}
    best = runs[runs["brierlm"].notna()].sort_values(["brierlm", "run_id"], kind="stable")
    for row in best.to_dict("records"):
        family = int(row["K"]) if row["kind"] == "calm" else BASELINE
        try:
            found[family] = stored_config(home / str(row["study"]) / str(row["folder"]) / CONFIG).to_dict()
        except RunError:
            continue
    return found


def print_plan(console: Console, plan: BudgetPlan) -> None:
    """The table of choices, then what has to be said about it."""
    from rich.markup import escape

    best = plan.recommended
    assert best is not None
    console.print(_table(plan))
    console.print(f"[bold]{escape(_sentence(best, plan))}[/bold]", soft_wrap=True)
    lines = [f"latent dimension {best.latent_dim}: {best.latent_words}"] if best.latent_dim else []
    if best.shape is not None:
        shape = best.shape
        lines.append(
            f"a shape of that size: width {shape.width} x {shape.num_layers} layers ({shape.num_parameters:,} "
            f"parameters), {shape.num_steps:,} steps = {shape.tokens:,.0f} tokens x {shape.flops_per_token:.3g} "
            f"FLOPs/token = {shape.train_flops:.4g} FLOPs"
        )
        if command := shape.command(best.family, shape.train_flops):
            lines.append(f"to train it: {command}")
    lines.append(f"a single run scatters by {plan.run_noise:.1%} about the law, on top of the interval")
    lines += [f"note: {note}" for note in plan.notes]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False, style="yellow")
    for advice in plan.advice:
        console.print(f"to settle it: {advice}", soft_wrap=True, markup=False)


def _sentence(best: Choice, plan: BudgetPlan) -> str:
    from analysis.words import flops as flops_words

    odds = f" (best in {best.probability:.0%} of resamples)" if plan.alternatives else ""
    return (
        f"With {flops_words(plan.flops)} training FLOPs: {best.name}{odds}, about {best.num_parameters.value:.2g} "
        f"parameters on {best.tokens.value:.2g} tokens, BrierLM {_range(best.score, '.2f')} by the law"
        f"{_against(plan)}"
    )


def _against(plan: BudgetPlan) -> str:
    """What a token model would reach, which may be more."""
    best, base = plan.recommended, plan.baseline
    if best is None or base is None:
        return ""
    more = base.score.value > best.score.value
    return f"; the token baseline {'reaches more' if more else 'less'}: {_range(base.score, '.2f')}"


def _table(plan: BudgetPlan) -> Any:
    from rich.table import Table

    from analysis.words import flops as flops_words

    table = Table(box=None, pad_edge=False, title=f"{flops_words(plan.flops)} training FLOPs, by {plan.form!r}")
    table.add_column("")
    for column in ("best in", "BrierLM", "parameters", "tokens", "latent", "width x layers", "FLOPs/token"):
        table.add_column(column, justify="right")
    table.add_column("inference", justify="right")
    best = plan.recommended
    assert best is not None
    others = [*plan.alternatives, *([plan.baseline] if plan.baseline is not None else [])]
    for choice in (best, *others):
        shape = choice.shape
        table.add_row(
            choice.name,
            f"{choice.probability:.0%}" if choice.probability is not None and plan.alternatives else "",
            _range(choice.score, ".2f"),
            _range(choice.num_parameters, ".2g"),
            _range(choice.tokens, ".2g"),
            str(choice.latent_dim or ""),
            f"{shape.width} x {shape.num_layers}" if shape is not None else "",
            f"{choice.flops_per_token:.2g}",
            f"{choice.infer_flops_per_token:.2g}" if choice.infer_flops_per_token else "",
            style="bold" if choice is best else None,
        )
    return table


def _range(estimate: Estimate, digits: str) -> str:
    """Value and 95 % interval."""
    value, low, high = (format(x, digits) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
