"""What a training takes of its machine: sampled into the run folder, on and off, and at no cost."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from workbench import files, system_usage
from workbench.errors import ConfigError, OutputError, RunError
from workbench.system_usage import EVERY_SECONDS, INTERVAL, SWITCH, SYSTEM, Recorder, interval, read_system_points


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, "0.2")


def record(run_dir: Path, seconds: float) -> None:
    recorder = Recorder(run_dir)
    recorder.start()
    time.sleep(seconds)
    recorder.stop()
    recorder.stop()


class TestSwitch:
    def test_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(SWITCH, raising=False)
        monkeypatch.delenv(INTERVAL, raising=False)
        assert interval() == EVERY_SECONDS

    @pytest.mark.parametrize("word", ["false", "False", "0"])
    def test_off(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str) -> None:
        monkeypatch.setenv(SWITCH, word)
        record(tmp_path, 0.0)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf", "0.01"])
    def test_no_pause(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str) -> None:
        monkeypatch.setenv(INTERVAL, given)
        with pytest.raises(ConfigError, match=f"{INTERVAL} is '{given}'; wanted are seconds"):
            Recorder(tmp_path)


@pytest.mark.usefixtures("often")
class TestSamples:
    def test_have_mlflow_s_names(self, tmp_path: Path) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        wanted = set()
        for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
            monitor.collect_metrics()
            wanted |= set(monitor.aggregate_metrics())
        record(tmp_path, 0.25)
        values = read_system_points(tmp_path)[0].values
        assert len(wanted) == 8
        assert wanted <= values.keys()
        assert 0 < values["system_memory_usage_percentage"] <= 100
        assert values["process_memory_megabytes"] > 10

    def test_go_on_in_a_resumed_run(self, tmp_path: Path) -> None:
        record(tmp_path, 0.25)
        first = len(read_system_points(tmp_path))
        record(tmp_path, 0.25)
        found = read_system_points(tmp_path)
        assert len(found) > first
        assert [point.sample for point in found] == list(range(len(found)))
        assert [point.time for point in found] == sorted(point.time for point in found)

    def test_a_short_run_has_one_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(INTERVAL, "10")
        record(tmp_path, 0.25)
        assert len(read_system_points(tmp_path)) == 1

    def test_a_full_disk_ends_them_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*_: object) -> None:
            raise OutputError("no room")

        monkeypatch.setattr(files, "append_json_line", full)
        with caplog.at_level(logging.WARNING):
            record(tmp_path, 0.5)
        assert "no more system metrics: no room" in caplog.text

    def test_graphics_cards(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        library = SimpleNamespace(
            NVMLError=ValueError,
            nvmlInit=lambda: None,
            nvmlDeviceGetCount=lambda: 2,
            nvmlDeviceGetHandleByIndex=lambda i: i,
            nvmlDeviceGetMemoryInfo=lambda i: SimpleNamespace(used=(i + 1) * 1e9, total=8e9),
            nvmlDeviceGetUtilizationRates=lambda i: SimpleNamespace(gpu=40 + i),
        )
        monkeypatch.setitem(sys.modules, "pynvml", library)
        record(tmp_path, 0.25)
        values = read_system_points(tmp_path)[0].values
        assert values["gpu_0_memory_usage_megabytes"] == 1000
        assert values["gpu_1_memory_usage_percentage"] == 25
        assert values["gpu_1_utilization_percentage"] == 41


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / SYSTEM).write_text('{"sample": 0}\n')
    with pytest.raises(RunError, match=r"system\.jsonl is damaged"):
        read_system_points(tmp_path)


def test_they_cost_less_than_a_hundredth(tmp_path: Path) -> None:
    """Of one core, in processor time, were they taken ten times as often as by default."""
    recorder = Recorder(tmp_path)
    recorder._measure = system_usage._Machine(tmp_path)
    began = time.thread_time()
    for _ in range(50):
        assert recorder._sample()
    assert (time.thread_time() - began) / 50 < 0.01 * EVERY_SECONDS / 10
