"""What is known of a run's configuration and seen in its gradient norms reaches its record."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from tests.suites.tiny_runs import tiny_config
from workbench import records
from workbench.runner import execute
from workbench.train import Trainer


def codes(tmp_path: Path, overrides: dict[str, object]) -> list[str]:
    config, home = tiny_config(tmp_path, overrides)
    run_dir = home.root / "run"
    record = execute(config, run_dir, home=home)
    assert record.status == "completed"
    assert records.read_record(run_dir).diagnostics == record.diagnostics
    return [diagnostic.code for diagnostic in record.diagnostics]


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "expected"), [(0.3, 1), (1.0, 0)])
def test_an_alpha_below_one_is_in_the_record(tmp_path: Path, alpha: float, expected: int) -> None:
    found = codes(tmp_path, {"model.head.alpha": alpha})
    assert found.count("alpha_below_one") == expected
    assert "gradient_norm" not in found


@pytest.mark.slow
def test_a_spike_of_the_gradient_is_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer._step

    def spiked(self: Trainer, tokens: Tensor, number: int) -> tuple[Tensor, Tensor]:
        loss, norm = step(self, tokens, number)
        return loss, norm * (100.0 if number == 12 else 1.0)

    monkeypatch.setattr(Trainer, "_step", spiked)
    assert "gradient_norm" in codes(tmp_path, {})
    (run_dir,) = records.find_runs(tmp_path)
    message = next(d.message for d in records.read_record(run_dir).diagnostics if d.code == "gradient_norm")
    assert "at step 13" in message
