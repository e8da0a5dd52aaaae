"""Views of a study that stand ready in MLflow's own pages: saved views, as its button "Views" lists them.

MLflow keeps a saved view as a tag of the experiment: its name, and the state of the page as JSON. The format is
MLflow's (3.17) and not documented; a page that does not know it shows its own default, and nothing else is lost.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

TAG = "mlflow.sharedViewState."
KIND = "mlflow.experimentKind"
"""Tag of an experiment: without it, MLflow 3 opens its pages for language-model applications."""
KIND_TRAINING = "custom_model_development"
RUNS = "tags.`calm.role` != 'launch' and tags.`calm.role` != 'check'"
"""Filter: the runs as one list (unfiltered, they hide below their launch until it is unfolded), without the checks
of other learning rates, which no comparison counts."""
SCORE, BUDGET, INFERENCE = "final/brierlm", "compute/log10_train_flops", "compute/log10_infer_flops_per_token"
COLUMNS = [
    *["params.`Family`", "params.`Width`", "params.`FLOPs log10`"],
    *["metrics.`final/brierlm`", "metrics.`final/brierlm_se`", "metrics.`final/cross_entropy`"],
    *["metrics.`compute/train_flops`", "metrics.`compute/infer_flops_per_token`", "tags.`calm.status`"],
]


@dataclass(frozen=True)
class View:
    """A saved view."""

    key: str
    """Of its address: ``viewStateShareKey=KEY``."""
    name: str
    state: dict[str, Any]

    @property
    def tag(self) -> str:
        return TAG + self.key

    def value(self, created: int) -> str:
        """What the tag holds; ``created`` in milliseconds since 1970."""
        packed = base64.b64encode(zlib.compress(json.dumps(self.state, sort_keys=True).encode(), 9)).decode()
        return json.dumps(
            {"name": self.name, "createdAt": created, "updatedAt": created, "state": f"deflate;{packed}"}
        )


def compute_view() -> View:
    """Score against compute: scatter, curves, parallel coordinates and contour of all runs of a study."""
    section = "calm-compute"
    charts = [
        _chart("SCATTER", "frontier", section, xaxis=_axis(BUDGET), yaxis=_axis(SCORE), runsCountToCompare=1000),
        _chart(
            "SCATTER", "inference", section, xaxis=_axis(INFERENCE), yaxis=_axis(SCORE), runsCountToCompare=1000
        ),
        _line("brierlm", section, "eval/brierlm", "BrierLM over log10 training FLOPs"),
        _line(
            "loss",
            section,
            "train/loss",
            "Training loss over log10 training FLOPs (of its own kind for each head)",
        ),
        _chart(
            "PARALLEL",
            "parallel",
            section,
            selectedParams=["Family", "Width", "FLOPs log10"],
            selectedMetrics=[INFERENCE, SCORE],
            showAllRuns=True,
        ),
        _chart(
            "CONTOUR",
            "contour",
            section,
            xaxis=_axis(BUDGET),
            yaxis=_axis("parameters/log10_total"),
            zaxis=_axis(SCORE),
        ),
    ]
    return View(
        key="calm-compute",
        name="BrierLM and compute",
        state={
            "searchFilter": RUNS,
            "orderByKey": f"metrics.`{SCORE}`",
            "orderByAsc": False,
            "selectedColumns": COLUMNS,
            "runsHiddenMode": "SHOW_ALL",
            "hideEmptyCharts": True,
            "compareRunCharts": charts,
            "compareRunSections": [_section(section, "BrierLM and compute")],
            "isAccordionReordered": True,  # sections of MLflow's own making go below, not into their alphabet
            "globalLineChartConfig": {"xAxisKey": "metric", "selectedXAxisMetricKey": BUDGET, "lineSmoothness": 0},
        },
    )


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def _section(uuid: str, name: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }


def _chart(kind: str, name: str, section: str, **more: Any) -> dict[str, Any]:
    common = {"type": kind, "uuid": f"calm-{name}", "metricSectionId": section, "deleted": False}
    return {"runsCountToCompare": 100, "isGenerated": False, **common, **more}


def _line(name: str, section: str, metric: str, title: str) -> dict[str, Any]:
    """A metric over log10 of training FLOPs."""
    return _chart(
        "LINE",
        name,
        section,
        metricKey=metric,
        selectedMetricKeys=[metric],
        displayName=title,
        xAxisKey="metric",
        selectedXAxisMetricKey=BUDGET,
        useGlobalXaxisKey=False,
        useGlobalLineSmoothing=True,
        lineSmoothness=0,
        xAxisScaleType="linear",
        scaleType="linear",
        range={},
        yAxisKey="metric",
        yAxisExpressions=[],
        displayPoints=True,
        ignoreOutliers=False,
    )


VIEWS = (compute_view(),)


def address(experiment_id: str, view: View) -> str:
    """The charts of the view in MLflow's pages, from the ``#`` on."""
    return f"#/experiments/{experiment_id}/runs?compareRunsMode=CHART&viewStateShareKey={view.key}"


def experiment_tags(created: int) -> dict[str, str]:
    """Tags of the experiment of a study; ``created`` in milliseconds since 1970."""
    return {KIND: KIND_TRAINING} | {view.tag: view.value(created) for view in VIEWS}
