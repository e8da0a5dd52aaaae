"""A whole launched study of hand-made run folders: trials over K, latent dimension and KL floor, repeats,
baselines, a check, and runs that ended badly; and one of token baselines on several texts. Nothing is trained; two
calls make the same folders."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from tests.suites.run_folders import make_run_folder
from tests.suites.synthetic_positions import write_score_files
from workbench import files, records

HOSTILE = "<script>alert(1)</script> & $x_1$ 100% \\o/"
"""A name that breaks HTML, LaTeX, mathtext and SVG where it is not escaped."""

QUESTION = "Which chunk size, latent dimension and KL floor score highest at equal compute?"
AGAINST = "All settings of K are indistinguishable, or K = 1 is best."

CELLS = [
    (1, 8, 0.5, 0),
    (1, 8, 0.5, 1),
    (1, 16, 0.25, 0),
    (1, 16, 0.5, 0),
    (2, 16, 0.5, 0),
    (2, 16, 0.5, 1),
    (2, 32, 0.25, 0),
    (2, 32, 0.5, 0),
    (4, 32, 0.0, 0),
    (4, 32, 0.5, 0),
    (4, 32, 0.5, 1),
    (4, 64, 0.25, 0),
    (4, 64, 0.5, 0),
]
"""(K, latent dimension, KL floor, seed)."""


def write_study_files(folder: Path, *, complete: int = 14) -> None:
    """study.json and summary.json."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {
        "model.chunk_size": {"choices": [1, 2, 4]},
        "autoencoder.latent_dim": {"choices": [8, 16, 32, 64]},
        "autoencoder.kl_floor": {"choices": [0.0, 0.25, 0.5]},
    }
    study = {"name": folder.name, "study": "joint", "preset": "quick", "question": QUESTION, "against": AGAINST}
    files.write_json(folder / "study.json", {**study, "parameters": parameters, "seeds": 2, "trials": 14})
    importance = dict(zip(parameters, (0.62, 0.27, 0.11), strict=True)) if complete >= 20 else None
    files.write_json(
        folder / "summary.json",
        {"importance": importance, "importance_note": "", "num_trials": complete + 3, "num_complete": complete},
    )


def known(evaluation: records.Evaluation, bits_per_nat: float = 1.44) -> records.Evaluation:
    """The same evaluation with intervals, weak orders and bits per byte as the workbench records them."""
    brier = known_brier(evaluation.brier)
    nats = evaluation.cross_entropy
    bits = None if nats is None else bits_per_nat * nats
    return evaluation.model_copy(
        update={
            "brier": brier,
            "cross_entropy_se": None if nats is None else 0.01,
            "bits_per_byte": bits,
            "byte_perplexity": None if bits is None else 2**bits,
        }
    )


def known_brier(brier: records.Brier) -> records.Brier:
    weak = [n + 1 for n, (b, se) in enumerate(zip(brier.brier, brier.brier_se, strict=True)) if b <= 3 * se]
    return brier.model_copy(
        update={
            "weak_orders": weak,
            "brierlm_low": 0.0 if weak else brier.brierlm - 2 * brier.brierlm_se,
            "brierlm_high": brier.brierlm + (3 if weak else 2) * brier.brierlm_se,
            "bootstrap_se": 1.05 * brier.brierlm_se,
            "num_windows": 96,
        }
    )


def make_bottleneck(brier: records.Brier, chunk_size: int) -> records.Bottleneck:
    """Most is lost in the head's prediction; the highest order with another context lies below 0."""
    orders = range(min(chunk_size, 4))
    return records.Bottleneck(
        num_positions=768,
        num_samples=32,
        brier=[brier.brier[n] for n in orders],
        autoencoder_brier=[99.9 - 0.2 * n for n in orders],
        noisy_brier=[97.0 - 4.0 * n for n in orders],
        head_noise=0.31,
        posterior_noise=0.24,
        mode_accuracy=[min(99.0, 1.4 * brier.brier[n] + 1.0) for n in orders],
        sample_accuracy=[0.9 * brier.brier[n] + 0.5 for n in orders],
        shuffled_brier=[3.0 - 1.1 * n for n in orders],
        effective_rank_posterior=19.4,
        effective_rank_samples=15.2,
        latent_dim=32,
    )


def make_study(home: Path, name: str = "joint-quick", *, complete: int = 14, decayed: bool = True) -> Path:
    """A study of 13 completed trials, a zero score, three that ended badly, 4 baselines and a check."""
    folder = home / name
    write_study_files(folder, complete=complete)
    number = 0

    def add(run_id: str, **options: Any) -> None:
        nonlocal number
        number += 1
        created = f"2026-01-01T12:{number:02d}:00+00:00"
        common: dict[str, Any] = {"study": name, "decayed": decayed, "created": created, "plots": False}
        run_dir = make_run_folder(folder / run_id, **{**common, "num_points": 4, **options})
        record = records.read_record(run_dir)
        link = records.MlflowLink(tracking_uri="sqlite:///x.db", experiment_id="3", run_id=f"{number:032x}")
        record.mlflow = link
        record.tokens_per_second = 9000.0 * (1 + options.get("chunk_size", 2)) + 40 * number
        calm = options.get("kind") != "baseline"
        record.compute["infer_flops_per_token"] = 3e5 * 4 / options.get("chunk_size", 4) if calm else 9e5
        record.train_seconds = 60.0 + 3 * number
        record.overlap = records.Overlap(
            span_bytes=50, token_share=0.004, window_share=0.0, longest="Exeunt\n<b>all</b> but", longest_tokens=63
        )
        evaluations = [known(evaluation) for evaluation in records.read_evaluations(run_dir)]
        if record.status == "failed":  # before its first evaluation
            record.final, evaluations = None, []
        elif record.final is not None:
            record.final = evaluations[-1]
            if calm:
                record.bottleneck = make_bottleneck(record.final.brier, options.get("chunk_size", 4))
        files.rewrite_json_lines(run_dir / records.EVALUATIONS, [e.model_dump() for e in evaluations])
        records.write_record(run_dir, record)

    for i, (k, latent, kl_floor, seed) in enumerate(CELLS):
        title = HOSTILE if i == 0 else None
        setting: dict[str, Any] = {"chunk_size": k, "latent_dim": latent, "kl_floor": kl_floor, "seed": seed}
        add(f"trial-{i:03d}", role="trial", trial=i, name=title, **setting)
    zero = records.Diagnostic(code="brierlm_zero", message="BrierLM is indistinguishable from 0 (0.00 ± 0.05)")
    add("trial-013", role="trial", trial=13, chunk_size=4, latent_dim=8, brierlm=0.0, diagnostics=(zero,))
    pruned = "pruned: below the median at 2.5e11 FLOPs"
    add("trial-014", role="trial", trial=14, chunk_size=1, status="pruned", reason=pruned, num_evaluations=3)
    failed = "ValueError: <b>bad</b>"
    add("trial-015", role="trial", trial=15, status="failed", reason=failed)
    diverged = "loss is not finite at step 40"
    add("trial-016", role="trial", trial=16, chunk_size=2, status="not_finite", reason=diverged, num_evaluations=2)
    for i, layers in enumerate((2, 2, 4)):
        add(f"baseline-{i}", kind="baseline", role="baseline", num_layers=layers, seed=i % 2)
    add("baseline-3", kind="baseline", role="baseline", width=64, seed=0, brierlm=7.4)
    add("check-0", role="check", chunk_size=4, latent_dim=32, overrides={"optim.lr": 2e-3}, name="twice the rate")
    return folder


TEXTS = {
    ("shakespeare", "byte"): (3.3, -5.0, 1.44),
    ("shakespeare", "bpe"): (6.4, -2.1, 0.55),
    ("kjv", "byte"): (3.1, -6.5, 1.44),
    ("kjv", "bpe"): (6.0, -3.0, 0.52),
}
"""(corpus, tokenizer): cross-entropy in nats where BrierLM is 0, slope per nat, bits per byte of one nat."""
SIZES = [(64, 2), (96, 2), (128, 2), (128, 4)]
"""(width, layers)."""


def make_texts_study(
    home: Path, name: str = "correlation-cpu", *, num_evaluations: int = 10, seen: float = 0.004
) -> Path:
    """Token baselines of four sizes on four texts, at constant rate, evaluated often; early BrierLMs are weak.
    ``seen``: share of the last text's tokens that its training text holds."""
    folder = home / name
    folder.mkdir(parents=True, exist_ok=True)
    question = "Does BrierLM say the same as cross-entropy?"
    against = "Pearson weaker than -0.9 within one text, or a Spearman interval that contains -0.9."
    study = {"name": name, "study": "correlation", "preset": "cpu", "question": question, "against": against}
    files.write_json(folder / "study.json", {**study, "parameters": {}, "seeds": 1, "trials": 0})
    number = 0
    for text in TEXTS:
        for size in range(len(SIZES)):
            number += 1
            _text_run(folder, text, size, number, num_evaluations, seen if text == ("kjv", "bpe") else 0.004)
    return folder


def _text_run(
    folder: Path, text: tuple[str, str], size: int, number: int, num_evaluations: int, seen: float
) -> None:
    (corpus, tokenizer), (width, layers) = text, SIZES[size]
    name = f"{corpus}-{tokenizer}-d{width}-l{layers}"
    options: dict[str, Any] = {
        "kind": "baseline",
        "role": "baseline",
        "study": folder.name,
        "name": name,
        "decayed": False,
        "width": width,
        "num_layers": layers,
        "num_points": 4,
        "num_evaluations": num_evaluations,
        "train_flops": 2e12,
        "plots": False,
        "created": f"2026-01-01T12:{number:02d}:00+00:00",
        "fingerprint": f"{corpus[:2]}{tokenizer}".ljust(16, "0"),
        "overrides": {"data.corpus": corpus, "data.tokenizer.kind": tokenizer},
    }
    run_dir = make_run_folder(folder / name, **options)
    rng = random.Random(number)
    offset = rng.gauss(0.0, 0.25)  # what the checkpoints of one run share
    evaluations = [
        known(_on_line(evaluation, text, size, offset, rng), TEXTS[text][2])
        for evaluation in records.read_evaluations(run_dir)
    ]
    record = records.read_record(run_dir)
    record.final = evaluations[-1]
    record.overlap = records.Overlap(
        span_bytes=50, token_share=seen, window_share=seen / 2, longest="And it came to pass", longest_tokens=31
    )
    files.rewrite_json_lines(run_dir / records.EVALUATIONS, [e.model_dump() for e in evaluations])
    records.write_record(run_dir, record)
    write_score_files(run_dir)


def _on_line(
    evaluation: records.Evaluation, text: tuple[str, str], size: int, offset: float, rng: random.Random
) -> records.Evaluation:
    """Larger models end lower; BrierLM lies near its text's line."""
    at_zero, slope, _ = TEXTS[text]
    progress = 1 + math.log(evaluation.train_flops / 2e12) / math.log(20)  # 0 at the first, 1 at the last
    nats = at_zero - (0.05 + (1.2 + 0.12 * size) * progress)
    value = max(0.0, slope * (nats - at_zero) + offset * min(1.0, 2 * progress) + rng.gauss(0.0, 0.08))
    ratios = [4.0, 1.4, 0.6, 1 / (4.0 * 1.4 * 0.6)]
    orders = [value * ratio for ratio in ratios] if value > 0 else [1.0, 0.3, 0.05, -0.01]
    brier = evaluation.brier.model_copy(
        update={
            "brier": orders,
            "brier_se": [0.02 * abs(b) + 0.05 for b in orders],
            "brierlm": value,
            "brierlm_se": 0.03 * value + 0.05,
            "score": max(value, 0.1),
        }
    )
    return evaluation.model_copy(update={"brier": brier, "cross_entropy": nats})
