"""A written report in a few numbers and sentences, for a tracking server's page on the study.

Read from the report's own folder (``report.html``, ``data/``), so that what is shown elsewhere is what the report
says, and nothing is computed from the run folders a second time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.files_written import require_format
from analysis.frontier import KINDS, frontier
from analysis.naming import ROLES
from workbench.errors import OutputError

BEST_COLUMNS = ["family", "run", "brierlm", "brierlm_se", "bound", "train_flops", "infer_flops_per_token", "width"]
FRONTIER_COLUMNS = ["family", "run", "train_flops", "brierlm", "brierlm_se", "tokens", "width", "kind_of_point"]


@dataclass(frozen=True)
class Digest:
    """What a study amounts to."""

    verdict: str
    """The lead sentences of the report; empty where it has none."""
    counts: dict[str, int]
    """Number of runs by status."""
    best: pd.DataFrame
    """The highest BrierLM at the budget of each family (token baseline, each K, each head): BEST_COLUMNS."""
    frontier: pd.DataFrame
    """Points of training FLOPs against BrierLM that no other dominates: FRONTIER_COLUMNS."""

    @staticmethod
    def rows(frame: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows of a table as JSON holds them: nothing that is missing is a number."""
        plain = frame.astype(object).where(frame.notna(), None)
        return list(map(str, frame.columns)), [
            [_plain(value) for value in row] for row in plain.to_numpy().tolist()
        ]

    @property
    def metrics(self) -> dict[str, float]:
        """Names and values as a tracking server takes them. A best that is only a bound, or 0, is no number to
        draw: it stands in ``best`` alone."""
        shown = {f"runs/{status}": float(num) for status, num in self.counts.items()}
        for row in self.best[~self.best["bound"].astype(bool)].to_dict("records"):
            for name in ("brierlm", "brierlm_se"):
                if math.isfinite(row[name]):
                    shown[f"best/{name}/{row['family']}"] = float(row[name])
        for family, num in self.frontier["family"].value_counts().items():
            shown[f"frontier/num_points/{family}"] = float(num)
        return shown | {"frontier/num_points": float(len(self.frontier))}


def read_digest(folder: Path | str) -> Digest:
    """Of the report in ``folder``, as ``analysis.report.write_report`` leaves it. Where a study has several texts
    or evaluations, of the fingerprint with the most completed runs.

    Raises OutputError where ``folder`` holds no report, or a newer version's."""
    folder = Path(folder)
    try:
        html = (folder / "report.html").read_text(encoding="utf-8")
        runs, evaluations = (
            require_format(pd.read_parquet(path), str(path))
            for path in (folder / "data" / f"{name}.parquet" for name in ("runs", "evaluations"))
        )
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder} holds no report ({error}); write one with: calm report") from None
    counts = {str(status): int(num) for status, num in runs["status"].value_counts().items()}
    finals = runs[(runs["status"] == "completed") & runs["at_budget"].eq(True) & runs["role"].isin(ROLES)]
    if finals.empty:
        empty = pd.DataFrame(columns=BEST_COLUMNS), pd.DataFrame(columns=FRONTIER_COLUMNS)
        return Digest(_verdict(html), counts, *empty)
    fingerprint = finals["fingerprint"].mode().iloc[0]
    finals = finals[finals["fingerprint"] == fingerprint]
    points = evaluations[(evaluations["fingerprint"] == fingerprint) & evaluations["role"].isin(ROLES)]
    return Digest(_verdict(html), counts, _best(_with_family(finals)), _frontier(finals, _with_family(points)))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _with_family(frame: pd.DataFrame) -> pd.DataFrame:
    """``family``: baseline, K4, or K4-flow for another head than the energy head."""

    def family(row: pd.Series) -> str:
        if row["kind"] == "baseline":
            return "baseline"
        head = "" if pd.isna(row["head"]) or row["head"] == "energy" else f"-{row['head']}"
        return f"K{int(row['K'])}{head}"

    return frame.assign(family=frame.apply(family, axis=1) if len(frame) else [], run=frame["run_id"])


def _best(finals: pd.DataFrame) -> pd.DataFrame:
    """A family whose only scores are bounds is there with its highest."""
    bound = (finals["weak_orders"].fillna("") != "") | ~(finals["brierlm"] > 0)
    width = finals.get("model.backbone.width", pd.Series(pd.NA, index=finals.index))
    ordered = finals.assign(bound=bound, width=width).sort_values(
        ["family", "bound", "brierlm", "run_id"], ascending=[True, True, False, True], kind="stable"
    )
    return ordered.groupby("family", sort=False).head(1)[BEST_COLUMNS].reset_index(drop=True)


def _frontier(finals: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Of the kind of point that most runs end with; the kinds are never mixed."""
    kinds = finals["phase"][finals["phase"].isin(KINDS)].mode()
    if kinds.empty:
        return pd.DataFrame(columns=FRONTIER_COLUMNS)
    found = frontier(points, kind=str(kinds.iloc[0])).assign(kind_of_point=str(kinds.iloc[0]))
    return found[FRONTIER_COLUMNS]


class _Lead(HTMLParser):
    """Collects the text of ``<p class="lead">`` in ``<section id="verdict">``."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = self.reading = False
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "section":
            self.inside = given.get("id") == "verdict"
        self.reading = self.reading or (
            self.inside and tag == "p" and "lead" in (given.get("class") or "").split()
        )

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self.reading = False

    def handle_data(self, data: str) -> None:
        if self.reading:
            self.text.append(data)


def _verdict(html: str) -> str:
    parser = _Lead()
    parser.feed(html)
    return " ".join("".join(parser.text).split())
