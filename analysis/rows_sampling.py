"""One row a number of network calls, a sampler's setting, a sampled text: how finished runs sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.rows import SCORE_COLUMNS, Loaded, brier_columns, chunk_size, fingerprint_of, typed
from workbench import records

RUN = ["run_id", "study", "name", "role", "status", "K", "head", "setting", "seed", "text", "fingerprint"]
"""``setting``: what differs from other settings (``analysis.naming``)."""
_BRIER = [name for name in SCORE_COLUMNS if name not in records.Evaluation.model_fields]
CALL_COLUMNS = [*RUN, "solver", "network_calls", "infer_flops_per_token", *_BRIER, "seconds"]
TRADEOFF_COLUMNS = [*RUN, *records.TradeoffPoint.model_fields, "num_windows"]
"""Accuracy and collision in per cent; ``num_windows``: of the evaluation that they rest on."""
SAMPLE_COLUMNS = [*["corpus" if name == "text" else name for name in RUN], *records.SampleText.model_fields]
"""``corpus``: the name of the text that was trained on; ``text``: what was sampled."""


def call_rows(loaded: Sequence[Loaded]) -> pd.DataFrame:
    """Points of all call curves; of two with the same calls and solver the first."""
    found = []
    for item in loaded:
        points = {(point.network_calls, point.solver): point for point in reversed(item.record.call_curve)}
        for _, point in sorted(points.items()):
            own = {name: getattr(point, name) for name in ("solver", "network_calls", "infer_flops_per_token")}
            found.append({**_run(item), **own, **brier_columns(point.brier), "seconds": point.seconds})
    return _frame(found, CALL_COLUMNS)


def tradeoff_rows(loaded: Sequence[Loaded]) -> pd.DataFrame:
    found = [
        {**_run(item), **point.model_dump(), "num_windows": item.config.get("eval.tradeoff.num_windows")}
        for item in loaded
        for point in item.record.tradeoff
    ]
    frame = _frame(found, TRADEOFF_COLUMNS)
    for name in ("temperature", "noise_scale", "batch_size"):
        frame[name] = pd.to_numeric(frame[name]).astype("Int64" if name == "batch_size" else "float64")
    return frame


def sample_rows(loaded: Sequence[Loaded]) -> pd.DataFrame:
    """Texts in the order of training."""
    found = []
    for item in loaded:
        ordered = sorted(item.samples, key=lambda sample: sample.step)
        found += [{**_run(item), "corpus": item.text, **sample.model_dump()} for sample in ordered]
    return _frame(found, SAMPLE_COLUMNS)


def _run(item: Loaded) -> dict[str, Any]:
    record = item.record
    direct = {name: getattr(record, name) for name in ("run_id", "name", "role", "status", "head", "seed")}
    return {
        **direct,
        "study": item.study,
        "K": chunk_size(item),
        "text": item.text,
        "fingerprint": fingerprint_of(record),
    }


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    return typed(pd.DataFrame(rows, columns=columns))
