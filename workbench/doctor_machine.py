"""``calm doctor``: versions, cores, memory, torch, git."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from workbench.checks import Check, graded
from workbench.cores import available_cores, available_memory
from workbench.room import bytes_words

PACKAGE = "calm-workbench"
LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
"""Of a checkout; an installed package has none."""
NAMED = 6
"""Packages that are named at most."""
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 2_000_000_000, 500_000_000
SLOWER, FASTER = 0.95, 1.1
"""Times as fast in bfloat16; from the latter on it is chosen (``workbench.machine``)."""


def version_checks() -> Iterator[Check]:
    """Python and the packages against pyproject.toml, and against the lock file where there is one."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        installed = distribution(PACKAGE)
    except PackageNotFoundError:
        found = f"{PACKAGE} is not installed, only on the path"
        yield Check("packages", "workbench", "warning", found, "pip install -e . in its folder")
        return
    python, wanted = platform.python_version(), installed.metadata["Requires-Python"] or ""
    fits = SpecifierSet(wanted).contains(python, prereleases=True)
    advice = "" if fits else f"use Python {wanted} (environment.yml has one that fits)"
    yield Check("packages", "Python", "ok" if fits else "failed", f"{python}, {sys.executable}", advice)
    direct = [Requirement(line) for line in installed.requires or []]
    direct = [each for each in direct if each.marker is None or each.marker.evaluate({"extra": ""})]
    have = {each.name: _version(each.name) for each in direct}
    wrong = [
        f"{each.name} {have[each.name] or 'is missing'}{'' if have[each.name] is None else f' ({each.specifier})'}"
        for each in direct
        if have[each.name] is None or not each.specifier.contains(have[each.name] or "", prereleases=True)
    ]
    if wrong:
        advice = "pip install -r requirements.lock, or pip install -e . (both in the checkout)"
        yield Check("packages", "dependencies", "failed", _listed(wrong), advice)
    else:
        found = f"{len(direct)} as wanted: torch {have.get('torch')}, mlflow {have.get('mlflow')}, optuna "
        yield Check("packages", "dependencies", "ok", f"{found}{have.get('optuna')}")
    yield from _against_lock([each.name for each in direct])


def _against_lock(names: list[str]) -> Iterator[Check]:
    try:
        lines = LOCK.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    pins = dict(line.split("==", 1) for line in map(str.strip, lines) if "==" in line and not line.startswith("#"))
    pins = {_plain(name): pin for name, pin in pins.items()}
    others = [
        f"{name} {have} instead of {pins[_plain(name)]}"
        for name, have in ((name, _version(name)) for name in names)
        if have is not None and _plain(name) in pins and have.partition("+")[0] != pins[_plain(name)]
    ]
    if others:
        advice = "for results that are equal bit for bit: pip install -r requirements.lock"
        yield Check("packages", "lock file", "warning", _listed(others), advice)
    else:
        yield Check("packages", "lock file", "ok", "the versions that the workbench is tested with")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


def machine_checks() -> Iterator[Check]:
    """Cores and threads, memory."""
    cores, there = available_cores(), os.cpu_count() or 1
    limited = f" of {there} (the rest is kept from this process)" if cores < there else ""
    yield Check("machine", "cores", "ok", f"{cores}{limited}")
    yield _threads(cores)
    yield _load(cores)
    free = available_memory()
    outcome = graded(failed=free < TOO_LITTLE_MEMORY, warned=free < LITTLE_MEMORY)
    advice = "end other programs, or take fewer workers (--workers) and smaller batches" if outcome != "ok" else ""
    yield Check("machine", "memory", outcome, f"{bytes_words(free)} available", advice)


def _threads(cores: int) -> Check:
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked is None:
        return Check("machine", "threads", "ok", f"OMP_NUM_THREADS is not set: a run takes all {cores} cores")
    if not asked.isdigit() or int(asked) == 0:
        advice = f"unset it, or set it to a number from 1 to {cores}"
        return Check("machine", "threads", "warning", f"OMP_NUM_THREADS is {asked!r}, no number", advice)
    if int(asked) > cores:
        advice = f"unset it, or set it to at most {cores}: threads that wait for each other are slow"
        return Check("machine", "threads", "warning", f"OMP_NUM_THREADS is {asked} with {cores} cores", advice)
    return Check("machine", "threads", "ok", f"OMP_NUM_THREADS is {asked}")


def _load(cores: int) -> Check:
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):
        return Check("machine", "load", "ok", "this system does not say")
    if load > 1.5 * (os.cpu_count() or cores):
        advice = "runs will be slower than planned, and measured speeds are of a busy machine"
        return Check("machine", "load", "warning", f"{load:.1f} processes want to run (last minute)", advice)
    return Check("machine", "load", "ok", f"{load:.1f} processes want to run (last minute)")


def torch_checks() -> Iterator[Check]:
    """The device that a run would take, bfloat16, determinism."""
    import torch

    yield _device()
    yield _bfloat16("cuda" if torch.cuda.is_available() else "cpu")
    yield _determinism()


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        free, total = torch.cuda.mem_get_info()
        found = f"{', '.join(names)}; {bytes_words(free)} of {bytes_words(total)} free on the first"
        advice = "another program holds its memory" if free < TOO_LITTLE_MEMORY else ""
        return Check(
            "torch", "device", "warning" if advice else "ok", f"torch {torch.__version__}: {found}", advice
        )
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        advice = "install a torch built for this driver's CUDA (https://pytorch.org), or go on with the processor"
        return Check("torch", "device", "warning", f"a GPU that torch {torch.__version__} cannot use", advice)
    return Check(
        "torch", "device", "ok", f"torch {torch.__version__} on the processor, {torch.get_num_threads()} threads"
    )


def _bfloat16(device: str) -> Check:
    import torch

    from workbench.machine import bfloat16_speedup

    if device == "cuda":
        supported = torch.cuda.is_bf16_supported()
        found = "supported; chosen" if supported else "not supported; float32 is chosen"
        return Check("torch", "bfloat16", "ok", found)
    speedup = bfloat16_speedup(128, rows=512, repeats=2)
    chosen = "bfloat16" if speedup >= FASTER else "float32"
    word = "faster" if speedup >= 1 else "slower"
    times = speedup if speedup >= 1 else 1 / max(speedup, 1e-9)
    return Check("torch", "bfloat16", "ok", f"{times:.2g} times {word} at width 128: {chosen} is chosen there")


def _determinism() -> Check:
    """A training step of a small network twice: what resuming exactly rests on."""
    import torch
    from torch import nn

    def gradients() -> list[torch.Tensor]:
        rng = torch.Generator().manual_seed(0)
        weights = [torch.randn(64, 64, generator=rng, requires_grad=True) for _ in range(2)]
        x = torch.randn(512, 64, generator=rng)
        nn.functional.silu(x @ weights[0]).matmul(weights[1]).square().mean().backward()
        return [weight.grad for weight in weights if weight.grad is not None]

    first = gradients()
    if all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, gradients(), strict=True)):
        return Check("torch", "determinism", "ok", "equal steps are equal bit for bit on the processor")
    advice = "a resumed run may differ from an undisturbed one; OMP_NUM_THREADS=1 often mends it"
    return Check("torch", "determinism", "warning", "equal steps differ", advice)


def git_checks() -> Iterator[Check]:
    """Runs record the code's commit."""
    if shutil.which("git") is None:
        advice = "install git, so that runs record the commit and what was not committed"
        yield Check("code", "git", "warning", "not found", advice)
        return
    done = subprocess.run(
        ["git", "--version"], capture_output=True, text=True, errors="replace", timeout=3, check=True
    )
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        yield Check("code", "git", "ok", f"{done.stdout.strip()}; the workbench is installed, not a checkout")
        return
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=3, check=False)
    if commit.returncode:
        found = (commit.stderr.strip().splitlines() or ["git fails"])[0]
        yield Check("code", "git", "warning", found, f"make {root} a repository that git trusts and reads")
        return
    yield Check("code", "git", "ok", f"{done.stdout.strip()}, commit {commit.stdout.strip()}")
