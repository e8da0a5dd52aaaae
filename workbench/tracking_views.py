"""Views of a study that stand ready in MLflow's own pages: saved views, as its button "Views" lists them.

MLflow keeps a saved view as a tag of the experiment: its name, and the state of the page as JSON. The format is
MLflow's (3.17) and not documented; a page that does not know it shows its own default, and nothing else is lost.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
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
OBJECTIVE = "final/score"
"""BrierLM where it is above its errors; below, where BrierLM is 0 for one as for all, what a search is led by."""
SHORT = {
    "model.backbone.num_layers": "Layers",
    "autoencoder.latent_dim": "Latent dim",
    "autoencoder.kl_floor": "KL floor",
}
"""Fields that studies often vary, and the names under which they are shown as well: MLflow cuts a name for a
column or an axis after a dozen letters, so that of two of the autoencoder's it shows ``autoencoder.`` twice."""
SHARED = {
    "model.chunk_size": "Family",
    "model.backbone.width": "Width",
    "train.train_flops": "FLOPs log10",
    **SHORT,
}
MOST_AXES = 5
"""Parameters in parallel coordinates that can still be read."""
COLUMNS = [
    *["metrics.`final/brierlm`", "metrics.`final/brierlm_se`", "metrics.`final/score`"],
    *["metrics.`final/cross_entropy`", "metrics.`compute/infer_flops_per_token`", "tags.`calm.status`"],
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
        return json.dumps({"name": self.name, "createdAt": created, "updatedAt": created, "state": self._packed()})

    def _packed(self) -> str:
        packed = base64.b64encode(zlib.compress(json.dumps(self.state, sort_keys=True).encode(), 9)).decode()
        return f"deflate;{packed}"

    def is_in(self, value: str | None) -> bool:
        """Whether a tag holds this view as it was made here: nobody has changed it in MLflow's pages."""
        try:
            return value is not None and bool(json.loads(value)["state"] == self._packed())
        except (ValueError, KeyError, TypeError):
            return False


def shown_params(varied: Sequence[str]) -> list[str]:
    """Parameters of a study's runs that are worth a column and an axis: the family, and what it varies."""
    names = ["Family", *(SHARED.get(name, name) for name in varied)]
    return list(dict.fromkeys(names if varied else [*names, "Width", "FLOPs log10"]))


def compute_view(varied: Sequence[str] = ()) -> View:
    """Score against compute: scatter, curves, parallel coordinates and contour of all runs of a study that varies
    these fields of the configuration (where they are not known: width and budget are shown)."""
    params = shown_params(varied)
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
            selectedParams=params[:MOST_AXES],
            selectedMetrics=[OBJECTIVE] if varied else [INFERENCE, OBJECTIVE],
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
            "selectedColumns": [*(f"params.`{name}`" for name in params), *COLUMNS],
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


def address(experiment_id: str, view: View) -> str:
    """The charts of the view in MLflow's pages, from the ``#`` on."""
    return f"#/experiments/{experiment_id}/runs?compareRunsMode=CHART&viewStateShareKey={view.key}"


def experiment_tags(created: int, varied: Sequence[str] = ()) -> dict[str, str]:
    """Tags of the experiment of a study that varies these fields; ``created`` in milliseconds since 1970."""
    view = compute_view(varied)
    return {KIND: KIND_TRAINING, view.tag: view.value(created)}


def missing_tags(has: Mapping[str, str], created: int, varied: Sequence[str] = ()) -> dict[str, str]:
    """Those that an experiment does not have: made by an older version or by hand, or before it was known what the
    study varies. A view that somebody has changed stays."""
    plain = compute_view()
    wanted = experiment_tags(created, varied)
    stale = bool(varied) and plain.is_in(has.get(plain.tag)) and not compute_view(varied).is_in(has.get(plain.tag))
    return {key: value for key, value in wanted.items() if key not in has or (stale and key == plain.tag)}
