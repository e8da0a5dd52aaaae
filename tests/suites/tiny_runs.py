"""Whole runs that take about a second: a small text of one's own, tiny networks, a few steps."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from workbench import records
from workbench.config import RunConfig
from workbench.config_file import build_config
from workbench.home import Home, open_home
from workbench.runner import resolve

TIMES = {"seconds", "tokens_per_second", "train_seconds", "wall_seconds", "created", "finished"}
"""Fields that differ between equal runs."""


def write_text(path: Path, num_words: int = 9000) -> Path:
    """About 45 kB, the same every time."""
    rng = random.Random(0)
    words = ["the", "king", "and", "queen", "of", "night", "rides", "to", "a", "castle", "where", "no", "crown"]
    lines = [" ".join(rng.choices(words, k=8)) for _ in range(num_words // 8)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tree(text: Path) -> dict[str, Any]:
    """A CALM with K = 4, 24 steps, 3 evaluations."""
    return {
        "data": {"corpus": f"text:{text}"},
        "autoencoder": {
            "latent_dim": 6,
            "width": 24,
            "steps": 30,
            "batch_chunks": 32,
            "warmup_steps": 3,
            "lr": 1e-2,
            "eval_chunks": 256,
        },
        "model": {
            "kind": "calm",
            "chunk_size": 4,
            "backbone": {"width": 32, "num_layers": 2, "num_heads": 4},
            "head": {"num_samples": 4, "num_targets": 6, "noise_dim": 8},
        },
        "optim": {"batch_positions": 32, "lr": 2e-3},
        "train": {"train_tokens": 24 * 128, "block_len": 32, "num_evaluations": 3, "first_evaluation": 0.3},
        "eval": {
            "context_len": 32,
            "min_context": 16,
            "grid_stride": 8,
            "num_windows": 16,
            "num_samples": 4,
            "sample_tokens": 8,
        },
        "runtime": {"device": "cpu", "dtype": "float32", "autoencoder_dtype": "float32", "threads": 1},
    }


BASELINE: dict[str, Any] = {"model": {"kind": "baseline", "backbone": {"width": 32, "num_heads": 4}}}


def tiny_config(folder: Path, overrides: dict[str, Any] | None = None, **sections: Any) -> tuple[RunConfig, Home]:
    """A resolved configuration and its home; ``overrides`` are dotted names, ``sections`` replace whole ones."""
    text = folder / "text.txt"
    if not text.exists():
        write_text(text)
    home = open_home(folder / "runs")
    return resolve(build_config({**tree(text), **sections}, overrides), home), home


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def traces(run_dir: Path) -> dict[str, Any]:
    """Everything that must be equal between equal runs: points, evaluations, weights, scores by position."""
    return {
        "metrics": [without_times(p.model_dump()) for p in records.read_train_points(run_dir)],
        "evaluations": [without_times(e.model_dump()) for e in records.read_evaluations(run_dir)],
        "weights": (run_dir / records.CHECKPOINT / "model.safetensors").read_bytes(),
        "positions": (run_dir / "positions.npz").read_bytes(),
    }


def leftovers(run_dir: Path) -> list[str]:
    """Temporary files and folders that something half-written left behind."""
    return sorted(p.name for p in run_dir.rglob(".*") if not p.name.endswith((".lock", ".verified")))
