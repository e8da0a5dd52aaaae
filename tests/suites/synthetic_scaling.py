"""Tables of evaluations made by a known law in size, data and K. Nothing is trained; the same arguments make the
same table. The costs are those of no real model: they only have to be other than 6 N."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.rows import EVALUATION_COLUMNS, typed
from tests.suites.run_folders import Options, make_config, make_run_folder
from workbench import files, flops, records

Array = npt.NDArray[np.float64]
SIZES = (5e4, 1.3e5, 3.5e5)
BUDGETS = (3e11, 1e12, 3e12, 9e12)
CHUNKS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Truth:
    """log(100 / BrierLM) = sum of exponentials of lines in ln K, ln N and ln D; 3 terms. Larger models want
    a larger K: best is 2 up to 1e13 FLOPs, 4 from 1e14 on, 8 at 1e18."""

    floor: tuple[float, float] = (math.log(0.9), -0.1)
    """ln E: constant, slope in ln K."""
    size: tuple[float, float, float, float] = (math.log(40.0), 0.25, 0.10, 0.33)
    """ln A: constant, slope and curvature in ln K; exponent a."""
    data: tuple[float, float, float] = (math.log(100.0), 0.0, 0.30)
    """ln B: constant, slope in ln K; exponent b."""
    baseline: tuple[float, float, float] = (math.log(0.7), math.log(25.0), math.log(90.0))
    """The same constants of the token baseline, whose exponents are the same."""

    def deficit(self, n: Array | float, d: Array | float, k: float) -> Array:
        """k = 0: the token baseline."""
        n, d = np.asarray(n, dtype=float), np.asarray(d, dtype=float)
        (_, _, _, a), (_, _, b) = self.size, self.data
        if k == 0:
            e, s, t = self.baseline
        else:
            x = math.log(k)
            e = self.floor[0] + self.floor[1] * x
            s = self.size[0] + self.size[1] * x + self.size[2] * x * x
            t = self.data[0] + self.data[1] * x
        return np.asarray(math.exp(e) + math.exp(s) * n**-a + math.exp(t) * d**-b)

    def score(self, n: Array | float, d: Array | float, k: float) -> Array:
        """BrierLM."""
        return np.asarray(100 * np.exp(-self.deficit(n, d, k)))

    def best(self, flops: float, chunks: Sequence[int] = CHUNKS) -> tuple[int, float, float, dict[int, float]]:
        """Best K at a budget, its size and score, and the best score of each K."""
        n = np.geomspace(1e3, 1e14, 4000)
        scores, sizes = {}, {}
        for k in chunks:
            found = self.score(n, flops / cost_per_token(n, k), k)
            scores[k], sizes[k] = float(found.max()), float(n[int(found.argmax())])
        k = max(chunks, key=lambda value: scores[value])
        return k, sizes[k], scores[k], scores


def cost_per_token(n: Array | float, k: float) -> Array:
    """Executed FLOPs: CALM's head costs more than its parameters, a chunk's work is shared, some is constant."""
    n = np.asarray(n, dtype=float)
    if k == 0:
        return np.asarray(6.0 * n + 200 * np.sqrt(n))
    return np.asarray((12.0 * n + 400 * np.sqrt(n)) / k + 2e4)


@dataclass(frozen=True)
class Plan:
    """Which runs there are."""

    sizes: Sequence[float] = SIZES
    budgets: Sequence[float] = BUDGETS
    chunks: Sequence[int] = CHUNKS
    baseline: bool = True
    noise: float = 0.03
    """Standard deviation of ln BrierLM between runs."""
    seeds: int = 1
    phase: str = "decayed"
    spoil: dict[int, float] = field(default_factory=dict)
    """Factor on the score of some runs, by number: outliers."""


def evaluations(truth: Truth, plan: Plan | None = None, *, seed: int = 0) -> pd.DataFrame:
    """One row a run, as ``analysis.table.load_runs`` makes them."""
    plan = plan or Plan()
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for k in [*plan.chunks, *([0] if plan.baseline else [])]:
        for n in plan.sizes:
            for budget in plan.budgets:
                for run_seed in range(plan.seeds):
                    score = float(truth.score(n, budget / cost_per_token(n, k), k))
                    score *= math.exp(plan.noise * rng.standard_normal()) * plan.spoil.get(len(rows), 1.0)
                    rows.append(_row(len(rows), k, n, budget, run_seed, score, plan.phase))
    return typed(pd.DataFrame(rows, columns=EVALUATION_COLUMNS))


def _row(number: int, k: int, n: float, budget: float, seed: int, score: float, phase: str) -> dict[str, object]:
    tokens = budget / float(cost_per_token(n, k))
    return {
        "run_id": f"r{number:04d}",
        "study": "scaling-made",
        "role": "trial" if k else "baseline",
        "kind": "calm" if k else "baseline",
        "K": k or None,
        "head": "energy" if k else None,
        "seed": seed,
        "status": "completed",
        "step": 1000,
        "tokens": tokens,
        "train_flops": budget,
        "train_flops_with_autoencoder": budget + (4e10 if k else 0.0),
        "infer_flops_per_token": float(cost_per_token(n, k)) / 3,
        "num_parameters": n + 2e4,
        "model_parameters": n,
        "width": round(math.sqrt(n / 24) / 2) * 2,
        "num_layers": 2,
        "latent_dim": 16 * k if k else None,
        "phase": phase,
        "fingerprint": "made",
        "brierlm": score,
        "brierlm_se": 0.02 * score,
        "weak_orders": "",
    }


STUDY_TRUTH = Truth(data=(math.log(45.0), 0.0, 0.30))
"""Of ``make_scaling_study``: real models of these sizes cost more a token than those of ``cost_per_token``."""


def make_scaling_study(
    home: Path,
    name: str = "scaling-made",
    *,
    widths: Sequence[int] = (48, 80, 128),
    budgets: Sequence[float] = (9e11, 2.7e12, 8.1e12),
    chunks: Sequence[int] = (1, 2, 4),
    baseline: bool = True,
    noise: float = 0.02,
    brierlm: float | None = None,
) -> Path:
    """A launched study of run folders with the sizes and executed costs of real configurations, whose scores
    follow ``STUDY_TRUTH`` (or are all ``brierlm``)."""
    folder = home / name
    folder.mkdir(parents=True)
    study = {"name": name, "study": "scaling", "preset": "made", "question": "Which K?", "against": "No K."}
    files.write_json(folder / "study.json", {**study, "parameters": {}, "seeds": 1, "trials": 0})
    rng = np.random.default_rng(0)
    cells = [(k, w, c) for k in [*chunks, *([0] if baseline else [])] for w in widths for c in budgets]
    for number, (k, width, budget) in enumerate(cells):
        _scaling_run(folder, number, k, width, budget, math.exp(noise * rng.standard_normal()), brierlm)
    return folder


def _scaling_run(
    folder: Path, number: int, k: int, width: int, budget: float, factor: float, brierlm: float | None
) -> None:
    options: dict[str, Any] = {
        "kind": "calm" if k else "baseline",
        "chunk_size": max(k, 1),
        "latent_dim": 16 * max(k, 1),
        "width": width,
        "train_flops": budget,
        "overrides": {"model.backbone.num_heads": 2},
        "study": folder.name,
        "role": "trial" if k else "baseline",
        "num_points": 2,
        "num_evaluations": 1,
        "num_windows": None,
        "plots": False,
        "created": f"2026-01-01T{number // 60:02d}:{number % 60:02d}:00+00:00",
    }
    config = make_config(Options(**options))
    vocab = flops.vocab_size(config)
    parts = flops.parameters(config, vocab)
    num = sum(n for part, n in parts.items() if part not in ("total", "autoencoder", "embedding"))
    tokens = budget / (flops.train_step_flops(config, vocab) / flops.tokens_per_step(config))
    score = float(STUDY_TRUTH.score(num, tokens, k)) * factor if brierlm is None else brierlm
    run_dir = make_run_folder(folder / f"run-{number:03d}", **options, brierlm=score)
    record = records.read_record(run_dir)
    assert record.final is not None
    weak = [4] if score == 0 else []
    brier = record.final.brier.model_copy(update={"brierlm_se": 0.02 * score, "weak_orders": weak})
    last = record.final.model_copy(update={"tokens": round(tokens), "train_flops": budget, "brier": brier})
    record.parameters, record.final = parts, last
    record.compute["infer_flops_per_token"] = flops.infer_flops_per_token(config, vocab)
    records.write_record(run_dir, record)
    files.rewrite_json_lines(run_dir / records.EVALUATIONS, [last.model_dump()])


LOSS = (1.2, 60.0, 250.0, 0.34, 0.30)
"""E, A, B, a, b of ``losses``."""


def losses(
    law: tuple[float, float, float, float, float] = LOSS,
    *,
    sizes: Sequence[float] = (3e4, 1e5, 3e5, 1e6),
    budgets: Sequence[float] = (1e11, 1e12, 1e13, 1e14),
    noise: float = 0.01,
    seed: int = 0,
) -> pd.DataFrame:
    """Token baselines whose cross-entropy (nats a token) follows loss(N, D) = E + A/N^a + B/D^b."""
    e, big_a, big_b, a, b = law
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for n in sizes:
        for budget in budgets:
            row = _row(len(rows), 0, n, budget, 0, 5.0, "decayed")
            d = budget / float(cost_per_token(n, 0))
            loss = (e + big_a * n**-a + big_b * d**-b) * math.exp(noise * rng.standard_normal())
            rows.append({**row, "cross_entropy": loss, "cross_entropy_se": 0.005 * loss})
    return typed(pd.DataFrame(rows, columns=EVALUATION_COLUMNS))
