"""The digest of a report: what it says is what the report's own data and verdict say."""

from __future__ import annotations

import html
import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.digest import Digest, read_digest
from analysis.frontier import pareto
from analysis.report import write_report
from workbench.errors import OutputError


@pytest.fixture
def folder(home: Path, tmp_path: Path, no_figures: None) -> Path:
    (study,) = [path.parent.name for path in home.glob("*/study.json")]
    write_report(home, study, tmp_path / "report")
    return tmp_path / "report"


@pytest.mark.slow
def test_it_says_what_the_report_says(folder: Path) -> None:
    digest = read_digest(folder)
    runs = pd.read_csv(folder / "data" / "runs.csv")
    assert digest.counts == runs["status"].value_counts().to_dict()
    assert len(digest.verdict) > 40
    assert digest.verdict in " ".join(html.unescape((folder / "report.html").read_text()).split())
    _check_best(digest, runs)
    costs = digest.frontier["train_flops"].tolist()
    assert costs == sorted(costs)
    assert pareto(costs, digest.frontier["brierlm"].tolist()).all()
    assert digest.metrics["frontier/num_points"] == len(digest.frontier) > 0


def _check_best(digest: Digest, runs: pd.DataFrame) -> None:
    """By brute force over the report's own table, from its text."""
    completed = runs[(runs["status"] == "completed") & runs["at_budget"] & (runs["role"] != "check")]
    completed = completed[completed["fingerprint"] == completed["fingerprint"].mode().iloc[0]]
    calm = completed[(completed["kind"] == "calm") & completed["weak_orders"].isna() & (completed["brierlm"] > 0)]
    wanted = {f"best/brierlm/K{int(k)}": calm.loc[calm["K"] == k, "brierlm"].max() for k in calm["K"].unique()}
    baselines = completed[(completed["kind"] == "baseline") & completed["weak_orders"].isna()]
    wanted["best/brierlm/baseline"] = baselines["brierlm"].max()
    assert len(wanted) > 2
    assert {
        key: digest.metrics[key] for key in digest.metrics if key.startswith("best/brierlm/")
    } == pytest.approx(wanted)


def _write(folder: Path, rows: list[dict[str, object]]) -> Path:
    common = {"role": "trial", "status": "completed", "kind": "calm", "head": "energy", "K": 4, "at_budget": True}
    common |= {"fingerprint": "f", "phase": "decayed", "weak_orders": "", "brierlm_se": 0.1, "tokens": 10}
    common |= {"train_flops": 1e11, "infer_flops_per_token": 1e5, "model.backbone.width": 32, "width": 32}
    frame = pd.DataFrame([common | {"run_id": f"r{i}"} | row for i, row in enumerate(rows)])
    (folder / "data").mkdir(parents=True)
    for name in ("runs", "evaluations"):
        frame.to_parquet(folder / "data" / f"{name}.parquet")
    (folder / "report.html").write_text("<section id='samples'><p class='lead'>not this</p></section>")
    return folder


def test_a_bound_is_in_the_table_but_no_metric(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"brierlm": 2.0, "weak_orders": "4"},
        {"brierlm": 0.0},
        {"K": 8, "brierlm": 0.0},
    ]
    digest = read_digest(_write(tmp_path / "r", rows))
    assert [(row.family, row.brierlm, row.bound) for row in digest.best.itertuples()] == [
        ("K4", 2.0, True),
        ("K8", 0.0, True),
    ]
    assert not [key for key in digest.metrics if key.startswith("best/")]
    assert digest.metrics["frontier/num_points"] == 0
    assert digest.verdict == ""


def test_heads_and_checks_are_told_apart(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"brierlm": 2.0},
        {"brierlm": 3.0, "head": "flow"},
        {"brierlm": 9.0, "role": "check"},
        {"brierlm": 8.0, "fingerprint": "another"},
        {"brierlm": 7.0, "at_budget": False, "status": "pruned"},
        {"brierlm": 5.0, "kind": "baseline", "K": None, "head": None, "brierlm_se": math.nan},
    ]
    metrics = read_digest(_write(tmp_path / "r", rows)).metrics
    best = {key: value for key, value in metrics.items() if key.startswith("best/brierlm/")}
    assert best == {"best/brierlm/K4": 2.0, "best/brierlm/K4-flow": 3.0, "best/brierlm/baseline": 5.0}
    assert "best/brierlm_se/baseline" not in metrics
    assert metrics["runs/pruned"] == 1


def test_rows_hold_nothing_that_json_cannot(tmp_path: Path) -> None:
    digest = read_digest(_write(tmp_path / "r", [{"brierlm": 2.0, "model.backbone.width": None}]))
    columns, rows = digest.rows(digest.best)
    assert len(rows[0]) == len(columns)
    assert rows[0][columns.index("width")] is None
    assert type(rows[0][columns.index("brierlm")]) is float


def test_a_folder_without_a_report(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds no report.*calm report"):
        read_digest(tmp_path)
