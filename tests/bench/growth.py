"""How time and memory of a training step, an evaluation and a generation grow with each size alone.

    python tests/bench/growth.py --figure growth.png [--work training,evaluation,generation] [--sizes T,K,N,M,S,D]

Around a default (bytes, D = 128, 2 layers, K = 4, T = 256; 8 blocks a step, N = 8, M = 100; 16 windows, S = 16;
8 texts of 256 bytes) one size is varied and everything else held, the number of blocks, windows and texts as well.
The values of a size take turns, each in a process of its own. Prints seconds and peak memory beyond the imports,
and the exponents of both: fitted in logarithms over all values, and that of time over the two largest as well,
since a fixed cost hides growth at the small end. Models are untrained (see ``evaluation_work.py``). Runs in
parallel are not measured here.

Letters: T tokens of a block, a window or a text; K chunk size; N, M samples of the loss; S samples of an
evaluation; D width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from tests.bench import evaluation_work, our_training
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
from tests.bench.turns import Form, slope
from workbench.config import BYTE_VOCAB, RunConfig

DEFAULT = {"T": 256, "K": 4, "N": 8, "M": 100, "S": 16, "D": 128}
VALUES: dict[str, tuple[int, ...]] = {
    "T": (128, 256, 512, 1024),
    "K": (1, 2, 4, 8),
    "N": (4, 8, 16, 32),
    "M": (25, 50, 100, 200, 400),
    "S": (4, 8, 16, 32, 64),
    "D": (64, 128, 256, 512),
}
SIZES_OF = {"training": "TKNMD", "evaluation": "TKSD", "generation": "TKD"}
"""Which sizes each kind of work depends on."""
BLOCKS, WINDOWS, TEXTS = 8, 16, 8


def config_of(size: dict[str, int], dtype: str, threads: int) -> RunConfig:
    return our_training.training_config(
        chunk_size=size["K"],
        sequences=BLOCKS,
        block_len=size["T"],
        dtype=dtype,
        threads=threads,
        backbone={"width": size["D"], "num_layers": 2, "num_heads": 4},
        head={"num_blocks": 2, "num_samples": size["N"], "num_targets": size["M"]},
        autoencoder={"latent_dim": 32, "width": 128},
        evaluation={"context_len": size["T"], "num_windows": WINDOWS, "num_samples": size["S"]},
    )


def form_of(work: str, size: dict[str, int], dtype: str, threads: int) -> Form:
    functions: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
        "training": (our_training.training_work, our_training.IMPORTS),
        "evaluation": (evaluation_work.evaluation_work, evaluation_work.IMPORTS),
        "generation": (evaluation_work.generation_work, evaluation_work.IMPORTS),
    }
    function, imports = functions[work]
    arguments: dict[str, Any] = {"config": config_of(size, dtype, threads), "vocab": BYTE_VOCAB}
    if work == "generation":
        arguments |= {"num_tokens": size["T"], "num_texts": TEXTS}
    return Form(work, function, arguments, imports)


def measure(work: str, letter: str, options: Any) -> dict[str, Any]:
    """One size varied for one kind of work."""
    values = VALUES[letter]
    forms = [form_of(work, {**DEFAULT, letter: value}, options.dtype, options.threads) for value in values]
    results = measured(forms, options)
    seconds = [result.seconds for result in results]
    memory = [result.growth_bytes for result in results]
    return {
        "work": work,
        "varied": letter,
        "values": list(values),
        "seconds": seconds,
        "bytes": memory,
        "time_exponent": slope(values, seconds),
        "time_exponent_at_the_end": slope(values[-2:], seconds[-2:]),
        "memory_exponent": slope(values, memory),
        "results": [result.as_json() for result in results],
    }


def row_of(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['work']}, {found['varied']} = {', '.join(map(str, found['values']))}",
        ", ".join(map(ms, found["seconds"])),
        f"{found['time_exponent']:.2f}",
        f"{found['time_exponent_at_the_end']:.2f}",
        ", ".join(map(megabytes, found["bytes"])),
        f"{found['memory_exponent']:.2f}",
    ]


# ---- the figure --------------------------------------------------------------------------------


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """A row of small panels for each kind of work, a panel for each size: milliseconds and megabytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from analysis import style

    works = list(dict.fromkeys(one["work"] for one in found))
    columns = max(sum(one["work"] == work for one in found) for work in works)
    with style.house_style():
        figure = Figure(figsize=(2.5 * columns, 2.4 * len(works)), layout="constrained")
        FigureCanvasAgg(figure)
        for row, work in enumerate(works):
            for column, one in enumerate(one for one in found if one["work"] == work):
                axes = figure.add_subplot(len(works), columns, row * columns + column + 1)
                _panel(axes, one, named=column == 0)
        text = f"Time (dots) and peak memory beyond the imports (squares)\naround {_default_text()}"
        figure.suptitle(text, fontsize=8)
        figure.savefig(path, dpi=style.DPI, metadata={"Software": None})


def _default_text() -> str:
    return ", ".join(f"{letter} = {value}" for letter, value in DEFAULT.items())


def _panel(axes: Any, one: dict[str, Any], *, named: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    from analysis import style

    values = one["values"]
    lines = [
        ("ms", [1e3 * s for s in one["seconds"]], "o", style.INK, one["time_exponent"]),
        ("MB", [b / 1e6 for b in one["bytes"]], "s", style.ACCENT, one["memory_exponent"]),
    ]
    for side, (unit, y, marker, colour, exponent) in enumerate(lines):
        axes.plot(values, y, marker=marker, ms=3.5, lw=1, color=colour)
        axes.text(
            side,
            1.03,
            f"{unit} ~ {one['varied']}^{exponent:.2f}",
            transform=axes.transAxes,
            ha=("left", "right")[side],
            fontsize=7,
            color=colour,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=7)
    axes.set_xlabel(one["varied"], fontsize=8)
    if named:
        axes.set_ylabel(one["work"], fontsize=9)


def main() -> None:
    made = parser(__doc__, seconds=1.0, turns=3)
    made.add_argument("--work", default=",".join(SIZES_OF), help="of %(default)s")
    made.add_argument("--sizes", default=",".join(VALUES), help="of %(default)s")
    made.add_argument("--dtype", default="float32", choices=DTYPES, help="%(default)s")
    made.add_argument("--figure", type=Path, help="also draw it to this PNG")
    options = made.parse_args()
    sizes = choice(options.sizes, tuple(VALUES), "--sizes")
    found = []
    for work in choice(options.work, tuple(SIZES_OF), "--work"):
        for letter in SIZES_OF[work]:
            if letter not in sizes:
                continue
            say(f"{work}, {letter}")
            found.append(measure(work, letter, options))
            write(options.json, options, found)
    heads = ["", "ms", "exponent", "at the end", "memory, MB", "exponent"]
    title = f"Growth around {_default_text()}, {options.dtype}, {conditions(options)}"
    print_table(title, heads, [row_of(one) for one in found])
    if options.figure is not None:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
