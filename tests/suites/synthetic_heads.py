"""A study of heads made by hand: runs with call curves, samplers compared and sampled texts. Nothing is trained;
two calls make the same folders."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from tests.suites.run_folders import make_brier, make_run_folder
from tests.suites.synthetic_study import known, known_brier
from workbench import files, records

HEADS: dict[str, dict[str, Any]] = {
    "energy-quadric": {"model.head.distance": "quadric"},
    "energy-power": {"model.head.distance": "power"},
    "flow": {"model.head.kind": "flow"},
    "diffusion": {"model.head.kind": "diffusion"},
}
QUALITY = {"energy-quadric": 3.4, "energy-power": 2.9, "flow": 3.3, "diffusion": 2.3}
"""BrierLM with as many network calls as one likes."""
LUCK = (0.0, 0.04, -0.03)
"""Of a seed."""
CALLS = (1, 2, 4, 8, 20, 50, 100)
HOSTILE_TEXT = (
    "\n\n<script>alert('x')</script></pre> &amp; \x00\x1b[31m \u202egnp.exe\u202c \ufffd 👩\u200d🔬 \x85\r\n"
    "\tTHOU art  two  spaces\n" + "long" * 200
)
"""A sampled text that would break a page, a terminal or a table."""


def make_calls(kind: str, quality: float, rng: random.Random) -> list[records.CallPoint]:
    """An energy head's one point; flow needs few calls, diffusion many and has a BrierLM of 0 with one."""

    def point(solver: str, calls: int, brierlm: float) -> records.CallPoint:
        value = max(0.0, brierlm + rng.gauss(0.0, 0.03))
        brier = known_brier(make_brier(value, rng))
        flops = 2e5 + 6e4 * calls
        return records.CallPoint(
            solver=solver, network_calls=calls, infer_flops_per_token=flops, brier=brier, seconds=0.4 + 0.1 * calls
        )

    if kind == "energy":
        return [point("energy", 1, quality)]
    if kind == "diffusion":
        return [
            point(solver, calls, quality * (1 - math.exp(-(calls - 1) / need)))
            for solver, need in (("ddpm", 14.0), ("ddim", 6.0))
            for calls in CALLS
        ]
    lines = [("euler", 1, 0.35), *(("midpoint", n, 1 - 0.55 / n**1.6) for n in CALLS[1:])]
    lines += [("euler", n, 1 - 0.65 / n) for n in CALLS[1:]]
    return [point(solver, calls, quality * share) for solver, calls, share in lines]


TEMPERATURES = (1.0, 0.75, 0.5, 0.4, 0.3)


def make_tradeoff(
    kind: str, num_tokens: int, rng: random.Random, *, sharpness: float = 1.0
) -> list[records.TradeoffPoint]:
    """Exact sampling is right most often at a collision rate, the noise least; the baseline is above both."""

    def point(
        sampler: str, collision: float, gain: float, calls: float = 1.0, **level: Any
    ) -> records.TradeoffPoint:
        spread = 0.35 + 0.1 * rng.random()
        return records.TradeoffPoint(
            sampler=sampler,  # type: ignore[arg-type]
            num_tokens=num_tokens,
            accuracy=max(0.0, gain * 2.2 * collision**0.62 + rng.gauss(0.0, 0.2)),
            accuracy_se=spread,
            collision=collision,
            collision_se=spread + 0.01 * collision,
            calls_per_chunk=calls,
            seconds_per_token=2e-5 * calls * (1 + 0.1 * rng.random()),
            num_positions=1152,
            **level,
        )

    start = 12.0 / num_tokens
    rise = {tau: start * (60 / start) ** (sharpness * (1 - tau) / 0.7) for tau in TEMPERATURES}
    if kind == "baseline":
        return [point("softmax", rise[tau], 1.25, temperature=tau) for tau in TEMPERATURES]
    draws = {1.0: 1.0, 0.75: 6.0, 0.5: 24.0, 0.4: 210.0, 0.3: 870.0}
    spent = {0.4: 0.02, 0.3: 0.22}
    found = [
        point("exact", rise[t], 1.0, draws[t], temperature=t, fallback_share=spent.get(t, 0.0))
        for t in TEMPERATURES
    ]
    for size in (8, 32, 128):
        part = math.log(size) / math.log(400)
        found += [
            point("batch", start + part * (rise[t] - start), 0.97, float(size), temperature=t, batch_size=size)
            for t in TEMPERATURES[1:]
        ]
    scales = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
    return found + [
        point("noise", start + (1 - s) ** 1.5 * 70, 1.0 - 0.35 * (1 - s), noise_scale=s) for s in scales
    ]


def make_heads_study(
    home: Path,
    name: str = "heads-cpu",
    *,
    seeds: int = 3,
    heads: tuple[str, ...] = tuple(HEADS),
    chunk_sizes: tuple[int, ...] = (4,),
    calls: bool = True,
    tradeoff: bool = True,
    samples: bool = True,
) -> Path:
    """Heads at equal compute with their call curves, samplers and texts; baselines of which two differ in the
    optimizer alone; a pruned and a failed trial."""
    folder = home / name
    folder.mkdir(parents=True, exist_ok=True)
    parameters: dict[str, Any] = {"model.head.kind": {"choices": ["energy", "flow", "diffusion"]}}
    parameters["model.head.distance"] = {"choices": ["quadric", "power"]}
    if len(chunk_sizes) > 1:
        parameters = {"model.chunk_size": {"choices": list(chunk_sizes)}, **parameters}
    question = "Which head gives the best language model, and at how many network calls?"
    study = {
        "name": name,
        "study": "heads",
        "preset": "cpu",
        "question": question,
        "against": "Energy is not best.",
    }
    files.write_json(folder / "study.json", {**study, "parameters": parameters, "seeds": seeds, "trials": 4})
    number = 0

    def add(run_id: str, **options: Any) -> None:
        nonlocal number
        number += 1
        created = f"2026-01-01T12:{number:02d}:00+00:00"
        common = {"study": name, "created": created, "plots": False, "num_points": 4, "num_evaluations": 3}
        run_dir = make_run_folder(folder / run_id, **{**common, **options})
        _add_sampling(run_dir, number, calls=calls, tradeoff=tradeoff, samples=samples)

    for head in heads:
        for k in chunk_sizes:
            for seed in range(seeds):
                score = QUALITY[head] * (1 + LUCK[seed % 3]) * (1.0 if k == 4 else 0.8)
                run_id = f"s{seed}-k{k}-{head}"
                setting = {"chunk_size": k, "seed": seed, "overrides": HEADS[head], "brierlm": score}
                add(run_id, role="trial", trial=number, name=run_id, **setting)
    add(
        "pruned",
        role="trial",
        status="pruned",
        brierlm=1.0,
        overrides=HEADS["flow"],
        num_evaluations=2,
        reason="pruned: low",
    )
    add(
        "failed",
        role="trial",
        status="failed",
        brierlm=0.5,
        overrides=HEADS["diffusion"],
        reason="ValueError: <b>bad</b>",
    )
    cells: list[dict[str, Any]] = [{"overrides": {"optim.kind": "muon"}}, {}, {"num_layers": 4}]
    for i, cell in enumerate(cells):
        for seed in range(seeds):
            add(
                f"baseline-{i}-s{seed}",
                kind="baseline",
                role="baseline",
                seed=seed,
                brierlm=6.0 - i + LUCK[seed % 3],
                **cell,
            )
    return folder


def _add_sampling(run_dir: Path, number: int, *, calls: bool, tradeoff: bool, samples: bool) -> None:
    record, rng = records.read_record(run_dir), random.Random(number)
    evaluations = records.read_evaluations(run_dir)
    if record.status == "completed" and record.final is not None:
        record.final = known(record.final)
        if calls and record.kind == "calm":
            record.call_curve = make_calls(record.head or "energy", record.final.brier.brierlm, rng)
        if record.call_curve:
            record.compute["infer_flops_per_token"] = record.call_curve[-1].infer_flops_per_token
        k = int(run_dir.name.split("-k")[1][0]) if "-k" in run_dir.name else 4
        if tradeoff and record.kind == "calm":
            record.tradeoff = make_tradeoff("calm", k, rng)
        elif tradeoff:
            record.tradeoff = [p for k in (2, 4) for p in make_tradeoff("baseline", k, rng)]
    records.write_record(run_dir, record)
    if samples and evaluations:
        texts = [
            records.SampleText(
                step=evaluation.step,
                tokens=evaluation.tokens,
                sampler="softmax" if record.kind == "baseline" else "batch, N = 32",
                temperature=0.5,
                prompt="First Citizen:\nBefore we proceed <b>any</b> further,\n",
                text=HOSTILE_TEXT
                if i == len(evaluations) - 1
                else f"  hear me\tspeak & {i}.\n\nAll:\nSpeak, speak.",
            )
            for i, evaluation in enumerate(evaluations)
        ]
        files.rewrite_json_lines(run_dir / records.SAMPLES, [text.model_dump() for text in texts])
