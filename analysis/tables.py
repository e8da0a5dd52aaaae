"""The report's tables, built from frames into rows of text."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.ablation import Effect
from analysis.comparison import Comparison, cells
from analysis.correlation import PUBLISHED_PEARSON, PUBLISHED_SPEARMAN, Coefficient, Correlation
from analysis.frontier import COSTS, frontiers
from analysis.rows import FLOORS, ORDERS
from analysis.stats import mean_of
from analysis.table import RunTable
from analysis.verdict import Standing, compare_rows, correlation_words
from analysis.words import (
    MISSING,
    PHASES,
    Cell,
    Link,
    Table,
    difference_words,
    flops,
    interval,
    mean_words,
    missing,
    mlflow_url,
    name_of,
    number,
    plain,
    plus_minus,
    short_of,
    status_words,
    whole,
)


def setting_words(run: pd.Series, parameters: list[str]) -> str:
    """``K 4, L 32, λ 0.5``; for a baseline its size."""
    if run["kind"] == "baseline":
        parameters = ["model.backbone.width", "model.backbone.num_layers"]
    parts = [f"{short_of(p)} {plain(run[p])}" for p in parameters if p in run.index and not missing(run[p])]
    return ", ".join(parts) or MISSING


def key_numbers(comparison: Comparison, places: list[Standing]) -> Table:
    columns = ["", "best setting", "BrierLM ± s.e.", "mean of runs [95 %]", "runs", "to best baseline [95 %]"]
    columns += ["against n-gram tables", "training FLOPs", "with autoencoder", "inference FLOPs/token"]
    rows: list[list[Cell]] = []
    for place in places:
        best, difference = place.best, place.to_baseline
        rows.append(
            [
                "baseline" if place.k is None else f"K = {place.k}",
                setting_words(best, [p for p in comparison.parameters if p != "model.chunk_size"]),
                plus_minus(best["brierlm"], best["brierlm_se"]),
                mean_words(place.mean),
                str(place.mean.num),
                f"{difference_words(difference)}: {difference.verdict}" if difference else MISSING,
                place.floor_words(short=True),
                flops(best["train_flops"]),
                flops(best["train_flops_with_autoencoder"]),
                flops(best["infer_flops_per_token"]),
            ]
        )
    caption = (
        f"Best setting per chunk size at {comparison.budget}, {PHASES.get(comparison.phase, comparison.phase)}."
    )
    return Table("key_numbers", caption, columns, rows, frozenset({2, 3, 4, 7, 8, 9}))


def orders_table(comparison: Comparison, places: list[Standing], floors: pd.DataFrame) -> Table:
    rows: list[list[Cell]] = []
    for place in places:
        best = place.best
        rows.append(
            [
                "token baseline, best" if place.k is None else f"K = {place.k}, best",
                *[plus_minus(best[f"brier_{n}"], best[f"brier_{n}_se"], 3) for n in ORDERS],
                plus_minus(best["brierlm"], best["brierlm_se"]),
            ]
        )
    for table in FLOORS:
        found = floors[floors["table"] == table]
        if len(found):
            row = found.iloc[0]
            values: list[Cell] = [number(row[f"brier_{n}"], 3) for n in ORDERS]
            rows.append([f"{table} table", *values, number(row["brierlm"])])
    columns = ["", *[f"Brier-{n} (%)" for n in ORDERS], "BrierLM"]
    caption = "Scores by order of the best run of each K at the budget, with standard errors, and n-gram tables "
    return Table("orders", caption + "on the same positions (exact).", columns, rows, frozenset(range(1, 6)))


def effect_table(effect: Effect) -> Table:
    rows: list[list[Cell]] = []
    for value in effect.values:
        rows.append(
            [
                value.value,
                number(value.mean.value),
                interval(value.mean.low, value.mean.high),
                str(value.num_cells),
                str(value.num_runs),
                str(value.num_stopped),
                "reference" if value.difference is None else difference_words(value.difference),
                value.verdict,
            ]
        )
    columns = ["value", "mean score", "95 % interval", "settings", "runs", "stopped early"]
    columns += ["adjusted difference to reference", "verdict"]
    return Table(
        "effect_" + effect.parameter.replace(".", "_"),
        f"Effect of {name_of(effect.parameter)}: {effect.verdict}"
        + (f" ({effect.note})." if effect.note else "."),
        columns,
        rows,
        frozenset({1, 2, 3, 4, 5, 6}),
    )


def settings_table(comparison: Comparison, columns: list[str]) -> Table:
    """Every setting with its seeds together, best first."""
    groups = sorted(cells(comparison.finals, columns), key=lambda g: (-g["brierlm"].mean(), g["run_id"].iloc[0]))
    rows: list[list[Cell]] = []
    for group in groups:
        first, mean = group.iloc[0], mean_of(group["brierlm"].tolist())
        rows.append(
            [
                "baseline" if first["kind"] == "baseline" else "CALM",
                setting_words(first, comparison.parameters),
                str(len(group)),
                number(mean.value),
                MISSING if mean.sd is None else number(mean.sd),
                number(float((group["brierlm_se"] ** 2).mean()) ** 0.5),
            ]
        )
    return Table(
        "settings",
        "Settings at the budget, seeds together, best first.",
        ["", "setting", "seeds", "mean BrierLM", "sd between seeds", "evaluation s.e."],
        rows,
        frozenset({2, 3, 4, 5}),
    )


def frontier_table(comparison: Comparison, names: pd.Series, cost: str) -> Table:
    """``names``: of the runs, by run id."""
    rows: list[list[Cell]] = []
    before: dict[tuple[str, str], pd.Series] = {}
    for _, point in frontiers(comparison.evaluations, cost=cost).iterrows():
        group = (point["models"], point["kind_of_point"])
        rows.append(
            [
                str(point["models"]),
                "constant rate" if point["kind_of_point"] == "constant" else "end of decay",
                flops(point[cost]),
                plus_minus(point["brierlm"], point["brierlm_se"]),
                compare_rows(point, before[group], comparison).verdict if group in before else MISSING,
                "baseline" if missing(point["K"]) else f"K = {point['K']}",
                str(names.get(point["run_id"]) or point["run_id"]),
            ]
        )
        before[group] = point
    return Table(
        "frontier" if cost == "train_flops" else "frontier_with_autoencoder",
        f"Pareto frontiers, compute {COSTS[cost]}: no other point of the same kind costs less and scores more. "
        "Points at constant rate and ends of decays are never mixed.",
        ["models", "kind of point", "FLOPs", "BrierLM ± s.e.", "against the point before", "model", "run"],
        rows,
        frozenset({2, 3}),
    )


def autoencoder_table(autoencoders: pd.DataFrame) -> Table:
    rows: list[list[Cell]] = []
    for _, part in autoencoders.groupby("hash", sort=False):
        first = part.iloc[0]
        at = {round(float(n), 3): float(a) for n, a in zip(part["noise"], part["accuracy"], strict=True)}
        rows.append(
            [
                str(first["K"]),
                str(first["latent_dim"]),
                plain(first["kl_floor"]),
                *[number(100 * float(first[c]), 2) for c in ("token_accuracy", "posterior_accuracy")],
                *[number(100 * at[s], 2) if s in at else MISSING for s in (0.3, 0.5)],
                f"{first['num_collapsed']} of {first['latent_dim']}",
                flops(first["train_flops"]),
                number(first["train_seconds"], 0),
                str(first["num_runs"]),
            ]
        )
    columns = ["K", "L", "λ_KL", "tokens right (%)", "under its posterior", "noise 0.3", "noise 0.5"]
    columns += ["collapsed", "training FLOPs", "seconds", "runs using it"]
    caption = "Autoencoders on held-out chunks; a collapsed dimension has a KL near 0 and σ near 1."
    return Table("autoencoders", caption, columns, rows, frozenset(range(11)))


def correlation_table(result: Correlation) -> Table:
    def row(name: str, value: Coefficient | None, published: float) -> list[Cell]:
        if value is None:
            return [name, MISSING, "not available", number(published, 3)]
        return [name, number(value.value, 3), correlation_words(value.low, value.high), number(published, 3)]

    return Table(
        "correlation",
        f"{result.num_points} checkpoints of {result.num_runs} baseline runs; the interval resamples whole runs.",
        ["coefficient", "this study", "95 % interval", "published"],
        [row("Pearson", result.pearson, PUBLISHED_PEARSON), row("Spearman", result.spearman, PUBLISHED_SPEARMAN)],
        frozenset({1, 2, 3}),
    )


def checks_table(table: RunTable, comparison: Comparison) -> Table:
    """Sensitivity checks, each beside the run it deviates least from."""
    runs = table.runs
    checks = runs[(runs["role"] == "check") & (runs["fingerprint"] == comparison.fingerprint)]
    rows: list[list[Cell]] = []
    for _, check in checks.iterrows():
        peers = comparison.finals[comparison.finals["kind"] == check["kind"]]
        differing = {i: _differing(check, peer, table.config_columns) for i, peer in peers.iterrows()}
        if not differing or not check["at_budget"]:
            rows.append([str(check["name"]), MISSING, MISSING, plus_minus(check["brierlm"], check["brierlm_se"])])
            rows[-1] += [MISSING, str(check["reason"] or check["status"])]
            continue
        seed = check["seed"]
        nearest = min(differing, key=lambda i: (len(differing[i]), bool(peers.loc[i, "seed"] != seed), str(i)))
        peer = peers.loc[nearest]
        changes = ", ".join(f"{short_of(c)} {plain(peer[c])} → {plain(check[c])}" for c in differing[nearest])
        gap = compare_rows(check, peer, comparison)
        rows.append(
            [
                str(check["name"]),
                str(peer["name"]),
                changes or "nothing",
                plus_minus(check["brierlm"], check["brierlm_se"]),
                difference_words(gap),
                gap.verdict,
            ]
        )
    caption = "Sensitivity checks: runs that leave the stated rule for rate and batch, beside their nearest run."
    columns = ["check", "compared with", "changed", "BrierLM ± s.e.", "difference [95 %]", "verdict"]
    return Table("checks", caption, columns, rows, frozenset({3, 4}))


def _differing(first: pd.Series, second: pd.Series, columns: list[str]) -> list[str]:
    return [c for c in columns if not c.startswith("runtime.") and plain(first.get(c)) != plain(second.get(c))]


def runs_table(runs: pd.DataFrame, parameters: list[str]) -> Table:
    rows: list[list[Cell]] = []
    for _, run in runs.iterrows():
        url = mlflow_url(run["mlflow_uri"], run["mlflow_experiment"], run["mlflow_run"])
        label = str(run["name"] or run["run_id"])
        link: Cell = Link(label, url) if url else label
        rows.append(
            [
                link,
                str(run["role"]),
                status_words(run["status"], run["reason"]),
                setting_words(run, parameters),
                plain(run["seed"]),
                plus_minus(run["brierlm"], run["brierlm_se"]),
                number(run["score"]),
                number(run["cross_entropy"], 3),
                flops(run["train_flops"]),
                whole(run["tokens_per_second"]),
                str(run["diagnostic_messages"] or "") or "none",
            ]
        )
    columns = ["run", "role", "status", "setting", "seed", "BrierLM ± s.e.", "score", "cross-entropy"]
    columns += ["training FLOPs", "tokens/s", "diagnostics"]
    caption = "All runs. Scores of runs that did not complete are those of their last evaluation."
    return Table("runs", caption, columns, rows, frozenset({4, 5, 6, 7, 8, 9}))


def environment_table(environments: dict[str, dict[str, Any]]) -> Table:
    """What the runs ran on; several values are all shown with the number of runs."""
    collected: dict[str, dict[str, int]] = {}
    for environment in environments.values():
        versions = environment.get("versions")
        flat = {k: v for k, v in environment.items() if k != "versions"}
        if isinstance(versions, dict):
            flat.update(versions)
        for key, value in flat.items():
            text = "none" if value in (None, "") else str(value)
            counts = collected.setdefault(str(key), {})
            counts[text] = counts.get(text, 0) + 1
    rows: list[list[Cell]] = []
    for key, counts in collected.items():
        several = [
            f"{value} ({n} runs)" for value, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]
        rows.append([key.replace("_", " "), next(iter(counts)) if len(counts) == 1 else "; ".join(several)])
    return Table("environment", "Environment, as recorded by the runs.", ["what", "value"], rows)
