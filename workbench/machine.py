"""What the machine has: device, threads, whether bfloat16 pays; and the environment to record."""

from __future__ import annotations

import os
import platform
import socket
import sys
import threading
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from workbench import code_state, files, own_heads, processes
from workbench.config import CalmConfig, RunConfig, content_hash
from workbench.cores import asked_threads, available_cores
from workbench.errors import ConfigError

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "optuna",
    "mlflow",
    "datasets",
    "tokenizers",
    "safetensors",
    "pandas",
    "matplotlib",
)
WORTH_IT = 1.1
"""bfloat16 is chosen where the probe runs at least this much faster with it."""
_probing = threading.Lock()
"""One probe at a time in a process: two would slow each other down, and be remembered."""
PROBED_WIDTH = 512
"""Of the probe at most, and then with fewer rows: that of wider layers takes minutes on a slow machine."""


def resolve(config: RunConfig, cache_dir: Path) -> RunConfig:
    """Fill in device, number type and threads, and set the process's threads.

    Raises ConfigError for a device that this machine does not have."""
    device = config.runtime.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    threads = config.runtime.threads or default_threads()
    torch.set_num_threads(threads)
    dtype: str = config.runtime.dtype
    if dtype == "auto":
        dtype = preferred_dtype(device, config.model.backbone.width, threads, cache_dir)
    autoencoder_dtype: str = config.runtime.autoencoder_dtype
    if autoencoder_dtype == "auto" and config.is_calm:
        autoencoder_dtype = preferred_dtype(device, config.autoencoder.width, threads, cache_dir)
    elif autoencoder_dtype == "auto":
        autoencoder_dtype = "float32"
    return config.resolved(device=device, dtype=dtype, autoencoder_dtype=autoencoder_dtype, threads=threads)


def check_device(device: str) -> None:
    """Raises ConfigError for one that this machine does not have."""
    if device == "auto":
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"runtime.device: {device!r} cannot be used here ({reason}); leave it at auto, or give cpu or cuda:0"
        ) from None


def default_threads() -> int:
    """OMP_NUM_THREADS where it is set, otherwise all cores this process may use."""
    return asked_threads() or available_cores()


def preferred_dtype(device: str, width: int, threads: int, cache_dir: Path) -> Literal["float32", "bfloat16"]:
    """By a short probe, remembered for this machine so that equal configurations resolve equally."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device != "cpu":
        return "float32"
    width = min(width, PROBED_WIDTH)
    key = content_hash([cpu_name(), torch.__version__, width, threads])
    path = cache_dir / "probes" / f"bfloat16-{key}.json"
    with files.locked(path.with_suffix(".lock")), _probing:
        speedup = _probed(path)
        if speedup is None:
            speedup = bfloat16_speedup(width) if width <= 256 else bfloat16_speedup(width, rows=512)
            files.write_json(path, {"width": width, "threads": threads, "speedup": speedup})
    return "bfloat16" if speedup >= WORTH_IT else "float32"


def _probed(path: Path) -> float | None:
    """What a probe's file remembers; None where there is none or it is damaged."""
    try:
        return float(files.read_json(path)["speedup"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def bfloat16_speedup(width: int, *, rows: int = 2048, repeats: int = 5) -> float:
    """Seconds of a forward and backward pass of an MLP in float32 over seconds in bfloat16 autocast; the
    best of several turns each, interleaved."""
    mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    best = {False: float("inf"), True: float("inf")}
    for turn in range(repeats + 1):
        for low in (False, True):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = mlp(x).float().square().mean()
            loss.backward()
            if turn:  # the first turn warms up
                best[low] = min(best[low], time.perf_counter() - start)
    return best[False] / best[True]


@lru_cache
def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                flags = "amx" if "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8") else ""
                return f"{line.split(':', 1)[1].strip()} {flags}".strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(config: RunConfig, num_ranks: int = 1) -> dict[str, Any]:
    """Versions, processor and code state of this process, with that of a head from outside."""
    own = own_heads.recorded(config.model.head.kind if isinstance(config.model, CalmConfig) else None)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": config.runtime.threads,
        "device": config.runtime.device,
        "dtype": config.runtime.dtype,
        "ranks": num_ranks,
        "versions": {name: _version(name) for name in PACKAGES},
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "process": processes.this_process(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        **code_state.present().to_dict(),
        **({"own_head": own} if own else {}),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
