"""What is measured is training as it is: gradients clipped, whole rounds of Muon's updates."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from workbench import speed
from workbench.config import RunConfig
from workbench.config_file import build_config


def config(**optim: object) -> RunConfig:
    return build_config(
        {
            "model": {"kind": "baseline", "backbone": {"width": 16, "num_layers": 1, "num_heads": 2}},
            "train": {"block_len": 32, "train_tokens": 10_000},
            "optim": {"batch_positions": 32, **optim},
            "runtime": {"device": "cpu", "dtype": "float32", "autoencoder_dtype": "float32", "threads": 1},
        }
    ).resolved()


@pytest.mark.parametrize(("every", "steps"), [(1, 1), (4, 4), (50, speed.LONGEST_ROUND)])
def test_whole_rounds_are_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    every: int,
    steps: int,
) -> None:
    taken = itertools.count()

    def turns(config: RunConfig, vocab: int) -> Iterator[float]:
        return (float(next(taken)) for _ in itertools.repeat(None))

    monkeypatch.setattr(speed, "_steps", turns)
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n"))
    path = tmp_path / "config.yaml"
    path.write_text(config(kind="muon", matrix_every=every).to_yaml())
    speed.main([str(path), "--cache", str(tmp_path), "--seconds", "0"])
    ready, answer = capsys.readouterr().out.splitlines()
    assert ready == "ready"
    assert json.loads(answer)["flops_per_second"] > 0
    assert next(taken) == speed.WARM_UP_STEPS + steps


def test_gradients_are_clipped_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    class Notes:
        def __init__(self, module: torch.nn.Module) -> None:
            self.parameters = list(module.parameters())

        def step(self) -> None:
            norms.append(float(torch.stack([p.grad.norm() for p in self.parameters if p.grad is not None]).norm()))

    monkeypatch.setattr(speed, "build_optimizer", lambda module, *_, **__: Notes(module))
    next(speed._steps(config(clip=1e-3), 256))
    assert norms == [pytest.approx(1e-3, rel=1e-2)]
