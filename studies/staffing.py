"""How many workers a launch has and how many threads each: asked for, or chosen by a short probe of the machine.

The probe trains the study's first setting for a few seconds in as many processes at the same time as there would
be workers, since contention for caches and memory is what decides. It is remembered in ``HOME/.cache/probes``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studies import space
from studies.objective import DEFAULT_RUNNER
from studies.spec import StudySpec
from workbench import files, flops, processes
from workbench.config import RunConfig, content_hash
from workbench.cores import asked_threads, available_cores, available_memory
from workbench.errors import StudyError
from workbench.home import Home

TIE = 0.05
"""Fewer workers are preferred where they are slower by no more than this share: within the probe's noise, and
they finish single trials sooner."""
MEMORY_FACTOR = 1.5
"""Memory of a worker over that of a probe, which evaluates nothing."""
MEMORY_SHARE = 0.8
"""Of what is available, for all workers."""
PROBE_SECONDS = 2.0
PROBE_TIMEOUT = 120.0
"""Seconds after which a process of the probe is killed."""
MOST_SPLITS = 5
_FORMAT = 1

log = logging.getLogger("studies.staffing")


@dataclass(frozen=True)
class Split:
    """Worker processes and the threads of each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.workers} worker(s) x {self.threads} thread(s)"


@dataclass(frozen=True)
class Measured:
    """What one split reached in the probe."""

    split: Split
    flops_per_second: float
    """Of all workers together."""
    memory: int
    """Bytes of the largest worker."""


@dataclass(frozen=True)
class Staffing:
    """A launch's workers, and why so many."""

    split: Split
    reason: str
    measured: tuple[Measured, ...] = ()
    asked: tuple[str, ...] = ()
    """``workers``, ``threads``: what the user said, in this session or one before."""
    machine: str = ""
    """Where they are; empty where that is elsewhere, or not known yet."""

    def here(self) -> Staffing:
        return replace(self, machine=_machine())

    def words(self) -> str:
        """One line: ``2 worker(s) x 1 thread(s): fastest of 2 splits tried (2x1: 31, 1x2: 22 GFLOP/s)``."""
        rates = ", ".join(
            f"{m.split.workers}x{m.split.threads}: {m.flops_per_second / 1e9:.3g}" for m in self.measured
        )
        return f"{self.split}: {self.reason}" + (f" (GFLOP/s {rates})" if rates else "")

    def to_dict(self) -> dict[str, Any]:
        return {
            "workers": self.split.workers,
            "threads": self.split.threads,
            "reason": self.reason,
            "asked": list(self.asked),
            "machine": self.machine,
            "gflops_per_second": {
                f"{m.split.workers}x{m.split.threads}": round(m.flops_per_second / 1e9, 3) for m in self.measured
            },
        }


def last_session(stored: Mapping[str, Any] | None) -> Staffing | None:
    """How a launch was staffed last, by its study.json; None where that was on another machine, or is not told."""
    try:
        found = (stored or {})["staffing"]
        split = Split(int(found["workers"]), int(found["threads"]))
        here = found["machine"] == _machine() and split.workers >= 1 and split.threads >= 1
        return Staffing(split, _AS_BEFORE, asked=tuple(map(str, found["asked"]))) if here else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


_AS_BEFORE, _BOTH = "as in the last session", ("workers", "threads")


def _machine() -> str:
    own = processes.this_process()
    return f"{own['host']} {own.get('machine', '')}".strip()


def check_numbers(workers: int | None, threads: int | None) -> None:
    """Raises StudyError for a number below 1."""
    for what, value in (("--workers", workers), ("--threads", threads)):
        if value is not None and value < 1:
            raise StudyError(f"{what} must be at least 1 (or left out: chosen by a short probe), {value} given")


def choose_staffing(
    spec: StudySpec,
    home: Home,
    *,
    workers: int | None,
    threads: int | None,
    execute: str = DEFAULT_RUNNER,
    note: Callable[[str], None] = lambda text: None,
    last: Staffing | None = None,
) -> Staffing:
    """What was asked for, now or in the ``last`` session, or what the probe says where nothing was; ``note`` hears
    of a probe that takes a while.

    Raises StudyError for a number below 1."""
    check_numbers(workers, threads)
    cores = available_cores()
    if workers is not None:
        return _with_threads(workers, threads, cores, last)
    if last is not None and "workers" in last.asked:
        why = f"threads as asked for, workers {_AS_BEFORE}"
        return last if threads is None else Staffing(Split(last.split.workers, threads), why, asked=_BOTH)
    if threads is not None:
        return _filling(spec, threads, cores, f"as many as {cores} core(s) hold")
    if last is not None and "threads" in last.asked:
        why = f"threads {_AS_BEFORE}, workers as many as {cores} core(s) hold"
        return _filling(spec, last.split.threads, cores, why)
    # OMP_NUM_THREADS says nothing here: the probe tries workers and threads together
    return _no_more_than_runs(spec, _chosen(spec, home, cores, execute, note))


def _with_threads(workers: int, threads: int | None, cores: int, last: Staffing | None) -> Staffing:
    """So many workers as were asked for. A launch keeps its threads: they are part of a run."""
    if threads is not None:
        return Staffing(Split(workers, threads), "as asked for", asked=_BOTH)
    asked = _BOTH if last is not None and "threads" in last.asked else _BOTH[:1]
    if last is not None and (asked == _BOTH or last.split.workers == workers):
        threads, why = last.split.threads, f"threads {_AS_BEFORE}"
    elif (threads := asked_threads()) is not None:
        why = "threads by OMP_NUM_THREADS"
    else:
        threads, why = max(1, cores // workers), "cores shared out"
    return Staffing(Split(workers, threads), f"workers as asked for, {why}", asked=asked)


def _filling(spec: StudySpec, threads: int, cores: int, why: str) -> Staffing:
    most = Staffing(Split(max(1, cores // threads), threads), why, asked=("threads",))
    return _no_more_than_runs(spec, most)


def planned_staffing(
    spec: StudySpec, home: Home, *, workers: int | None, threads: int | None, last: Staffing | None = None
) -> Staffing:
    """For a dry run: as ``choose_staffing``, but where nothing is remembered, nothing is tried either."""
    if workers is not None or threads is not None or (last is not None and last.asked):
        return choose_staffing(spec, home, workers=workers, threads=threads, last=last)
    guess = Staffing(Split(available_cores(), 1), "assumed; `calm study run` tries what is fastest, once")
    return remembered(spec, home) or _no_more_than_runs(spec, guess)


def device_staffing(spec: StudySpec, count: int) -> Staffing:
    """For a dry run on devices that are not here: a worker a device."""
    return _no_more_than_runs(spec, Staffing(Split(count, 1), "one a device"))


def _chosen(spec: StudySpec, home: Home, cores: int, execute: str, note: Callable[[str], None]) -> Staffing:
    from workbench.speed import too_large

    if cores == 1:
        return Staffing(Split(1, 1), "there is one core")
    if execute != DEFAULT_RUNNER:
        return Staffing(Split(cores, 1), "one a core; a custom runner is not tried")
    config = first_config(spec)
    device = config.runtime.device
    if device.startswith("cuda") or (device == "auto" and _has_gpu()):
        return Staffing(Split(1, cores), "one for the GPU")
    if too_large(config.resolved(), flops.vocab_size(config)):
        return Staffing(Split(1, cores), "the model is too large to try")
    candidates = splits(cores)
    if _known(_path(config, home, candidates), candidates) is None:
        ways = ", ".join(f"{split.workers}x{split.threads}" for split in candidates)
        note(f"trying workers x threads ({ways}) on this machine for a few seconds each; --workers N skips it …")
    return best_split(probe(config, home, candidates), available_memory())


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def first_config(spec: StudySpec) -> RunConfig:
    """Of the setting that the search begins with; without a search, of the first cell."""
    if not spec.searches:
        return space.baseline_config(spec, next(iter(spec.baselines)))
    first = next(iter(space.settings(spec)))
    return space.setting_config(spec, {**first, **(spec.start[0] if spec.start else {})})


def splits(cores: int) -> list[Split]:
    """Ways to divide the cores evenly, most workers first; a handful where there are many."""
    divisors = [n for n in range(cores, 0, -1) if cores % n == 0]
    if len(divisors) > MOST_SPLITS:
        last = len(divisors) - 1
        divisors = [divisors[round(i * last / (MOST_SPLITS - 1))] for i in range(MOST_SPLITS)]
    return [Split(workers, cores // workers) for workers in divisors]


def best_split(measured: Sequence[Measured], memory: int) -> Staffing:
    """The fastest that fits into ``memory`` bytes; fewer workers where that costs no more than ``TIE``."""
    if not measured:
        return Staffing(Split(1, available_cores()), "no split could be tried")
    fits = [m for m in measured if m.split.workers * MEMORY_FACTOR * m.memory <= MEMORY_SHARE * memory]
    left_out = len(measured) - len(fits)
    fits = fits or [min(measured, key=lambda m: m.split.workers)]
    fastest = max(m.flops_per_second for m in fits)
    near = [m for m in fits if m.flops_per_second >= (1 - TIE) * fastest]
    chosen = min(near, key=lambda m: m.split.workers)
    reason = f"fastest of {len(measured)} tried" + (f", {left_out} need too much memory" if left_out else "")
    return Staffing(chosen.split, reason, tuple(measured))


def _no_more_than_runs(spec: StudySpec, staffing: Staffing) -> Staffing:
    """Workers that could never have work are left out; the threads stay, as they are part of a run."""
    runs = spec.trials + len(spec.baselines) + len(spec.check_names)
    if staffing.split.workers <= runs:
        return staffing
    return replace(staffing, split=Split(runs, staffing.split.threads), reason=f"there are {runs} run(s) in all")


def probe(
    config: RunConfig,
    home: Home,
    candidates: Iterable[Split],
    measure: Callable[[RunConfig, Split, Path], Measured | None] | None = None,
) -> list[Measured]:
    """Training speed of each split, as remembered for this machine, this torch and this model, or tried now."""
    candidates = list(candidates)
    path = _path(config, home, candidates)
    with files.locked(path.with_suffix(".lock")):
        known = _known(path, candidates)
        if known is None:
            tried = [(measure or measure_split)(config, split, home.cache) for split in candidates]
            known = [one for one in tried if one is not None]
            if len(known) == len(candidates):  # what failed once is tried again next time
                files.write_json(path, [_row(one) for one in known])
        return known


def remembered(spec: StudySpec, home: Home) -> Staffing | None:
    """What ``choose_staffing`` would choose without trying anything; None where it would have to."""
    candidates = splits(available_cores())
    known = _known(_path(first_config(spec), home, candidates), candidates)
    return None if known is None else _no_more_than_runs(spec, best_split(known, available_memory()))


def _path(config: RunConfig, home: Home, candidates: Sequence[Split]) -> Path:
    return home.cache / "probes" / f"workers-{probe_key(config, candidates)}.json"


def probe_key(config: RunConfig, candidates: Sequence[Split]) -> str:
    """Of everything the speed depends on: processor, torch, cores, model, batch, number type, optimizer."""
    import torch

    from workbench.machine import cpu_name

    config = config.resolved()
    tree = config.to_dict()
    parts = {name: tree[name] for name in ("model", "runtime")} | {"latent_dim": config.autoencoder.latent_dim}
    parts |= {"rows": config.optim.batch_positions, "block_len": config.train.block_len}
    parts["optimizer"] = {name: tree["optim"][name] for name in ("kind", "matrix_every")}
    parts["cache_targets"] = config.train.cache_targets
    parts["vocabulary"] = flops.vocab_size(config)
    ways = [[split.workers, split.threads] for split in candidates]
    return content_hash([_FORMAT, cpu_name(), torch.__version__, ways, parts])


def measure_split(config: RunConfig, split: Split, cache: Path) -> Measured | None:
    """Train in as many processes as the split has workers, at the same time; None where one fails, and the log
    tells why."""
    runtime = config.runtime.model_copy(update={"threads": split.threads})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "config.yaml"
        path.write_text(config.model_copy(update={"runtime": runtime}).to_yaml(), encoding="utf-8")
        command = [sys.executable, "-m", "workbench.speed", str(path), "--cache", str(cache)]
        command += ["--seconds", str(PROBE_SECONDS)]
        logs = [folder / f"{number}.log" for number in range(split.workers)]
        began = time.monotonic()
        processes = [stack.enter_context(_process(command, split.threads, path)) for path in logs]
        try:
            answers = _answers(processes)
        except (ValueError, OSError):
            late = time.monotonic() - began >= PROBE_TIMEOUT
            reason = f"no answer within {PROBE_TIMEOUT:g} seconds" if late else _last_words(logs)
            log.warning("%s could not be tried: %s", split, reason)
            return None
    rate = sum(answer["flops_per_second"] for answer in answers)
    return Measured(split, rate, max(answer["memory"] for answer in answers))


def _answers(processes: Sequence[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Of processes that start to measure together. Raises ValueError or OSError where one ends before its time."""
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise ValueError("not ready")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in processes]


def _last_words(logs: Iterable[Path]) -> str:
    texts = [path.read_text(encoding="utf-8", errors="replace").strip() for path in logs]
    return next((text.splitlines()[-1] for text in texts if text), "a process ended without a word")


def worker_environment(threads: int) -> dict[str, str]:
    """This process's, with a worker's number of threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


@contextlib.contextmanager
def _process(command: list[str], threads: int, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Killed after ``PROBE_TIMEOUT``, so that waiting for its answer ends; ``path`` gets its complaints."""
    with open(path, "wb") as errors:
        process = subprocess.Popen(
            command,
            env=worker_environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    timer = threading.Timer(PROBE_TIMEOUT, process.kill)
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()


def _row(one: Measured) -> dict[str, Any]:
    return {
        "workers": one.split.workers,
        "threads": one.split.threads,
        "flops_per_second": one.flops_per_second,
        "memory": one.memory,
    }


def _known(path: Path, candidates: Sequence[Split]) -> list[Measured] | None:
    """What a probe's file remembers; None where there is none or it is damaged."""
    try:
        found = [_measured(row) for row in files.read_json(path)]
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    sound = all(0 < one.flops_per_second < math.inf and one.memory > 0 for one in found)
    return found if sound and [one.split for one in found] == list(candidates) else None


def _measured(row: Mapping[str, Any]) -> Measured:
    split = Split(int(row["workers"]), int(row["threads"]))
    return Measured(split, float(row["flops_per_second"]), int(row["memory"]))
