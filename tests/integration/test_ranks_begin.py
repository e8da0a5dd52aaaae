"""Several ranks begin where rank 0 does: with another run's weights, and with a text that streams."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.integration.test_hub_run import streaming
from tests.suites.ranks import together
from tests.suites.tiny_runs import tiny_config
from workbench import records
from workbench.config import RunConfig
from workbench.followers import follow
from workbench.home import Home
from workbench.ranks import Ranks
from workbench.runner import execute

pytestmark = pytest.mark.slow


def train(ranks: Ranks, config: RunConfig, home: Home) -> None:
    torch.set_num_threads(1)
    if ranks.leads:
        assert execute(config, home.root / "two", home=home, ranks=ranks).status == "completed"
    else:
        follow(ranks, home)


def losses(run_dir: Path) -> list[float]:
    return [point.loss for point in records.read_train_points(run_dir)]


def same_as_alone(config: RunConfig, home: Home) -> None:
    torch.set_num_threads(1)
    together(train, config, home)
    execute(config, home.root / "alone", home=home)
    alone = losses(home.root / "alone")
    assert len(alone) > 1
    assert losses(home.root / "two") == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_with_the_weights_of_another_run(whole: Path, tmp_path: Path, strategy: str) -> None:
    config, _ = tiny_config(whole, {"train.init_from": str(whole / "runs" / "whole"), "train.train_tokens": 4096})
    runtime = config.runtime.model_copy(update={"strategy": strategy})
    same_as_alone(config.model_copy(update={"runtime": runtime}), Home(tmp_path / "runs"))


def test_with_a_text_that_streams(tmp_path: Path) -> None:
    same_as_alone(*streaming(tmp_path, tmp_path / "home"))
