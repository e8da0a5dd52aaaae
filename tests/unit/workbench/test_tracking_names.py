"""Names of parameters and metrics, and the saved views that rely on them. Nothing is sent anywhere."""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from analysis import style
from tests.suites.run_folders import make_run_folder
from tests.suites.tracker_suite import set_record
from workbench import records
from workbench.tracking_metrics import Point, points
from workbench.tracking_schema import Cursor, colour, find_missing
from workbench.tracking_views import SHORT, compute_view, experiment_tags, missing_tags


def shown(run_dir: Path) -> tuple[dict[str, str], list[Point]]:
    missing = find_missing(run_dir, records.read_record(run_dir), Cursor(tracking_uri="", token=""))
    return missing.params, missing.points


@pytest.fixture
def calm(tmp_path: Path) -> Path:
    return make_run_folder(tmp_path / "calm", chunk_size=4, width=128, train_flops=2e11)


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    return make_run_folder(tmp_path / "baseline", kind="baseline", width=64, train_flops=2e11)


def test_calm_and_baselines_share_the_parameters_that_mean_the_same(calm: Path, baseline: Path) -> None:
    wanted = {"Family": "K=4", "Width": "128", "FLOPs log10": "11.30"}
    assert {key: shown(calm)[0][key] for key in wanted} == wanted
    assert {key: shown(baseline)[0][key] for key in wanted} == wanted | {"Family": "baseline", "Width": "64"}
    keys = sorted(shown(calm)[0])
    assert keys[:6] == sorted([*wanted, *SHORT.values()])  # MLflow's pages offer the first that differ


def test_another_head_is_another_family(tmp_path: Path) -> None:
    run_dir = make_run_folder(tmp_path / "r", overrides={"model.head.kind": "flow"})
    assert shown(run_dir)[0]["Family"] == "K=4 flow"


def test_numbers_are_numbers(calm: Path) -> None:
    params = shown(calm)[0]
    for key in (
        "Width",
        "FLOPs log10",
        "model.chunk_size",
        "model.backbone.width",
        "optim.lr",
        "train.train_flops",
    ):
        assert math.isfinite(float(params[key]))


def test_metric_names_are_such_as_mlflow_takes(calm: Path, baseline: Path) -> None:
    names = {point.key for run_dir in (calm, baseline) for point in shown(run_dir)[1]}
    assert len(names) > 30
    assert [name for name in names if not re.fullmatch(r"[\w\-. :/]+", name)] == []


def test_costs_are_there_as_logarithms_at_every_step(calm: Path) -> None:
    found = {(point.key, point.step): point.value for point in shown(calm)[1]}
    steps = {step for key, step in found if key in ("train/loss", "eval/brierlm")}
    assert len(steps) >= 20
    for step in steps:
        logarithm = found["compute/log10_train_flops", step]
        assert logarithm == pytest.approx(math.log10(found["compute/train_flops", step]))
    assert ("compute/log10_infer_flops_per_token", records.read_record(calm).step) in found


def test_only_a_completed_run_has_a_final_score(calm: Path) -> None:
    record = records.read_record(calm)
    assert record.final is not None
    values = {point.key: point.value for point in points(calm, record, ended=True)}
    assert values["final/brierlm"] == record.final.brier.brierlm
    assert values["final/brier_4"] == record.final.brier.brier[3]
    pruned = set_record(calm, status="pruned")
    assert not [p.key for p in points(calm, pruned, ended=True) if p.key.startswith("final/")]


def test_a_run_sent_under_older_names_gets_what_is_new_and_nothing_twice(calm: Path) -> None:
    record = records.read_record(calm)
    old = Cursor(tracking_uri="", token="", params=True, dataset=True, status="FINISHED")
    for point in shown(calm)[1]:
        if "log10" not in point.key:
            old.steps[point.key] = max(point.step, old.steps.get(point.key, -1))
    missing = find_missing(calm, record, old)
    assert missing.params["Family"] == "K=4"
    assert {point.key for point in missing.points} >= {"compute/log10_train_flops"}
    assert all("log10" in point.key for point in missing.points)
    assert len([p for p in missing.points if p.key == "compute/log10_train_flops"]) >= 20


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16, 64])
def test_colours_are_those_of_the_report(k: int) -> None:
    assert colour({"kind": "calm", "chunk_size": k}) == style.k_colour(k)
    assert colour({"kind": "baseline"}) == style.k_colour(None)


def unpacked(value: str) -> dict[str, Any]:
    """As MLflow's pages read a saved view."""
    envelope = json.loads(value)
    assert envelope["name"]
    assert isinstance(envelope["createdAt"], int)
    kind, _, packed = envelope["state"].partition(";")
    assert kind == "deflate"
    return dict(json.loads(zlib.decompress(base64.b64decode(packed))))


def test_the_view_shows_what_the_study_varies(calm: Path) -> None:
    varied = ["model.chunk_size", "autoencoder.latent_dim", "autoencoder.kl_floor"]
    state = compute_view(varied).state
    (parallel,) = [chart for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL"]
    assert parallel["selectedParams"] == ["Family", "Latent dim", "KL floor"]
    assert set(parallel["selectedParams"]) <= set(shown(calm)[0])
    assert state["selectedColumns"][:3] == ["params.`Family`", "params.`Latent dim`", "params.`KL floor`"]


def test_a_view_that_somebody_changed_stays() -> None:
    varied = ["optim.lr"]
    plain, wanted = experiment_tags(5), experiment_tags(5, varied)
    assert missing_tags({}, 5, varied) == wanted
    assert missing_tags(wanted, 5, varied) == {}
    assert missing_tags(plain, 5) == {}
    key = compute_view().tag
    assert missing_tags(plain, 7, varied) == {key: experiment_tags(7, varied)[key]}
    changed = {**plain, key: '{"name": "mine", "state": "deflate;abc"}'}
    assert missing_tags(changed, 5, varied) == {}
    assert missing_tags({**plain, key: "not JSON"}, 5, varied) == {}


def test_saved_views_name_only_what_is_logged(calm: Path) -> None:
    params, logged = shown(calm)
    metrics = {point.key for point in logged}
    (value,) = [value for key, value in experiment_tags(5).items() if key.startswith("mlflow.sharedViewState.")]
    assert len(value) < 5000
    state = unpacked(value)
    assert state == compute_view().state
    charts = state["compareRunCharts"]
    used = {axis["key"] for chart in charts for name, axis in chart.items() if name in ("xaxis", "yaxis", "zaxis")}
    used |= {
        key for chart in charts for key in chart.get("selectedMetrics", []) + chart.get("selectedMetricKeys", [])
    }
    used |= {state["globalLineChartConfig"]["selectedXAxisMetricKey"]}
    assert len(used) > 4
    assert used - {"parameters/log10_total"} <= metrics  # hand-made records know no total
    assert {key for chart in charts for key in chart.get("selectedParams", [])} <= set(params)
    columns = [re.fullmatch(r"(\w+)\.`(.+)`", column) for column in state["selectedColumns"]]
    named = {(match[1], match[2]) for match in columns if match}
    assert len(named) == len(columns)
    assert {name for kind, name in named if kind == "params"} <= set(params)
    assert {name for kind, name in named if kind == "metrics"} <= metrics | {"final/cross_entropy"}
    assert {chart["metricSectionId"] for chart in charts} == {s["uuid"] for s in state["compareRunSections"]}
