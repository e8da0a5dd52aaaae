"""Figures of one run, from its folder: what one looks at in MLflow's artifact pane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import files, records
from workbench.records import AutoencoderReport, CallPoint, Evaluation, Floor, TradeoffPoint, TrainPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"
SMALL: dict[str, Any] = {"fontsize": 7, "color": GREY}


def draw(
    run_dir: Path,
    floors: dict[str, Floor],
    calls: Sequence[CallPoint] = (),
    samplers: Sequence[TradeoffPoint] = (),
) -> None:
    """Write ``plots/training.png``, for a CALM ``plots/autoencoder.png``, and where other numbers of network calls
    or samplers were compared ``plots/sampling.png``; what has no data is left out."""
    points, evaluations = records.read_train_points(run_dir), records.read_evaluations(run_dir)
    if points:
        _save(_training(points, evaluations, floors), run_dir / records.PLOTS / "training.png")
    report = records.read_autoencoder_report(run_dir)
    if report is not None:
        _save(_autoencoder(report), run_dir / records.PLOTS / "autoencoder.png")
    if calls or samplers:
        _save(_sampling(calls, samplers), run_dir / records.PLOTS / "sampling.png")


def _sampling(calls: Sequence[CallPoint], samplers: Sequence[TradeoffPoint]) -> Figure:
    """BrierLM against network calls and against inference FLOPs; accuracy against collision by sampler."""
    figure, (left, middle, right) = _figure(3)
    for axes, cost in ((left, "network_calls"), (middle, "infer_flops_per_token")):
        for solver in dict.fromkeys(point.solver for point in calls):
            own = sorted((p for p in calls if p.solver == solver), key=lambda p: p.network_calls)
            axes.errorbar(
                [getattr(p, cost) for p in own],
                [p.brier.brierlm for p in own],
                [p.brier.brierlm_se for p in own],
                marker="o",
                markersize=4,
                label=solver,
            )
    left.set(xlabel="network calls", ylabel="BrierLM ± s.e.", title="by network calls", xscale="log")
    middle.set(xlabel="inference FLOPs per token", ylabel="BrierLM ± s.e.", title="by cost", xscale="log")
    curves: dict[str, list[TradeoffPoint]] = {}
    for point in samplers:
        name = point.sampler + (f", N = {point.batch_size}" if point.batch_size else "")
        curves.setdefault(f"{name}, {point.num_tokens} tokens", []).append(point)
    for name, curve in curves.items():
        right.plot([p.collision for p in curve], [p.accuracy for p in curve], marker="o", markersize=3, label=name)
    right.set(xlabel="two draws agree (%)", ylabel="draw is right (%)", title="samplers")
    for axes, filled in ((left, calls), (middle, calls), (right, samplers)):
        if filled:
            axes.legend(fontsize=6, frameon=False)
        else:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", **SMALL)
    return figure


def _training(points: list[TrainPoint], evaluations: list[Evaluation], floors: dict[str, Floor]) -> Figure:
    """Loss, BrierLM and Brier-1..4 against executed FLOPs."""
    figure, (left, middle, right) = _figure(3)
    left.plot([p.train_flops for p in points], [p.loss for p in points], color=BLUE, linewidth=1)
    left.set(xlabel="training FLOPs", ylabel="training loss", title="loss")
    cost = [e.train_flops for e in evaluations]
    middle.errorbar(
        cost,
        [e.brier.brierlm for e in evaluations],
        [e.brier.brierlm_se for e in evaluations],
        color=BLUE,
        marker="o",
        markersize=4,
    )
    for name, floor in floors.items():
        middle.axhline(floor.brierlm, color=GREY, linewidth=0.8, linestyle="--")
        middle.text(0.01, floor.brierlm, name, transform=middle.get_yaxis_transform(), va="bottom", **SMALL)
    middle.set(xlabel="training FLOPs", ylabel="BrierLM ± s.e.", title="BrierLM")
    for order in range(4):
        right.plot(
            cost, [e.brier.brier[order] for e in evaluations], marker="o", markersize=4, label=f"n = {order + 1}"
        )
    right.axhline(0, color=GREY, linewidth=0.8)
    right.set(xlabel="training FLOPs", ylabel="Brier-n (%)", title="by order")
    right.set_yscale("symlog", linthresh=0.1)
    right.set_ylim(top=100)
    right.legend(fontsize=7, frameon=False)
    return figure


def _autoencoder(report: AutoencoderReport) -> Figure:
    """Accuracy under noise; KL and sigma of every latent dimension."""
    figure, (left, middle, right) = _figure(3)
    noise = report.noise_accuracy
    left.plot([p.noise for p in noise], [100 * p.accuracy for p in noise], color=BLUE, marker="o", markersize=4)
    left.set(xlabel="noise added to the mean", ylabel="tokens reconstructed (%)", title="held-out accuracy")
    kl, std = sorted(report.kl_per_dim, reverse=True), sorted(report.std_per_dim)
    middle.bar(range(len(kl)), kl, color=BLUE)
    middle.axhline(report.kl_floor, color=ORANGE, linewidth=1, label=f"floor {report.kl_floor:g}")
    middle.legend(fontsize=7, frameon=False)
    middle.set(xlabel="latent dimension, sorted", ylabel="KL (nats)", title=f"{report.num_collapsed} collapsed")
    right.bar(range(len(std)), std, color=BLUE)
    right.set(
        xlabel="latent dimension, sorted", ylabel="σ (root mean square)", title="posterior σ", ylim=(0, 1.05)
    )
    return figure


def _figure(num: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * num, 3.2))  # fixed margins: a layout engine draws everything twice, in every run
    figure.subplots_adjust(left=0.055, right=0.985, bottom=0.17, top=0.89, wspace=0.27)
    axes = [figure.add_subplot(1, num, i + 1) for i in range(num)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    files.write_atomic(path, buffer.getvalue())
