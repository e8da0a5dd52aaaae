"""A whole launched study of hand-made run folders: trials over K, latent dimension and KL floor, repeats,
baselines, a check, and runs that ended badly. Nothing is trained; two calls make the same folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.suites.run_folders import make_run_folder
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
        if record.status == "failed":  # before its first evaluation
            record.final = None
            files.rewrite_json_lines(run_dir / records.EVALUATIONS, [])
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
