"""The report's tables, built from frames into rows of text."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.ablation import Effect
from analysis.claims import check_gap
from analysis.comparison import Comparison, Setting, cell_places, cells
from analysis.naming import SettingNames
from analysis.rows import FLOORS, ORDERS
from analysis.scores import bound_note, is_bound, score_words
from analysis.stats import mean_of
from analysis.table import RunTable
from analysis.texts import Part
from analysis.verdict import Standing
from analysis.words import (
    MISSING,
    PHASES,
    Cell,
    Link,
    Table,
    difference_words,
    flops,
    interval,
    listed,
    mean_words,
    missing,
    mlflow_url,
    name_of,
    number,
    plain,
    plus_minus,
    status_words,
    value_words,
    whole,
)

Row = Mapping[Hashable, Any]


def key_numbers(parts: list[Part]) -> Table:
    """The best run of each K, or of whatever the study is about; a group of rows for every text where there are
    several."""
    places = [(part, place) for part in parts for place in part.places]
    in_bits = any(not missing(place.best["bits_per_byte"]) for _, place in places)
    calm = any(place.key is not None for _, place in places)
    columns = ["", "best setting", "BrierLM ± s.e.", "mean of runs [95 %]", "runs", "bits per byte (perplexity)"]
    columns += ["to best baseline [95 %]", "against n-gram tables", "training FLOPs", "with autoencoder"]
    columns += ["inference FLOPs/token"]
    rows: list[list[Cell]] = []
    for part, place in places:
        best, difference = place.best, place.to_baseline
        rows.append(
            [
                "baseline" if place.key is None else place.name,
                part.comparison.name(place.setting),
                score_words(best),
                mean_words(place.mean),
                str(place.mean.num),
                bits_words(best),
                f"{difference_words(difference)}: {difference.verdict}" if difference else MISSING,
                place.floor_words(short=True),
                flops(best["train_flops"]),
                flops(best["train_flops_with_autoencoder"]),
                flops(best["infer_flops_per_token"]),
            ]
        )
    # a column that would hold dashes, or the one before it again
    idle = {1: all(row[1] == MISSING for row in rows), 5: not in_bits, 6: not calm, 9: not calm}
    kept = [i for i in range(len(columns)) if not idle.get(i)]
    compared = [part.comparison.dimension for part in parts]
    per = list(dict.fromkeys(one.title for one in compared if len(one.values) > 1))
    per += ["text"] if len(parts) > 1 else []
    caption = f"Best setting{f' per {listed(per)}' if per else ''}{_conditions(parts)}."
    caption += bound_note(place.best for _, place in places)
    table = Table(
        "key_numbers",
        caption,
        [columns[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        frozenset(place for place, i in enumerate(kept) if i not in (0, 1, 6, 7)),
    )
    return _with_texts(table, [part.text for part, _ in places])


def _conditions(parts: list[Part]) -> str:
    """Under which budget the best were found."""
    found = [part.comparison for part in parts if part.places] or [part.comparison for part in parts]
    conditions = {f" at {one.budget}, {PHASES.get(one.phase, one.phase)}" for one in found}
    return conditions.pop() if len(conditions) == 1 else ", each text at its own budget"


def _with_texts(table: Table, texts: list[str]) -> Table:
    """The text of each row as a first column, named once a group; unchanged where there is only one text."""
    if len(set(texts)) < 2:
        return table
    rows: list[list[Cell]] = []
    for i, (text, row) in enumerate(zip(texts, table.rows, strict=True)):
        rows.append([text if i == 0 or texts[i - 1] != text else "", *row])
    numeric = frozenset(i + 1 for i in table.numeric)
    return Table(table.name, table.caption, ["text", *table.columns], rows, numeric)


def bits_words(run: pd.Series) -> str:
    """``2.412 ± 0.011 (5.32)``: cross-entropy in bits per byte with its error, which is in proportion to the one
    in nats, and byte perplexity; baselines only."""
    bits, nats, error = run["bits_per_byte"], run["cross_entropy"], run["cross_entropy_se"]
    if missing(bits):
        return MISSING
    known = not missing(error) and not missing(nats) and float(nats) > 0
    words = plus_minus(bits, float(bits) * float(error) / float(nats) if known else None, 3)
    perplexity = run["byte_perplexity"]
    return words if missing(perplexity) else f"{words} ({number(perplexity)})"


def orders_table(comparison: Comparison, places: list[Standing], floors: pd.DataFrame) -> Table:
    rows: list[list[Cell]] = []
    for place in places:
        best = place.best
        rows.append(
            [
                f"{place.name}, best",
                *[plus_minus(best[f"brier_{n}"], best[f"brier_{n}_se"], 3) for n in ORDERS],
                score_words(best),
            ]
        )
    for table in FLOORS:
        found = floors[floors["table"] == table]
        if len(found):
            row = found.iloc[0]
            values: list[Cell] = [number(row[f"brier_{n}"], 3) for n in ORDERS]
            rows.append([f"{table} table", *values, number(row["brierlm"])])
    columns = ["", *[f"Brier-{n} (%)" for n in ORDERS], "BrierLM"]
    noun = comparison.dimension.noun
    caption = f"Scores by order of the best run of each {noun} at the budget, with standard errors, and n-gram "
    caption += "tables on the same positions (exact)." + bound_note(place.best for place in places)
    return Table("orders", caption, columns, rows, frozenset(range(1, 6)))


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


def settings_table(parts: list[Part], columns: list[str]) -> Table:
    """Every setting with its seeds together, best first, text by text."""
    rows: list[list[Cell]] = []
    texts = []
    for part in parts:
        runs = part.comparison.finals.to_dict("records")
        groups = [[runs[place] for place in places] for places in cell_places(part.comparison.finals, columns)]
        for group in sorted(groups, key=lambda g: (-_mean(run["brierlm"] for run in g), g[0]["run_id"])):
            texts.append(part.text)
            rows.append(_setting_row(group, part.comparison))
    table = Table(
        "settings",
        "Settings at the budget, seeds together, best first."
        + bound_note(run for part in parts for run in part.comparison.finals.to_dict("records")),
        ["", "setting", "seeds", "mean BrierLM", "sd between seeds", "evaluation s.e."],
        rows,
        frozenset({2, 3, 4, 5}),
    )
    return _with_texts(table, texts)


def _setting_row(group: Sequence[Row], comparison: Comparison) -> list[Cell]:
    mean = mean_of([run["brierlm"] for run in group])
    only_bound = [is_bound(run) for run in group]
    error = number(_mean(run["brierlm_se"] ** 2 for run in group) ** 0.5)
    return [
        "baseline" if group[0]["kind"] == "baseline" else "CALM",
        comparison.names.words({str(name): value for name, value in group[0].items()}),
        str(len(group)),
        f"[0, {number(max(run['brierlm_high'] for run in group))}]" if all(only_bound) else number(mean.value),
        MISSING if mean.sd is None else number(mean.sd),
        MISSING if any(only_bound) else error,
    ]


def _mean(values: Iterable[float]) -> float:
    """Of those that are there."""
    there = [value for value in values if value == value]
    return float(np.mean(there)) if there else math.nan


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


def checks_table(table: RunTable, comparison: Comparison) -> Table:
    """Sensitivity checks, seeds together, each beside the setting it deviates least from."""
    runs = table.runs
    checks = runs[(runs["role"] == "check") & (runs["fingerprint"] == comparison.fingerprint)]
    settings = [Setting(cell) for cell in cells(checks[checks["at_budget"]], table.config_columns)]
    rows: list[list[Cell]] = []
    for check in settings:
        first = check.runs.iloc[0]
        peers = [peer for peer in comparison.settings if peer.kind == check.kind]
        changed = [_differing(first, peer.runs.iloc[0], table.config_columns) for peer in peers]
        name = str(first["name"]) + (f" ({check.num_seeds} seeds)" if check.num_seeds > 1 else "")
        if not peers:
            rows.append([name, MISSING, MISSING, score_words(check.best), MISSING, MISSING])
            continue
        nearest = min(range(len(peers)), key=lambda i: (len(changed[i]), -peers[i].score))
        peer = peers[nearest].runs.iloc[0]
        changes = ", ".join(f"{value_words(c, peer[c])} → {plain(first[c])}" for c in changed[nearest])
        gap = check_gap(check, peers[nearest], comparison, comparisons=len(settings))
        rows.append([name, str(peer["name"]), changes or "nothing", score_words(check.best)])
        rows[-1] += [difference_words(gap), gap.verdict]
    for _, check_run in checks[~checks["at_budget"]].iterrows():
        rows.append([str(check_run["name"]), MISSING, MISSING, score_words(check_run)])
        rows[-1] += [MISSING, str(check_run["reason"] or check_run["status"])]
    caption = "Sensitivity checks: runs that leave the stated rule for rate and batch, beside the nearest setting"
    if settings:
        caption += f" (means over seeds; intervals corrected for {len(settings)} "
        caption += f"comparison{'' if len(settings) == 1 else 's'})"
    caption += "." + bound_note(check for _, check in checks.iterrows())
    columns = ["check", "compared with", "changed", "best BrierLM ± s.e.", "difference [95 %]", "verdict"]
    return Table("checks", caption, columns, rows, frozenset({3, 4}))


def _differing(first: pd.Series, second: pd.Series, columns: list[str]) -> list[str]:
    return [c for c in columns if not c.startswith("runtime.") and plain(first.get(c)) != plain(second.get(c))]


def runs_table(runs: pd.DataFrame, names: SettingNames) -> Table:
    in_bits, several = bool(runs["bits_per_byte"].notna().any()), runs["text"].nunique() > 1
    rows: list[list[Cell]] = []
    records = runs.to_dict("records")
    for run in records:
        url = mlflow_url(run["mlflow_uri"], run["mlflow_experiment"], run["mlflow_run"])
        label = str(run["name"] or run["run_id"])
        link: Cell = Link(label, url) if url else label
        rows.append(
            [
                link,
                *([str(run["text"])] if several else []),
                str(run["role"]),
                status_words(run["status"], run["reason"]),
                names.words({str(name): value for name, value in run.items()}),
                plain(run["seed"]),
                score_words(run),
                number(run["score"]),
                plus_minus(run["cross_entropy"], run["cross_entropy_se"], 3),
                *([number(run["bits_per_byte"], 3)] if in_bits else []),
                flops(run["train_flops"]),
                whole(run["tokens_per_second"]),
                str(run["diagnostic_messages"] or "") or "none",
            ]
        )
    columns = ["run", *(["text"] if several else []), "role", "status", "setting", "seed", "BrierLM ± s.e."]
    columns += ["score", "cross-entropy (nats)"]
    columns += ["bits per byte"] if in_bits else []
    columns += ["training FLOPs", "tokens/s", "diagnostics"]
    caption = "All runs. Scores of runs that did not complete are those of their last evaluation."
    caption += bound_note(records)
    first = 4 + several
    return Table("runs", caption, columns, rows, frozenset(range(first, len(columns) - 1)))


def environment_table(environments: dict[str, dict[str, Any]]) -> Table:
    """What the runs ran on; several values are all shown with the number of runs."""
    collected: dict[str, dict[str, int]] = {}
    for environment in environments.values():
        versions = environment.get("versions")
        flat = {k: v for k, v in environment.items() if k not in ("versions", "earlier")}
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
