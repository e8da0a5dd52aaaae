"""Training speed and memory: ours against a plain form of CALM training (``plain_training.py``).

    python tests/bench/training_speed.py [--cases a,b] [--dtypes float32,bfloat16] [--threads N] [--json FILE]

V = 1024, K = 4, D = 256, 4 layers, SwiGLU 704, 2 head blocks, latent 64, N = 8, M = 100, autoencoder width 256.
Both forms take turns, each in a process of its own. Tokens/s: the median over turns of B * T / median seconds of a
step. Ratio: plain's seconds over ours, turn by turn: median and range; also of processor seconds, which other work
on the machine hardly touches. Memory: peak resident memory beyond what the
imports take, which is printed too. Beside it what was stated for the released code, measured elsewhere.

Letters: B sequences, T tokens.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from tests.bench import our_training
from tests.bench.printing import DTYPES, choice, conditions, measured, megabytes, parser, print_table, say, write
from tests.bench.turns import Form, Measured, Pace, processor_ratio, ratio, spread
from workbench.config import RunConfig

VOCAB = 1024
CASES = {"a": (16, 256), "b": (4, 2048)}
"""B, T."""
STATED: dict[tuple[str, str], tuple[int | None, float]] = {
    ("a", "float32"): (3100, 1.7),
    ("a", "bfloat16"): (4200, 1.7),
    ("b", "bfloat16"): (5100, 2.9),
}
"""Tokens/s and peak memory in GB stated for the released code, measured on another machine."""


def config_of(case: str, dtype: str, threads: int) -> RunConfig:
    sequences, block_len = CASES[case]
    return our_training.training_config(
        vocab=VOCAB,
        sequences=sequences,
        block_len=block_len,
        dtype=dtype,
        threads=threads,
        backbone={"width": 256, "num_layers": 4, "num_heads": 4, "mlp_width": 704},
        head={"num_blocks": 2, "num_samples": 8, "num_targets": 100, "distance": "power"},
        autoencoder={"latent_dim": 64, "width": 256},
        optim={"kind": "adamw"},
    )


def plain_work(pace: Pace, *, config: RunConfig, vocab: int) -> None:
    from tests.bench import plain_training  # transformers is only in the plain form's memory

    plain_training.training_work(pace, config=config, vocab=vocab)


def forms(config: RunConfig) -> list[Form]:
    arguments = {"config": config, "vocab": VOCAB}
    return [
        Form("ours", our_training.training_work, arguments, our_training.IMPORTS),
        Form("plain", plain_work, arguments, (*our_training.IMPORTS, "tests.bench.plain_training")),
    ]


def summarise(case: str, dtype: str, ours: Measured, plain: Measured) -> dict[str, Any]:
    """Everything that is printed, as JSON has it."""
    sequences, block_len = CASES[case]
    tokens = sequences * block_len
    return {
        "case": case,
        "dtype": dtype,
        "sequences": sequences,
        "block_len": block_len,
        "tokens_per_second": {form.name: tokens / form.seconds for form in (ours, plain)},
        "best_tokens_per_second": {form.name: tokens / min(form.by_turn) for form in (ours, plain)},
        "speed_ratio": asdict(ratio(plain, ours)),
        "processor_ratio": asdict(processor_ratio(plain, ours)),
        "memory_ratio": ours.growth_bytes / plain.growth_bytes,
        "stated_elsewhere": STATED.get((case, dtype)),
        "forms": [ours.as_json(), plain.as_json()],
    }


def rows_of(summary: dict[str, Any], ours: Measured, plain: Measured) -> list[list[str]]:
    rows = []
    for form in (ours, plain):
        mine = form is ours
        rows.append(
            [
                form.name,
                f"{summary['tokens_per_second'][form.name]:,.0f}",
                f"{summary['best_tokens_per_second'][form.name]:,.0f}",
                spread(form),
                str(ratio(plain, ours)) if mine else "",
                str(processor_ratio(plain, ours)) if mine else "",
                megabytes(form.growth_bytes),
                megabytes(form.imports_bytes),
                f"{summary['memory_ratio']:.2f}" if mine else "",
            ]
        )
    if summary["stated_elsewhere"]:
        speed, memory = summary["stated_elsewhere"]
        rows.append(["stated, elsewhere", f"{speed:,}", *[""] * 4, f"{1000 * memory:,.0f} in all", "", ""])
    return rows


def main() -> None:
    made = parser(__doc__, seconds=5.0, turns=7)
    made.add_argument("--cases", default=",".join(CASES), help="of %(default)s")
    made.add_argument("--dtypes", default=",".join(DTYPES), help="of %(default)s")
    options = made.parse_args()
    summaries = []
    speed = ["tokens/s", "best", "turns", "times faster", "by processor s"]
    heads = ["", *speed, "memory, MB", "imports, MB", "of plain's memory"]
    for case in choice(options.cases, tuple(CASES), "--cases"):
        for dtype in choice(options.dtypes, DTYPES, "--dtypes"):
            say(f"({case}), {dtype}")
            ours, plain = measured(forms(config_of(case, dtype, options.threads)), options)
            summaries.append(summarise(case, dtype, ours, plain))
            rows = rows_of(summaries[-1], ours, plain)
            size = "({}): {} x {:,} tokens, {}".format(case, *CASES[case], dtype)
            print_table(f"Training step {size}, {conditions(options)}", heads, rows)
            write(options.json, options, summaries)


if __name__ == "__main__":
    main()
