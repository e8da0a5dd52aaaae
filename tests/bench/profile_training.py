"""Where the time of a training step goes: the token baseline and CALMs of every K and head, at two sizes.

    python tests/bench/profile_training.py [--sizes small,512] [--kinds baseline,1,2,4,8] [--dtype float32]

The workbench's own trainer runs, bytes, its own rules of batch and blocks; calls of its parts are timed. Each kind
has a process of its own, and they take turns. For each size it prints milliseconds of every part (its own: inner
parts taken off) and their share, tokens/s, FLOPs a second as executed (``workbench.flops``), their share of the
rate of a large matrix product measured in the same turns, and peak memory beyond the imports. "beside" is work of
other threads, "rest" the trainer's own bookkeeping and waiting for the batch.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from tests.bench import our_training
from tests.bench.gemm import gemm_form, gemm_rate
from tests.bench.kinds import SIZES, config_of, kinds_of
from tests.bench.printing import (
    DTYPES,
    choice,
    conditions,
    measured,
    megabytes,
    ms,
    parser,
    print_table,
    say,
    write,
)
from tests.bench.spans import REST, Spans
from tests.bench.turns import Form, Measured, Pace, spread
from workbench.config import BYTE_VOCAB, RunConfig
from workbench.flops import tokens_per_step, train_step_flops

PARTS = ("targets", "embedding", "backbone", "head", "loss", "backward", "clip", "optimizer", REST)
"""In the order of a step; those that occur beside them come last."""


def watch_training(spans: Spans, trainer: Any) -> None:
    """Name the parts of a step. What a later design does not have is passed over, and its time goes to what calls
    it."""
    import torch

    from workbench import optim, train

    model = trainer.model
    spans.watch(model, "targets", "targets")
    if hasattr(model, "autoencoder"):
        spans.watch(model.autoencoder, "encode", "targets")
    network = model.network
    spans.watch(network, "embed", "embedding")
    spans.watch(network.backbone, "forward", "backbone")
    if hasattr(network, "head"):
        module = sys.modules[type(network.head).__module__]
        spans.watch(network.head, "loss", "head")
        spans.watch(module, "energy_loss", "loss")
    else:
        spans.watch(network.embedding, "forward", "embedding")
        spans.watch(network.output, "forward", "head")
        spans.watch(torch.nn.functional, "cross_entropy", "loss")
    spans.watch(torch.Tensor, "backward", "backward")
    spans.watch(torch.nn.utils, "clip_grad_norm_", "clip")
    for module in (optim, train):
        for name in [name for name in vars(module) if "clip" in name]:
            spans.watch(module, name, "clip")
    spans.watch(train, "training_blocks", "batch gather")
    for name in ("zero_grad", "step"):
        spans.watch(trainer.optimizer, name, "optimizer")


def profile_work(pace: Pace, *, config: RunConfig, vocab: int) -> None:
    """One repetition is one training step, with its parts."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_training.trainer(config, vocab, Path(folder))
        spans = Spans(pace.now)
        watch_training(spans, trainer)

        def after_step() -> None:
            pace(spans.lap())
            spans.start()

        our_training.train(trainer, after_step)


def profile(size: str, options: Any) -> dict[str, Any]:
    """All kinds of one size; prints the table."""
    kinds = kinds_of(options.kinds)
    configs = [config_of(kind, size, dtype=options.dtype, threads=options.threads) for kind in kinds]
    forms = [
        Form(kind.name, profile_work, {"config": config, "vocab": BYTE_VOCAB}, our_training.IMPORTS)
        for kind, config in zip(kinds, configs, strict=True)
    ]
    *results, gemm = measured([*forms, gemm_form(options.dtype)], options)
    rate = gemm_rate(gemm)
    columns = [_column(config, result, rate) for config, result in zip(configs, results, strict=True)]
    names = dict.fromkeys([*PARTS, *(name for result in results for name in result.part_seconds())])
    labels = [*(f"{name}, ms (%)" for name in names), *list(columns[0])[:-1]]
    parts = [[_part(result, name) for result in results] for name in names]
    numbers = [[column[label] for column in columns] for label in list(columns[0])[:-1]]
    title = f"Training step, {size}, {options.dtype}, {conditions(options)}"
    note = f"Matrix product: {rate / 1e9:.1f} GFLOP/s ({options.dtype}, best of its sizes)."
    rows = [[label, *cells] for label, cells in zip(labels, parts + numbers, strict=True)]
    print_table(title, ["", *(kind.name for kind in kinds)], rows, note=note)
    return {
        "size": size,
        "dtype": options.dtype,
        "gemm_flops_per_second": rate,
        "kinds": [column["json"] for column in columns],
    }


def _part(result: Measured, name: str) -> str:
    seconds = result.part_seconds().get(name)
    return "" if seconds is None else f"{ms(seconds)} ({100 * seconds / result.seconds:.0f})"


def _column(config: RunConfig, result: Measured, rate: float) -> dict[str, Any]:
    """Printed lines by label, and last what the JSON gets."""
    flops, tokens = train_step_flops(config, BYTE_VOCAB), tokens_per_step(config)
    achieved = flops / result.seconds
    found = {
        "tokens_per_step": tokens,
        "flops_per_step": flops,
        "flops_per_second": achieved,
        "share_of_gemm": achieved / rate,
        "tokens_per_second": tokens / result.seconds,
    }
    return {
        "step, ms": ms(result.seconds),
        "turns": spread(result),
        "tokens in a step": f"{tokens:,}",
        "tokens/s": f"{found['tokens_per_second']:,.0f}",
        "GFLOP/s": f"{achieved / 1e9:.1f}",
        "of a matrix product": f"{100 * found['share_of_gemm']:.0f} %",
        "memory, MB": megabytes(result.growth_bytes),
        "json": found | result.as_json(),
    }


def main() -> None:
    made = parser(__doc__, seconds=2.0, turns=5)
    made.add_argument("--sizes", default=",".join(SIZES), help="of %(default)s")
    made.add_argument("--kinds", help="of baseline,1,2,4,8 (all)")
    made.add_argument("--dtype", default="float32", choices=DTYPES, help="%(default)s")
    options = made.parse_args()
    found = []
    for size in choice(options.sizes, SIZES, "--sizes"):
        say(f"training, {size}")
        found.append(profile(size, options))
        write(options.json, options, found)


if __name__ == "__main__":
    main()
