"""What is probed is remembered; what a user asks for is respected or refused."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from workbench import cores, machine
from workbench.config import RunConfig
from workbench.config_file import build_config
from workbench.errors import ConfigError


def config(**runtime: object) -> RunConfig:
    return build_config({"runtime": runtime})


def test_the_probe_runs_once_and_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def probe(width: int) -> float:
        calls.append(width)
        return 2.0 if width >= 256 else 0.9

    monkeypatch.setattr(machine, "bfloat16_speedup", probe)
    for _ in range(2):
        assert machine.preferred_dtype("cpu", 128, 1, tmp_path) == "float32"
        assert machine.preferred_dtype("cpu", 256, 1, tmp_path) == "bfloat16"
    assert calls == [128, 256]


def test_threads_probe_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once would slow each other down."""
    probing: list[int] = []

    def probe(width: int) -> float:
        probing.append(width)
        time.sleep(0.05)
        return 2.0 if probing.pop() == width and not probing else 0.9

    monkeypatch.setattr(machine, "bfloat16_speedup", probe)
    with ThreadPoolExecutor(3) as threads:
        homes = [tmp_path / name for name in "abc"]
        found = threads.map(lambda home: machine.preferred_dtype("cpu", 128, 1, home), homes)
        assert list(found) == ["bfloat16"] * 3


def test_the_probe_measures_something() -> None:
    state = torch.random.get_rng_state()
    assert 0.05 < machine.bfloat16_speedup(32, rows=64, repeats=2) < 50
    torch.random.set_rng_state(state)


def test_what_is_given_is_not_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "bfloat16_speedup", None)
    asked = config(device="cpu", dtype="bfloat16", autoencoder_dtype="float32", threads=1)
    found = machine.resolve(asked, tmp_path)
    assert found.runtime == asked.runtime
    assert machine.resolve(found, tmp_path) == found


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta:x", "cpu:foo"])
def test_a_device_that_is_not_there(tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"runtime.device: '{device}' cannot be used here.*auto"):
        machine.resolve(config(device=device, dtype="float32"), tmp_path)


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("", None), ("many", None), ("0", None)])
def test_threads(monkeypatch: pytest.MonkeyPatch, value: str, expected: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert machine.default_threads() == expected or (expected is None and machine.default_threads() >= 1)


def test_threads_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Mac."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert machine.default_threads() >= 1


def test_environment() -> None:
    found = machine.environment(config().resolved(threads=2))
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["threads"] == 2
    assert found["cpu"]
    assert {"git_commit", "git_diff_hash", "code_hash", "code_version"} <= set(found)


@pytest.mark.parametrize(("limit", "expected"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_containers_limits_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    assert cores.available_cores() == 8
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cores.available_cores() == expected
    free = cores.available_memory()
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert free > 2_000_000 == cores.available_memory()
    (tmp_path / "memory.stat").write_text("file 900000\ninactive_file 600000\nactive_file 300000\n")
    assert cores.available_memory() == 2_600_000, "files that were read can be dropped"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"speedup": null}', "\0\0", '{"speedup": "x"}'])
def test_a_damaged_probe_is_made_again(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "bfloat16_speedup", lambda width: 100.0)
    assert machine.preferred_dtype("cpu", 32, 1, tmp_path) == "bfloat16"
    (path,) = (tmp_path / "probes").glob("*.json")
    path.write_text(text)
    assert machine.preferred_dtype("cpu", 32, 1, tmp_path) == "bfloat16"
    assert '"speedup": 100.0' in path.read_text()
