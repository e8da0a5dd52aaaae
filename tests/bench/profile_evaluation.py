"""Where the time of an evaluation goes: the token baseline and CALMs of every K and head.

    python tests/bench/profile_evaluation.py [--sizes small,512] [--kinds baseline,1,2,4,8] [--home BENCH]

The workbench's own ``evaluate`` runs on windows of 256 bytes, S = 16, every 8 bytes; calls of its parts are timed.
Each kind has a process of its own, and they take turns. For each size it prints milliseconds a window of every
part (its own: inner parts taken off) and their share, windows and tokens/s, and peak memory beyond the imports.
Models are untrained, unless ``--home`` is where ``brier_time.py`` has trained (or is to train) small ones: with
those, samples agree as often as they do in a run, which decides how much is continued for K < 4.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from tests.bench.evaluation_work import IMPORTS, evaluation_work
from tests.bench.kinds import SIZES, Kind, config_of, kinds_of
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
from tests.bench.spans import REST
from tests.bench.turns import Form, Measured, spread
from workbench.config import BYTE_VOCAB

PARTS = ("read", "head", "decode", "branches", "pairs", "cross-entropy", "use of context", "summary", REST)
WINDOWS = 16
"""Of one repetition: a batch of 4,096 tokens."""
EVALUATION = {"num_windows": WINDOWS, "context_len": 256, "num_samples": 16}


def forms(kinds: list[Kind], size: str, options: Any) -> list[Form]:
    made = []
    for kind in kinds:
        config = config_of(kind, size, dtype=options.dtype, threads=options.threads, evaluation=dict(EVALUATION))
        arguments = {"config": config, "vocab": BYTE_VOCAB, "profiled": True}
        if options.home is not None:
            arguments |= {"home": options.home, "run_dir": _trained(kind, options.home)}
        made.append(Form(kind.name, evaluation_work, arguments, IMPORTS))
    return made


def _trained(kind: Kind, home: str) -> Path:
    """Folder of the run, trained unless it is there."""
    from tests.bench.brier_time import trained
    from workbench.home import open_home

    found = open_home(home)
    name = str(kind.chunk_size or "baseline")
    trained(name, found)
    return found.single_runs() / f"bench-{name}"


def profile(size: str, options: Any) -> dict[str, Any]:
    """All kinds of one size; prints the table."""
    kinds = kinds_of(options.kinds)
    results = measured(forms(kinds, size, options), options)
    present = {name for result in results for name in result.part_seconds()}
    rows = [[f"{name}, ms (%)", *(_part(r, name) for r in results)] for name in PARTS if name in present]
    tokens = WINDOWS * int(EVALUATION["context_len"])
    rows += [
        ["a window, ms", *(ms(r.seconds / WINDOWS) for r in results)],
        ["turns", *(spread(r) for r in results)],
        ["windows/s", *(f"{WINDOWS / r.seconds:,.1f}" for r in results)],
        ["tokens/s", *(f"{tokens / r.seconds:,.0f}" for r in results)],
        ["memory, MB", *(megabytes(r.growth_bytes) for r in results)],
    ]
    state = "untrained" if options.home is None else "trained"
    title = f"Evaluation a window, {size}, {options.dtype}, {conditions(options)}, {state} models"
    print_table(title, ["", *(kind.name for kind in kinds)], rows)
    return {
        "size": size,
        "windows": WINDOWS,
        "tokens": tokens,
        "trained": options.home is not None,
        "kinds": [result.as_json() for result in results],
    }


def _part(result: Measured, name: str) -> str:
    seconds = result.part_seconds().get(name)
    return "" if seconds is None else f"{ms(seconds / WINDOWS)} ({100 * seconds / result.seconds:.0f})"


def main() -> None:
    made = parser(__doc__, seconds=2.0, turns=5)
    made.add_argument("--sizes", default=SIZES[0], help=f"of {','.join(SIZES)} (%(default)s)")
    made.add_argument("--kinds", help="of baseline,1,2,4,8 (all)")
    made.add_argument("--dtype", default="float32", choices=DTYPES, help="%(default)s")
    made.add_argument("--home", help="folder of trained models, as brier_time.py's")
    options = made.parse_args()
    if options.home is not None and options.sizes != SIZES[0]:
        made.error("--home holds small models only; leave --sizes out")
    found = []
    for size in choice(options.sizes, SIZES, "--sizes"):
        say(f"evaluation, {size}")
        found.append(profile(size, options))
        write(options.json, options, found)


if __name__ == "__main__":
    main()
