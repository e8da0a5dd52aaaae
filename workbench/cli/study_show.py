"""What ``calm study show`` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from studies.show import DryRun, Structure
    from studies.spec import StudySpec
    from studies.staffing import Staffing
    from workbench.device_plan import DevicePlan


def print_dry_run(
    console: Console,
    spec: StudySpec,
    plan: DryRun,
    structures: Sequence[Structure],
    staffing: Staffing,
    there: Sequence[tuple[str, DevicePlan]] = (),
) -> None:
    """``there``: the same structures on devices that are not here."""
    from studies.display import duration
    from studies.room import study_need
    from workbench.cli.accounts import print_accounts
    from workbench.room import need_words

    console.print(f"{spec.study}, preset {spec.preset}: {spec.description}", soft_wrap=True, markup=False)
    console.print(
        f"question: {spec.question}\nagainst:  {spec.against}\nscore:    {spec.objective}",
        soft_wrap=True,
        markup=False,
    )
    for name, place in spec.runs.items():
        console.print(f"train.init_from {name}: {place}", soft_wrap=True, markup=False)
    _print_plan(console, spec)
    _print_runs(console, structures, plan.speed)
    print_accounts(console, [(one.label, one.accounts[0]) for one in structures])
    if there:
        _print_devices(console, structures, there)
    if spec.searches:
        count = "one per trial" if plan.num_autoencoders is None else f"at most {plan.num_autoencoders}"
        console.print(f"autoencoders: {count}, about {duration(plan.autoencoder_seconds)} each", soft_wrap=True)
    console.print(
        f"about {duration(plan.total_seconds)} without evaluations ({plan.speed_from}) on {staffing.words()}",
        soft_wrap=True,
    )
    console.print(f"disk: {need_words(study_need(spec, workers=staffing.split.workers))}", soft_wrap=True)


def _print_devices(
    console: Console, structures: Sequence[Structure], there: Sequence[tuple[str, DevicePlan]]
) -> None:
    """A run on all devices together; the table of runs has its time on one."""
    from workbench.cli.devices import print_device_plans

    print_device_plans(console, there)
    if any(len(set(one.work)) > 1 for one in structures):
        console.print("of runs that differ in their budget, the largest", soft_wrap=True)
    if there[0][1].devices.count > 1:
        console.print(
            "a study trains each run on one device (single), as many runs at a time as there are devices; "
            "a run on several: calm train with --ranks or torchrun",
            soft_wrap=True,
        )


def _print_plan(console: Console, spec: StudySpec) -> None:
    """What is searched, and how many runs there will be."""
    if not spec.searches:
        console.print(
            f"no search: {len(spec.baselines)} cells (token baselines) x {spec.seeds} seed(s)", soft_wrap=True
        )
        return
    settings = spec.num_settings()
    console.print(f"search space ({settings or 'continuous'}{' settings' if settings else ''}):")
    for parameter, dimension in spec.space.items():
        console.print(f"  {parameter}: {_dimension(dimension)}", markup=False)
    extra = "" if spec.sampler.kind == "grid" else f", at most {spec.max_extra} pruned or failed on top"
    console.print(
        f"{spec.trials} trials complete x {spec.seeds} seed(s){extra}; "
        f"{len(spec.baselines)} token baselines; {len(spec.check_names)} checks of the best trial's learning rate",
        soft_wrap=True,
    )


def _dimension(dimension: Any) -> str:
    if hasattr(dimension, "choices"):
        return "one of " + ", ".join(str(c) for c in dimension.choices)
    return f"{dimension.low} to {dimension.high}{', logarithmic' if dimension.log else ''}"


def _print_runs(console: Console, structures: Sequence[Structure], speed: float) -> None:
    """One line a structure: runs that cost the same a token, from the smallest budget to the largest."""
    from rich.markup import escape
    from rich.table import Table

    from studies.display import duration

    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for column in ("runs", "parameters", "tokens", "steps", "train FLOPs", "time"):
        table.add_column(column, justify="right")
    for one in structures:
        training = [found.training for found in one.accounts]
        table.add_row(
            escape(one.label),
            "" if one.num_runs is None else str(one.num_runs),
            f"{one.accounts[0].parameters['total']:,}",
            _between([each.tokens for each in training], _short),
            _between([each.num_steps for each in training], str),
            _between([each.total for each in training], _short),
            _between([work / speed for work in one.work], duration),
        )
    console.print(table)


def _between(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The smallest and the largest, or the one that all are."""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low}–{high}"


def _short(value: float) -> str:
    """``1.85e5``: ranges of it have to fit on a line."""
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")


def dry_run_json(
    spec: StudySpec,
    plan: DryRun,
    structures: Sequence[Structure],
    staffing: Staffing,
    there: Sequence[tuple[str, DevicePlan]] = (),
) -> str:
    """Everything that is printed, as JSON."""
    from studies.room import study_need
    from workbench.room import need_fields

    tree = {
        "study": spec.study,
        "preset": spec.preset,
        "trials": spec.trials,
        "seeds": spec.seeds,
        "structures": [
            {
                "label": one.label,
                "num_runs": one.num_runs,
                "runs": [
                    {
                        "setting": dict(one.settings[i]) if one.settings else {},
                        "cell": one.cells[i] if one.cells else None,
                        "estimated_training_seconds": one.work[i] / plan.speed,
                        **found.to_dict(),
                    }
                    for i, found in enumerate(one.accounts)
                ],
                **({"devices": there[number][1].to_dict()} if there else {}),
            }
            for number, one in enumerate(structures)
        ],
        "num_autoencoders": plan.num_autoencoders,
        "autoencoder_seconds": plan.autoencoder_seconds,
        "total_seconds": plan.total_seconds,
        **need_fields(study_need(spec, workers=staffing.split.workers)),
        "speed_from": plan.speed_from,
        "workers": staffing.split.workers,
        "threads": staffing.split.threads,
    }
    return json.dumps(tree, indent=1)
