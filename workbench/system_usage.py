"""What a training takes of its machine: processor, memory, disk, network and graphics cards, while it runs.

Lines of ``system.jsonl`` in the run folder, mirrored like every other metric, under the names that MLflow gives
them (``system/…``). MLflow's own monitor is not used: its thread sends to the server itself, so that what it
measures during an outage is lost, a server that hangs stops it, and a resumed run counts from 0 again. Here the
folder comes first and the numbers go on. Switched as MLflow's is: by ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING``
(``false``: none) and ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`` (seconds). Imports no torch.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from workbench import files, stored
from workbench.errors import ConfigError, OutputError

log = logging.getLogger(__name__)

SYSTEM = "system.jsonl"
SWITCH, INTERVAL = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
EVERY_SECONDS = 10.0
FIRST_SECONDS = 1.0
"""The first sample; the pauses are doubled until they have their length, so that a short run has some, too."""
LEAST_SECONDS = 0.2
"""Between two samples: a share of processor time over less says nothing."""


class SystemPoint(BaseModel):
    """One sample. Shares of processor time are means since the sample before."""

    model_config = ConfigDict(extra="forbid")

    sample: int
    """Counted on when a run is resumed: MLflow's step."""
    time: float
    """Seconds since 1970."""
    values: dict[str, float]
    """By MLflow's names, and ``process_…`` for the run's own process."""


def read_system_points(run_dir: Path | str) -> list[SystemPoint]:
    """Raises RunError for a file that is damaged."""
    return stored.read_lines(Path(run_dir) / SYSTEM, SystemPoint)


def interval() -> float | None:
    """Seconds between samples, None where none are wanted. Raises ConfigError."""
    if os.environ.get(SWITCH, "").strip().lower() in ("false", "0"):
        return None
    text = os.environ.get(INTERVAL, "").strip()
    try:
        seconds = float(text) if text else EVERY_SECONDS
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= LEAST_SECONDS):
        raise ConfigError(
            f"{INTERVAL} is {text!r}; wanted are seconds, at least {LEAST_SECONDS:g} (or {SWITCH}=false)"
        )
    return seconds


class Recorder:
    """Samples in a thread of its own, from ``start`` to ``stop``, into the run folder."""

    def __init__(self, run_dir: Path) -> None:
        """Raises ConfigError for a setting that makes no sense."""
        self._run_dir, self._every = run_dir, interval()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._next = 0
        self._last = 0.0

    def start(self) -> None:
        """Where samples are wanted."""
        if self._every is None or self._thread is not None:
            return
        try:
            earlier = read_system_points(self._run_dir)
            self._next = earlier[-1].sample + 1 if earlier else 0
            self._last, self._measure = time.monotonic(), _Machine(self._run_dir)
        except Exception as error:  # of a platform without such numbers, or a damaged file: the run is what counts
            log.warning("%s: no system metrics: %s", self._run_dir, error)
            return
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """With a last sample; again: nothing."""
        if self._thread is None or self._stopped.is_set():
            return
        self._stopped.set()
        self._thread.join(timeout=5.0)
        if not self._thread.is_alive() and time.monotonic() - self._last >= LEAST_SECONDS:
            self._sample()

    def _work(self) -> None:
        assert self._every is not None
        pause = min(FIRST_SECONDS, self._every)
        while not self._stopped.wait(pause) and self._sample():
            pause = min(2 * pause, self._every)

    def _sample(self) -> bool:
        """Whether it is worth going on."""
        try:
            point = SystemPoint(sample=self._next, time=time.time(), values=self._measure.values())
            files.append_json_line(self._run_dir / SYSTEM, point.model_dump())
        except (OutputError, psutil.Error, OSError) as error:
            log.warning("%s: no more system metrics: %s", self._run_dir, error)
            return False
        self._next, self._last = self._next + 1, time.monotonic()
        return True


class _Machine:
    """Measures this machine and process."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, psutil.Process()
        self._network = psutil.net_io_counters()
        self._cards = _cards()
        psutil.cpu_percent()  # means are since the call before
        self._process.cpu_percent()

    def values(self) -> dict[str, float]:
        """A megabyte has a million bytes, as in MLflow; the disk is the run folder's."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._folder))
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "process_cpu_percentage": self._process.cpu_percent(),
            "process_memory_megabytes": self._process.memory_info().rss / 1e6,
        }
        network = psutil.net_io_counters()
        if network is not None and self._network is not None:
            found["network_receive_megabytes"] = (network.bytes_recv - self._network.bytes_recv) / 1e6
            found["network_transmit_megabytes"] = (network.bytes_sent - self._network.bytes_sent) / 1e6
        for number, card in enumerate(self._cards):
            found |= {f"gpu_{number}_{name}": value for name, value in card().items()}
        return {name: round(value, 3) for name, value in found.items()}


def _cards() -> list[Callable[[], dict[str, float]]]:
    """What measures each graphics card; none without NVIDIA's ``nvidia-ml-py`` or without a card."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # the library has errors of its own, and is not there as a rule
        return []

    def measure(handle: Any) -> dict[str, float]:
        try:
            memory, rates = pynvml.nvmlDeviceGetMemoryInfo(handle), pynvml.nvmlDeviceGetUtilizationRates(handle)
        except pynvml.NVMLError:
            return {}
        return {
            "memory_usage_megabytes": memory.used / 1e6,
            "memory_usage_percentage": 100 * memory.used / memory.total,
            "utilization_percentage": float(rates.gpu),
        }

    return [lambda handle=handle: measure(handle) for handle in handles]  # type: ignore[misc]
