"""Thousands of generated bad inputs through the command line: no traceback, nothing written outside, no foreign
element on a page.

    python -m tests.chaos.bad_inputs --inputs 2000 --seed 0

One input is one thing that is wrong: a configuration file, an assignment, a corpus, a table, a name, a damaged
file of a run. Prints how many there were of each kind, how many commands met them, and every failure.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from tests.suites import bad_kinds
from tests.suites.bad_bench import Bench
from tests.suites.watched_place import Place

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 12 * 2**30
"""Bytes of address space: an input that wants more is a failure, not the end of the machine."""


@dataclass(frozen=True)
class Kind:
    """``use`` gives an input to the command line. ``share``: of the inputs, relative to the others'. ``size``:
    inputs in one example."""

    name: str
    share: float
    inputs: st.SearchStrategy[Any]
    use: Callable[[Bench, Any], list[str]]
    size: int = 1
    always: tuple[Any, ...] = ()
    """Given first."""


@dataclass
class Count:
    inputs: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)


KINDS = tuple(Kind(*row) for row in bad_kinds.KINDS)


def main(num: int = 2000, seed: int = 0, kinds: list[str] | None = None, show: bool = False) -> Count:
    """Prints the counts; what was found is returned."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    chosen = [kind for kind in KINDS if not kinds or kind.name in kinds]
    total = sum(kind.share for kind in chosen)
    count = Count()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Place(Path(folder)))
        bench.show = show
        for kind in chosen:
            began = time.monotonic()
            examples = max(1, round(num * kind.share / total / kind.size))
            _run(kind, examples, seed, bench, count)
            count.seconds[kind.name] = round(time.monotonic() - began)
            print(f"{kind.name}: {count.inputs[kind.name]} inputs, {count.seconds[kind.name]} s", flush=True)
        count.commands, count.answers = bench.commands, bench.answers
        if not kinds:
            _real_processes(bench, count)
    print(f"{sum(count.inputs.values())} inputs, {count.commands} commands; exit codes {dict(count.answers)}")
    print(f"{len(count.failures)} failures (tracebacks, hangs, foreign elements)")
    print(f"{len(count.outside)} files outside the allowed folders {count.outside}")
    return count


def _run(kind: Kind, examples: int, seed: int, bench: Bench, count: Count) -> None:
    seen: set[str] = set()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=4 * examples,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(kind.inputs)
    def one(given: Any) -> None:
        key = repr(given)
        if key in seen or len(seen) >= examples:
            return
        seen.add(key)
        count.inputs[kind.name] += kind.size
        problems = kind.use(bench, given)
        strays = bench.place.strays()
        count.outside += strays
        for problem in problems:
            text = f"{kind.name}: {_short(given)}\n{problem}"
            count.failures.append(text)
            print(f"FAILURE {text}\n", flush=True)
        if strays:
            print(f"OUTSIDE {kind.name}: {_short(given)}: {strays}", flush=True)

    for given in kind.always[:examples]:
        one.hypothesis.inner_test(given)
    if len(seen) < examples:
        one()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 1500 else f"{text[:1500]} ... ({len(text)} characters)"


def _real_processes(bench: Bench, count: Count) -> None:
    """Some of them as a user gives them: arguments of a process of its own, bytes and all."""
    for arguments in bad_kinds.process_arguments(bench):
        done = subprocess.run(
            [sys.executable, "-m", "workbench.cli", *arguments],
            cwd=bench.place.here,
            env={**os.environ, "CALM_HOME": str(bench.place.home), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=120,
        )
        count.inputs["process"] += 1
        count.answers[done.returncode] += 1
        count.commands += 1
        if done.returncode not in (0, 1, 2) or b"Traceback" in done.stderr + done.stdout:
            text = f"process: {arguments}\n{done.stderr.decode(errors='replace')}"
            count.failures.append(text)
            print(f"FAILURE {text}\n", flush=True)
    count.outside += bench.place.strays()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", help="Only this one; may be repeated.")
    parser.add_argument("--show", action="store_true", help="Every command and its answer.")
    given = parser.parse_args()
    found = main(given.inputs, given.seed, given.kind, given.show)
    sys.exit(bool(found.failures or found.outside))
