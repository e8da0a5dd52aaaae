"""A page for every run: what it differs in, how it went, what was said of it.

There may be a thousand: no figure is drawn with matplotlib, the curve is a few hundred characters of SVG.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from analysis.page import render
from analysis.samples import Sample, visible
from analysis.scores import is_bound, score_words
from analysis.sections import Section
from analysis.table import RunTable
from analysis.words import (
    Cell,
    Table,
    flops,
    missing,
    mlflow_url,
    name_of,
    number,
    plain,
    plus_minus,
    status_words,
)
from analysis.words import whole as whole_number

MAX_NAME = 80
"""Characters of a file name before ``.html``."""
MAX_ROWS = 60
"""Checkpoints in a page's table; of more the last ones, and all are in data/evaluations.csv."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_SIZE = (520, 200)
_EDGE = 44
_SHOWN = ["run_id", "step", "train_flops", "phase", "brierlm", "brierlm_se", "brierlm_high", "weak_orders"]
_SHOWN += [*(f"brier_{n}" for n in (1, 2, 3, 4)), "cross_entropy", "cross_entropy_se", "head_loss"]
"""Columns of a checkpoint that a page shows."""
_OF_TEXT = ["tokens", "sampler", "prompt", "text"]
Row = Mapping[Hashable, Any]


def page_names(run_ids: Sequence[str]) -> list[str]:
    """File names that every system takes, one for each run, whatever their ids hold.

    An id that is such a name already is kept; from another what is unsafe is dropped and a part of its hash added.
    Ids that differ in nothing but case get it too, and equal ones are numbered."""
    slugs = [re.sub(r"[^A-Za-z0-9._-]+", "-", run_id).strip("-.")[:MAX_NAME] for run_id in run_ids]
    folded = Counter(run_id.casefold() for run_id in dict.fromkeys(run_ids))
    names, seen = [], Counter[str]()
    for run_id, slug in zip(run_ids, slugs, strict=True):
        if not slug or slug != run_id or folded[run_id.casefold()] > 1 or _RESERVED.fullmatch(slug):
            digest = hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()[:10]
            slug = f"run-{slug}-{digest}" if not slug or _RESERVED.fullmatch(slug) else f"{slug}-{digest}"
        seen[run_id] += 1
        names.append(f"{slug}{f'-copy{seen[run_id]}' if seen[run_id] > 1 else ''}.html")
    return names


def run_pages(table: RunTable, study: str) -> dict[str, str]:
    """HTML by file name, in the order of ``table.runs``."""
    names = page_names(table.runs["run_id"].astype(str).tolist())
    evaluations = _by_run(table.evaluations[_SHOWN])
    samples = _by_run(table.samples.drop_duplicates("run_id", keep="last")[["run_id", *_OF_TEXT]])
    autoencoders = dict(iter(table.autoencoders.groupby("hash", sort=False)))
    bases = {kind: _base(table, kind) for kind in dict.fromkeys(table.runs["kind"])}
    pages = {}
    for name, run in zip(names, table.runs.to_dict("records"), strict=True):
        run_id = str(run["run_id"])
        rows = evaluations.get(run_id, [])
        sections = [
            _differences(table.configs.get(run_id, {}), bases[run["kind"]]),
            _diagnostics(run),
            _numbers(run, rows),
            _autoencoder(autoencoders.get(run["autoencoder_hash"])),
            _texts(samples.get(run_id, [])),
            _configuration(table.configs.get(run_id, {})),
        ]
        pages[name] = render(
            "run.html.j2",
            study=study,
            name=str(run["name"] or run_id),
            lead=_lead(run),
            mlflow=mlflow_url(run["mlflow_uri"], run["mlflow_experiment"], run["mlflow_run"]),
            curve=curve(rows),
            sections=[section for section in sections if section is not None],
        )
    return pages


def _by_run(frame: pd.DataFrame) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in frame.to_dict("records"):
        found.setdefault(str(row["run_id"]), []).append(row)
    return found


def _lead(run: Row) -> str:
    what = "Token baseline" if run["kind"] == "baseline" else f"CALM, K = {plain(run['K'])}, {run['head']} head"
    words = f"{what}, {run['role']}, seed {plain(run['seed'])}; {status_words(run['status'], run['reason'])}"
    score = score_words(run)
    return f"{words}; BrierLM {score} after {flops(run['train_flops'])} training FLOPs."


def _base(table: RunTable, kind: str) -> dict[str, str]:
    """The most frequent value of every field among the runs of one kind (the first one's between equals), without
    the checks, which repeat the best setting."""
    runs = table.runs[(table.runs["kind"] == kind) & (table.runs["role"] != "check")]
    ids = [str(run_id) for run_id in runs["run_id"]]
    counts: dict[str, Counter[str]] = {}
    for run_id in ids:
        for name, value in table.configs.get(run_id, {}).items():
            counts.setdefault(name, Counter())[plain(value)] += 1
    return {name: count.most_common(1)[0][0] for name, count in counts.items()}


def _differences(config: Mapping[str, Any], base: Mapping[str, str]) -> Section | None:
    if not config:
        return None
    section = Section("differences", "What differs from the study's most frequent values")
    names = [name for name, value in config.items() if plain(value) != base.get(name, plain(None))]
    names += [name for name, value in base.items() if name not in config and value != plain(None)]
    if not names:
        section.notes.append("Nothing: each of its values is the most frequent one among runs of its kind.")
        return section
    rows: list[list[Cell]] = [
        [name_of(name), name, plain(config.get(name)), base.get(name, plain(None))] for name in names
    ]
    columns = ["parameter", "field", "this run", "most frequent"]
    section.add(Table("differences", "Against the most frequent value among runs of its kind.", columns, rows))
    return section


def _diagnostics(run: Row) -> Section | None:
    if not run["diagnostic_messages"]:
        return None
    return Section("diagnostics", "Diagnostics", notes=str(run["diagnostic_messages"]).split("; "))


def _numbers(run: Row, rows: list[Row]) -> Section | None:
    if not rows:
        return None
    section = Section("checkpoints", "Checkpoints")
    nats = run["kind"] == "baseline"
    cells: list[list[Cell]] = [
        [
            plain(row["step"]),
            flops(row["train_flops"]),
            str(row["phase"]),
            score_words(row),
            *[number(row[f"brier_{n}"], 3) for n in (1, 2, 3, 4)],
            plus_minus(row["cross_entropy"], row["cross_entropy_se"], 3) if nats else number(row["head_loss"], 3),
        ]
        for row in rows[-MAX_ROWS:]
    ]
    columns = ["step", "training FLOPs", "schedule", "BrierLM ± s.e.", *[f"Brier-{n} (%)" for n in (1, 2, 3, 4)]]
    columns.append("cross-entropy (nats)" if nats else "head loss")
    caption = "Evaluations, in the order of training."
    if len(rows) > MAX_ROWS:
        caption += f" The last {MAX_ROWS} of {len(rows)}; all are in data/evaluations.csv."
    section.add(Table("checkpoints", caption, columns, cells, frozenset({0, 1, 3, 4, 5, 6, 7, 8})))
    return section


def _autoencoder(rows: pd.DataFrame | None) -> Section | None:
    if rows is None or rows.empty:
        return None
    first = rows.iloc[0]
    section = Section("autoencoder", "Autoencoder")
    noisy: list[list[Cell]] = [
        [f"with noise of {plain(noise)}", f"{number(100 * accuracy)} %"]
        for noise, accuracy in zip(rows["noise"], rows["accuracy"], strict=True)
        if noise > 0
    ]
    cells: list[list[Cell]] = [
        ["tokens right", f"{number(100 * first['token_accuracy'])} %"],
        ["under its posterior", f"{number(100 * first['posterior_accuracy'])} %"],
        *noisy,
        ["collapsed dimensions", f"{first['num_collapsed']} of {first['latent_dim']}"],
        ["training FLOPs", flops(first["train_flops"])],
        ["shared by", f"{first['num_runs']} runs"],
    ]
    section.add(Table("autoencoder", "On held-out chunks.", ["what", "value"], cells, frozenset({1})))
    return section


def _texts(rows: list[Row]) -> Section | None:
    if not rows:
        return None
    last = rows[-1]
    when = f"after {whole_number(last['tokens'])} training tokens; drawn by {last['sampler']}"
    text = Sample("Last sampled text", when, visible(str(last["prompt"])), visible(str(last["text"])), [])
    return Section("samples", "Text", samples=[text])


def _configuration(config: Mapping[str, Any]) -> Section | None:
    if not config:
        return None
    section = Section("configuration", "Configuration")
    rows: list[list[Cell]] = [[name, plain(value)] for name, value in config.items()]
    section.add(Table("configuration", "As the run resolved it; its seed stands above.", ["field", "value"], rows))
    return section


def curve(rows: Iterable[Row]) -> Markup | None:
    """BrierLM over training FLOPs on a log axis, with the band that ``score_words`` gives in words; None without
    two points."""
    usable = [row for row in rows if row["train_flops"] > 0 and row["brierlm"] == row["brierlm"]]
    known = [(math.log10(row["train_flops"]), float(row["brierlm"])) for row in usable]
    if len(known) < 2 or known[0][0] == known[-1][0]:
        return None
    width, height = _SIZE
    left, right = known[0][0], known[-1][0]
    band = [_band(row) for row in usable]
    top = max(max(high for _, high in band), max(score for _, score in known)) or 1.0

    def x(cost: float) -> float:
        return round(_EDGE + (width - _EDGE - 8) * (cost - left) / (right - left), 1)

    def y(score: float) -> float:
        return round(height - 26 - (height - 40) * min(max(score, 0.0), top) / top, 1)

    line = " ".join(f"{x(c)},{y(s)}" for c, s in known)
    upper = [f"{x(c)},{y(high)}" for (c, _), (_, high) in zip(known, band, strict=True)]
    lower = [f"{x(c)},{y(low)}" for (c, _), (low, _) in reversed(list(zip(known, band, strict=True)))]
    dots = "".join(f'<circle class="dot" cx="{x(c)}" cy="{y(s)}" r="2"/>' for c, s in known[-MAX_ROWS:])
    some = any(map(is_bound, usable))
    what = "one standard error" + (", or up to the bound where an order cannot be told from 0" if some else "")
    ends = f"From {number(known[0][1])} to {number(known[-1][1])} BrierLM"
    words = f"{ends}. Band: {what}. The numbers are in the table below."
    base = height - 26
    return Markup(
        f'<figure class="wide"><h2 id="h-curve">BrierLM by training compute</h2>'
        f'<svg class="spark" viewBox="0 0 {width} {height}" role="img" aria-labelledby="h-curve curve-desc">'
        f'<desc id="curve-desc">{escape(words)}</desc>'
        f'<path class="axis" d="M{_EDGE} 8V{base}H{width - 8}" fill="none"/>'
        f'<polygon class="band" points="{" ".join([*upper, *lower])}"/>'
        f'<polyline class="line" points="{line}"/>{dots}'
        f'<text x="{_EDGE - 4}" y="{y(top) + 4}" text-anchor="end">{number(top)}</text>'
        f'<text x="{_EDGE - 4}" y="{base}" text-anchor="end">0</text>'
        f'<text x="{_EDGE}" y="{height - 8}">{flops(10**left)}</text>'
        f'<text x="{width - 8}" y="{height - 8}" text-anchor="end">{flops(10**right)} FLOPs</text></svg>'
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def _band(row: Row) -> tuple[float, float]:
    score, error = float(row["brierlm"]), row["brierlm_se"]
    if is_bound(row):
        return 0.0, float(row["brierlm_high"])
    return (score, score) if missing(error) else (score - float(error), score + float(error))
