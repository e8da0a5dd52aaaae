"""Run folders made by hand: what ``workbench.runner`` leaves behind, without training anything.

The numbers are plausible (losses fall, BrierLM rises with compute, floors lie where bytes of the
plays put them) and depend only on the options, so that two calls make the same folder.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.suites.synthetic_positions import NUM_WINDOWS, write_score_files
from workbench import files, lineage, records, system_usage
from workbench.config import CalmConfig, RunConfig, content_hash
from workbench.config_file import build_config

CREATED = "2026-01-01T12:00:00+00:00"
FINISHED = "2026-01-01T12:02:00+00:00"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>\n'


@dataclass(frozen=True)
class Options:
    """What varies between hand-made runs; every field has a value that gives a healthy CALM run."""

    kind: Literal["calm", "baseline"] = "calm"
    chunk_size: int = 4
    latent_dim: int = 32
    kl_floor: float = 0.5
    width: int = 128
    num_layers: int = 2
    seed: int = 0
    train_flops: float = 1e12
    overrides: dict[str, Any] | None = None
    """Dotted configuration fields, set on top of the above."""
    study: str | None = None
    role: Literal["run", "trial", "baseline", "check"] = "run"
    trial: int | None = None
    name: str | None = None
    status: records.Status = "completed"
    reason: str = ""
    brierlm: float | None = None
    """At the last evaluation; by default it follows from kind, chunk size and budget."""
    num_points: int = 20
    num_evaluations: int = 6
    decayed: bool = True
    """The last evaluation is at the end of a decay to 0; all others are at constant rate."""
    diagnostics: tuple[records.Diagnostic, ...] = ()
    fingerprint: str = "fedcba9876543210"
    data_hash: str = "0123456789abcdef"
    environment: dict[str, Any] | None = None
    """Set on top of the default environment."""
    plots: bool = True
    num_windows: int | None = NUM_WINDOWS
    """Of the scores position by position; None: the run kept none, as older versions did."""
    created: str = CREATED
    finished: str = FINISHED


def make_run_folder(path: Path | str, **options: Any) -> Path:
    """Write a complete run folder at ``path`` (see ``Options``) and return it."""
    o = Options(**options)
    run_dir = Path(path)
    run_dir.mkdir(parents=True, exist_ok=True)
    config = make_config(o)
    rng = random.Random(content_hash([config.hash(), o.seed, o.brierlm]))
    points = _train_points(o, config, rng)
    evaluations = _evaluations(o, rng)
    files.write_atomic(run_dir / records.CONFIG, config.to_yaml())
    files.rewrite_json_lines(run_dir / records.METRICS, [p.model_dump() for p in points])
    files.rewrite_json_lines(run_dir / records.EVALUATIONS, [e.model_dump() for e in evaluations])
    if config.is_calm:
        report = make_autoencoder_report(config, rng)
        files.write_json(run_dir / records.AUTOENCODER, report.model_dump())
    if o.plots:
        files.write_atomic(run_dir / records.PLOTS / "loss.svg", SVG)
    records.write_record(run_dir, _record(run_dir, o, config, points, evaluations))
    if o.num_windows is not None:
        write_score_files(run_dir, num_windows=o.num_windows)
    return run_dir


def write_usage(run_dir: Path, num_samples: int = 3) -> None:
    """The text that the run used and what it took of its machine, which runs of older versions do not say."""
    record = records.read_record(run_dir)
    parts = [
        lineage.Part(context="training", split="train", tokens=4_000_000, bytes=3_999_970, documents=30),
        lineage.Part(context="evaluation", split="validation", tokens=500_000, bytes=499_996, documents=4),
    ]
    use = lineage.DataUse(
        corpus="shakespeare",
        hash=record.data_hash,
        vocabulary=258,
        source=lineage.source_of("shakespeare"),
        parts=parts,
    )
    files.write_json(run_dir / lineage.DATA, use.model_dump())
    for sample in range(num_samples):
        values = {"cpu_utilization_percentage": 50.0 + sample, "disk_available_megabytes": 1e5}
        point = system_usage.SystemPoint(sample=sample, time=1.7e9 + 10 * sample, values=values)
        files.append_json_line(run_dir / system_usage.SYSTEM, point.model_dump())


def make_config(o: Options) -> RunConfig:
    """The resolved configuration of the options."""
    model: dict[str, Any] = {"kind": o.kind, "backbone": {"width": o.width, "num_layers": o.num_layers}}
    if o.kind == "calm":
        model["chunk_size"] = o.chunk_size
    tree = {
        "name": o.name,
        "seed": o.seed,
        "autoencoder": {"latent_dim": o.latent_dim, "kl_floor": o.kl_floor, "width": o.width},
        "model": model,
        "optim": {"decay_fraction": 0.2 if o.decayed else 0.0},
        "train": {"train_flops": o.train_flops, "num_evaluations": o.num_evaluations},
    }
    return build_config(tree, o.overrides).resolved()


def make_brier(brierlm: float, rng: random.Random) -> records.Brier:
    """Per-order values whose geometric mean is ``brierlm`` (0 and less: a spoilt highest order)."""
    ratios = [6.0, 1.6, 0.5, 1 / (6.0 * 1.6 * 0.5)]
    scale = max(brierlm, 0.1)
    brier = [scale * ratio * (1 + 0.02 * rng.random()) for ratio in ratios]
    if brierlm > 0:
        shift = brierlm / math.prod(brier) ** 0.25
        brier = [value * shift for value in brier]
    else:
        brier[-1] = -0.05
    errors = [0.02 * abs(value) + 0.05 for value in brier]
    return records.Brier(
        brier=brier,
        brier_se=errors,
        brierlm=max(brierlm, 0.0),
        brierlm_se=0.04 * scale + 0.05,
        num_positions=2304,
        num_clusters=96,
        score=brierlm if brierlm > 0 else sum(brier) / 40,
    )


def make_autoencoder_report(config: RunConfig, rng: random.Random) -> records.AutoencoderReport:
    """Better with more latent dimensions and smaller chunks; collapses without a KL floor."""
    ae = config.autoencoder
    error = 1e-3 * config.chunk_size / ae.latent_dim * (1 + rng.random())
    collapsed = ae.latent_dim // 4 if ae.kl_floor == 0 else 0
    kl = [0.001] * collapsed + [ae.kl_floor + 2 + rng.random() for _ in range(ae.latent_dim - collapsed)]
    std = [0.99] * collapsed + [0.2 + 0.1 * rng.random() for _ in range(ae.latent_dim - collapsed)]
    noise = [
        records.NoisePoint(noise=round(0.1 * i, 1), accuracy=1 - min(0.9, error * (1 + (1.5 * i) ** 2)))
        for i in range(6)
    ]
    return records.AutoencoderReport(
        hash=content_hash([ae.model_dump(mode="json"), config.chunk_size]),
        chunk_size=config.chunk_size,
        latent_dim=ae.latent_dim,
        kl_floor=ae.kl_floor,
        token_accuracy=1 - error,
        posterior_accuracy=1 - 3 * error,
        noise_accuracy=noise,
        kl_per_dim=kl,
        std_per_dim=std,
        num_collapsed=collapsed,
        train_flops=4e11,
        train_seconds=18.0,
        num_chunks=ae.eval_chunks,
    )


def make_floors() -> dict[str, records.Floor]:
    """n-gram tables' scores on bytes of the plays."""
    return {
        "unigram": records.Floor(brier=[6.6, 0.5, 0.05, 0.006], brierlm=0.18, cross_entropy=3.3),
        "bigram": records.Floor(brier=[17.0, 2.5, 0.3, 0.02], brierlm=0.71, cross_entropy=2.5),
        "trigram": records.Floor(brier=[32.0, 11.0, 3.6, 0.8], brierlm=5.6, cross_entropy=1.95),
    }


def last_brierlm(o: Options) -> float:
    """Grows with the logarithm of the budget; the baseline is better than K = 4, K = 1 worse than both."""
    if o.brierlm is not None:
        return o.brierlm
    quality = 9.0 if o.kind == "baseline" else {1: 2.0, 2: 3.0, 4: 3.4, 8: 1.2}.get(o.chunk_size, 1.0)
    quality *= 1 - 4 / o.latent_dim * (1 if o.kind == "calm" else 0)
    return quality * max(0.1, 1 + 0.25 * math.log10(o.train_flops / 1e12)) * (1 + 0.02 * (o.seed % 5))


def _tokens(o: Options, flops: float) -> int:
    return round(flops / (6e5 * (o.width / 128) ** 2 * (2.5 if o.kind == "baseline" else 4 / o.chunk_size)))


def _train_points(o: Options, config: RunConfig, rng: random.Random) -> list[records.TrainPoint]:
    assert config.optim.lr is not None
    points = []
    for i in range(1, o.num_points + 1):
        done = i / o.num_points
        rate = min(1.0, (1 - done) / 0.2) if o.decayed else 1.0
        points.append(
            records.TrainPoint(
                step=10 * i,
                tokens=_tokens(o, done * o.train_flops),
                train_flops=done * o.train_flops,
                loss=4.0 / (1 + 2 * done) + 0.02 * rng.random(),
                grad_norm=0.5 + 0.1 * rng.random(),
                lr=config.optim.lr * rate,
                tokens_per_second=20_000 + 500 * rng.random(),
                seconds=100 * done,
            )
        )
    return points


def _evaluations(o: Options, rng: random.Random) -> list[records.Evaluation]:
    """At log-spaced points of compute; the first at a twentieth of the budget."""
    rows = []
    for i in range(o.num_evaluations):
        last = i == o.num_evaluations - 1
        done = 0.05 ** (1 - i / max(1, o.num_evaluations - 1))
        brier = make_brier(last_brierlm(o) * (done**0.4 if o.brierlm is None or o.brierlm > 0 else 1), rng)
        calm = o.kind == "calm"
        rows.append(
            records.Evaluation(
                step=max(1, round(10 * o.num_points * done)),
                tokens=_tokens(o, done * o.train_flops),
                train_flops=done * o.train_flops,
                phase="decayed" if last and o.decayed else "constant",
                fingerprint=o.fingerprint,
                brier=brier,
                cross_entropy=None if calm else 3.2 - 0.16 * max(brier.brierlm, 0.0),
                head_loss=5.0 - done if calm else None,
                head_loss_shuffled=5.4 - 0.5 * done if calm else None,
                head_loss_gain_se=0.02 if calm else None,
                seconds=1.5,
            )
        )
    return rows


def _record(
    run_dir: Path,
    o: Options,
    config: RunConfig,
    points: list[records.TrainPoint],
    evaluations: list[records.Evaluation],
) -> records.RunRecord:
    calm = isinstance(config.model, CalmConfig)
    last = points[-1] if points else None
    flops = last.train_flops if last else 0.0
    environment = {
        "python": "3.11.0",
        "platform": "Linux",
        "cpu": "a processor",
        "cores": 2,
        "threads": 1,
        "versions": {"torch": "2.13.0"},
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_diff_hash": "",
    }
    ended = o.status not in ("running", "interrupted")
    return records.RunRecord(
        run_id=run_dir.name,
        name=o.name or _name(o),
        study=o.study,
        role=o.role,
        trial=o.trial,
        seed=o.seed,
        kind=o.kind,
        head=config.model.head.kind if isinstance(config.model, CalmConfig) else None,
        status=o.status,
        reason=o.reason,
        config_hash=config.hash(),
        data_hash=o.data_hash,
        eval_fingerprint=o.fingerprint,
        created=o.created,
        finished=o.finished if ended else None,
        step=last.step if last else 0,
        num_steps=10 * o.num_points,
        tokens=last.tokens if last else 0,
        train_seconds=last.seconds if last else 0.0,
        wall_seconds=120.0,
        tokens_per_second=20_000.0,
        parameters={"backbone": 400_000, "head": 150_000} if calm else {"backbone": 400_000, "embedding": 33_000},
        compute={
            "train_flops": flops,
            "train_flops_published": 0.9 * flops,
            "infer_flops_per_token": 3e5 if calm else 9e5,
            "infer_flops_per_token_published": 2.8e5 if calm else 8.5e5,
            **({"autoencoder_train_flops": 4e11} if calm else {}),
        },
        final=evaluations[-1] if evaluations and ended else None,
        floors=make_floors(),
        diagnostics=list(o.diagnostics),
        environment=environment | (o.environment or {}),
    )


def _name(o: Options) -> str:
    what = f"K={o.chunk_size} L={o.latent_dim}" if o.kind == "calm" else f"baseline D={o.width}"
    return f"{what} seed={o.seed}"
