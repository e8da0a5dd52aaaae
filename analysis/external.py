"""Anybody's runs beside ours: a CSV or Parquet file becomes rows like those of our own evaluations.

The columns are in ``COLUMNS`` (and in docs/external-results.md). Every file gets an evaluation fingerprint of its
own, ``external: NAME``: scores on another text, with another tokenizer or at other positions are other quantities,
so such rows are shown and fitted beside ours and never compared with them. The frame has the columns of
``analysis.rows.EVALUATION_COLUMNS`` and some more, and everything in ``analysis`` that takes evaluations takes it:

    frame = read_external("theirs.csv")
    points = analysis.frontier.select(frame, cost="train_flops_published").points
    analysis.frontier.with_status(points, cost="train_flops_published")
    analysis.frontier_bands.bands(points, cost="train_flops_published")
    analysis.plots_frontier.frontier_figure(frame, cost="train_flops_published")
    analysis.scaling_points.choose_points(frame)  # and what fits laws to points
"""

from __future__ import annotations

import csv
import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.external_values import Column, is_empty, numbers, words
from analysis.files_written import require_format
from analysis.frontier import AXES, KINDS
from analysis.rows import EVALUATION_COLUMNS, typed
from workbench.errors import StudyError

EXTRA_COLUMNS = ["model", "dataset", "source", "note"]
"""Beside ``EVALUATION_COLUMNS``."""
PUBLISHED = Path(__file__).with_name("published.csv")
SUFFIXES = {".csv": "CSV", ".parquet": "Parquet"}

COLUMNS = (
    Column("model", "name of the model; rows of one model and seed are checkpoints of one run", required=True),
    Column("brierlm", "BrierLM, 0 to 100", low=0, high=100, required=True),
    Column("K", "chunk size of a CALM; empty for a token model", low=1, whole=True),
    Column("kind", "calm or baseline; without it a row with a K is a calm, one without a baseline"),
    Column("train_flops", "training FLOPs as executed, without the autoencoder", above=0),
    Column("train_flops_published", "training FLOPs in the paper's count", above=0),
    Column("infer_flops_per_token", "inference FLOPs per token as executed", above=0),
    Column("infer_flops_per_token_published", "inference FLOPs per token in the paper's count", above=0),
    Column("autoencoder_train_flops", "training FLOPs of the autoencoder", low=0),
    Column("brierlm_se", "standard error of BrierLM", low=0),
    Column("brierlm_low", "lower end of its 95 % interval", low=0, high=100),
    Column("brierlm_high", "upper end of its 95 % interval", low=0, high=100),
    Column("num_clusters", "independent parts of the text (documents) behind the error", low=2, whole=True),
    Column("cross_entropy", "nats per token; token models only", low=0),
    Column("cross_entropy_se", "its standard error", low=0),
    Column("num_parameters", "parameters of the language model, the autoencoder's left out", above=0),
    Column("model_parameters", "the same without look-up embeddings: N of the scaling laws", above=0),
    Column("tokens", "training tokens seen", above=0),
    Column("step", "training step; without it checkpoints are numbered by cost", low=0, whole=True),
    Column("head", "generative head: energy, diffusion, flow, ..."),
    Column("latent_dim", "latent dimension of the autoencoder", above=0, whole=True),
    Column("width", "width D", above=0, whole=True),
    Column("num_layers", "layers", above=0, whole=True),
    Column("seed", "seed of the run", low=0, whole=True),
    Column("run_id", "name of the run; default: model, and seed where given"),
    Column("phase", "constant (taken at constant rate) or decayed (end of the run's own decay; default)"),
    Column("dataset", "text and tokenizer of the evaluation; each gets a fingerprint of its own"),
    Column("source", "where the row is from"),
    Column("note", "anything a reader should know"),
)
"""What a file may hold; anything else is kept but not used."""
COSTS = ("train_flops", "train_flops_published", "infer_flops_per_token", "infer_flops_per_token_published")
"""Of these at least one is wanted in every row."""
_KEY = ("run_id", "kind", "K", "head", "seed", "step", "tokens", "dataset", *COSTS)
"""Rows that agree in all of these are one measurement entered twice."""


def read_external(path: Path | str, name: str = "") -> pd.DataFrame:
    """Rows of a file, in the columns of ``EVALUATION_COLUMNS`` and ``EXTRA_COLUMNS``; ``name``: default the file's
    without its ending.

    Raises StudyError, with column, row and value, where the file cannot be read, is empty or of another type,
    lacks a column or a value that is needed, holds something that is no number or out of range, or a row twice."""
    path = Path(path)
    raw = _read(path)
    empty = raw.map(is_empty).all(axis=1)
    raw = raw[~empty]
    if raw.empty:
        raise StudyError(f"{path.name} has no rows; one row a result is wanted below the column names")
    file = _File(path.name, raw.index.tolist() if path.suffix.lower() == ".csv" else None)
    raw = _named(raw.reset_index(drop=True), file)
    values = {c.name: _column(c, raw, file) for c in COLUMNS}
    frame = pd.DataFrame(values, index=raw.index)
    _kinds(frame, raw, file)
    _checked(frame, file)
    frame["run_id"] = [_run_name(*row) for row in zip(frame["run_id"], frame["model"], frame["seed"], strict=True)]
    _no_duplicates(frame, file)
    others = [c for c in raw.columns if c not in frame and c not in EVALUATION_COLUMNS]
    return pd.concat([_as_evaluations(frame, name or path.stem), raw[others]], axis=1)


def published() -> pd.DataFrame:
    """The rows of the paper (arXiv 2510.27688) that ship: reference points, without errors, in the published count
    of FLOPs."""
    return read_external(PUBLISHED)


@dataclass(frozen=True)
class _File:
    name: str
    places: list[int] | None
    """Of the rows in a text file, empty ones counted; the first is on line 2."""

    def row(self, place: int) -> str:
        line = f" (line {self.places[place] + 2})" if self.places is not None else ""
        return f"row {place + 1}{line}"

    def error(self, place: int, column: str, value: object, wanted: str) -> StudyError:
        given = "nothing" if value is None or value == "" else repr(value)
        where = f"{self.name}, {self.row(place)}, column {column!r}"
        return StudyError(f"{where}: {wanted} wanted, got {given}; correct it")


def _read(path: Path) -> pd.DataFrame:
    """Cells as they stand: text from a CSV, values from a Parquet file."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise StudyError(
            f"{path.name or path}: a file of runs is a .csv or a .parquet, got {path.suffix or 'no ending'!r}; "
            "export the table as CSV with a line of column names"
        )
    if not path.is_file():
        raise StudyError(f"{path}: there is no such file; give the path of a CSV or Parquet file of runs")
    read: Callable[[Path], pd.DataFrame] = _read_csv if kind == "CSV" else pd.read_parquet
    try:
        raw = read(path)
    except pd.errors.EmptyDataError:
        raise StudyError(f"{path.name} is empty; a line of column names and one row a result are wanted") from None
    except pd.errors.ParserWarning:
        raise StudyError(
            f"{path.name}: a row has more cells than there are column names; quote cells that hold a comma"
        ) from None
    except (OSError, ValueError) as error:  # of parser, decoding and pyarrow
        words_ = " ".join(str(error).split())[:200]
        raise StudyError(f"{path.name} cannot be read as {kind} ({words_}); save it as {kind} again") from None
    return require_format(raw.reset_index(drop=True), path.name)


def _read_csv(path: Path) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more cells than there are columns
        raw = pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False, skip_blank_lines=False
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file))  # pandas renames a name that is there twice
    return raw.set_axis(names, axis=1) if len(names) == raw.shape[1] else raw


def _named(raw: pd.DataFrame, file: _File) -> pd.DataFrame:
    """With the documented spelling of its columns. A name that is nearly one of them is a mistake, no extra."""
    known = {c.name.lower(): c.name for c in COLUMNS}
    names = [str(column).strip() for column in raw.columns]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise StudyError(f"{file.name}: columns separated by commas are wanted, got {names[0]!r}")
    names = [known.get(name.lower(), name) for name in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StudyError(f"{file.name}: column {twice[0]!r} is there twice; keep one of them")
    for name in names:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.88)
        if name not in known.values() and near and known[near[0]] not in names:
            raise StudyError(
                f"{file.name}: unknown column {name!r}; did you mean {known[near[0]]!r}? Known: "
                f"{', '.join(known.values())}"
            )
    missing = [c.name for c in COLUMNS if c.required and c.name not in names]
    if not any(cost in names for cost in COSTS):
        missing.append(f"one of {', '.join(COSTS)}")
    if not {"K", "kind"} & set(names):
        missing.append("K or kind")
    if missing:
        raise StudyError(
            f"{file.name}: missing column{'s' if len(missing) > 1 else ''}: {'; '.join(missing)}. Given: "
            f"{', '.join(names)}; the columns are documented in docs/external-results.md"
        )
    return raw.set_axis(names, axis=1)


def _column(column: Column, raw: pd.DataFrame, file: _File) -> list[Any]:
    if column.name not in raw:
        return [None] * len(raw)
    read = numbers if column.is_number else words
    return read(column, raw[column.name].tolist(), file.error)


def _kinds(frame: pd.DataFrame, raw: pd.DataFrame, file: _File) -> None:
    """Fill in ``kind`` and check it against K; in place."""
    kinds = []
    for place, (kind, k) in enumerate(zip(frame["kind"], frame["K"], strict=True)):
        there = not pd.isna(k)
        kind = kind or ("calm" if there else "baseline")
        if kind not in ("calm", "baseline"):
            raise file.error(place, "kind", kind, "calm or baseline")
        if kind == "calm" and not there:
            raise file.error(place, "K", "", "the chunk size of a calm")
        if kind == "baseline" and there:
            raise file.error(place, "K", raw["K"].iloc[place], "an empty cell for a baseline, which has no K,")
        kinds.append(kind)
    frame["kind"] = kinds


def _checked(frame: pd.DataFrame, file: _File) -> None:
    """What concerns several columns of a row."""
    for place, row in enumerate(frame.to_dict("records")):
        if all(pd.isna(row[cost]) for cost in COSTS):
            raise file.error(place, "train_flops", "", f"a cost (one of {', '.join(COSTS)})")
        if row["phase"] not in (None, *KINDS):
            raise file.error(place, "phase", row["phase"], "constant or decayed")
        low, high = (row["brierlm"] if pd.isna(row[end]) else row[end] for end in ("brierlm_low", "brierlm_high"))
        if not low <= row["brierlm"] <= high:
            raise file.error(place, "brierlm", row["brierlm"], f"a score within its interval [{low:g}, {high:g}]")


def _run_name(run_id: str | None, model: str, seed: float | None) -> str:
    return run_id or (model if seed is None or pd.isna(seed) else f"{model}, seed {int(seed)}")


def _no_duplicates(frame: pd.DataFrame, file: _File) -> None:
    keys = frame[list(_KEY)].astype(object).where(frame[list(_KEY)].notna(), None)
    seen: dict[tuple[Any, ...], int] = {}
    for place, key in enumerate(keys.itertuples(index=False, name=None)):
        if key in seen:
            raise StudyError(
                f"{file.name}: {file.row(place)} repeats {file.row(seen[key])} (model "
                f"{frame['model'].iloc[place]!r} at the same cost); remove one, or tell them apart by seed, step "
                "or run_id"
            )
        seen[key] = place


def _as_evaluations(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    label = f"external: {name}"
    several = frame["dataset"].nunique() > 1
    prints = [f"{label}, {d}" if several and d else label for d in frame["dataset"]]
    extra = frame["autoencoder_train_flops"].astype(float).where(frame["kind"] == "calm", 0.0)
    result = frame.assign(
        study=label,
        role=frame["kind"].map({"calm": "run", "baseline": "baseline"}),
        setting=frame["model"],
        status="completed",
        run_id=label + "/" + frame["run_id"].astype(str),
        step=_steps(frame),
        train_flops_with_autoencoder=frame["train_flops"].astype(float) + extra,
        phase=frame["phase"].fillna("decayed"),
        text=prints,
        fingerprint=prints,
        weak_orders="",
    )
    result = result.reindex(columns=[*EVALUATION_COLUMNS, *EXTRA_COLUMNS])
    amounts = [c.name for c in COLUMNS if c.is_number and c.name in result and c.name not in ("K", "seed", "step")]
    for column in amounts:
        result[column] = pd.to_numeric(result[column]).astype("float64")
    return typed(result)


def _steps(frame: pd.DataFrame) -> pd.Series:
    """As given, else the number of the row in its run by cost."""
    costs = frame[list(COSTS)].astype(float).bfill(axis=1).iloc[:, 0]
    order = costs.groupby(frame["run_id"]).rank(method="first")
    return frame["step"].astype(float).fillna(order).astype(np.int64)


assert set(COSTS) <= set(AXES)
