"""Two ranks whose blocks are compiled train what a single process trains without, with DDP and with FSDP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.suites.compiling import plain_kernels

COMPARED = """
import json, sys
from pathlib import Path

import torch

from tests.integration.test_ranks_begin import losses, train
from tests.suites.ranks import together
from tests.suites.tiny_runs import tiny_config
from workbench.runner import execute

CHANGES = {
    "model.input_mode": "both",
    "model.auxiliary_weight": 0.1,
    "model.backbone.num_layers": 1,
    "model.head.num_blocks": 1,
    "autoencoder.steps": 10,
    "eval.num_windows": 4,
    "eval.sample_tokens": 0,
    "train.train_tokens": 6 * 128,
    "train.num_evaluations": 1,
}


def train_and_count(ranks, config, home):
    from torch._dynamo.utils import counters

    train(ranks, config, home)
    return counters["stats"]["unique_graphs"]


config, home = tiny_config(Path(sys.argv[1]), CHANGES)
torch.set_num_threads(1)
execute(config, home.root / "alone", home=home)
found = {"alone": losses(home.root / "alone")}
for strategy in ("ddp", "fsdp"):
    compiled = config.runtime.model_copy(update={"compile": True, "strategy": strategy})
    graphs = together(train_and_count, config.model_copy(update={"runtime": compiled}), home, seconds=240.0)
    found[strategy] = {"losses": losses(home.root / "two"), "graphs": graphs}
    (home.root / "two").rename(home.root / strategy)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_compiled_ranks_have_the_curve_of_a_single_process(tmp_path: Path) -> None:
    """In a process without the checks of shapes, which cannot be compiled. Where the machine has no compiler for
    C++, both ranks say so and train as they are."""
    known = {**os.environ, **plain_kernels(tmp_path / "kernels")}
    command = [sys.executable, "-c", COMPARED, str(tmp_path)]
    done = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for strategy in ("ddp", "fsdp"):
        assert len(found[strategy]["losses"]) == len(found["alone"]) > 1
        assert found[strategy]["losses"] == pytest.approx(found["alone"], rel=1e-5), strategy
    warnings = done.stderr.count("runtime.compile has no effect")
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        assert warnings == 4, done.stderr
    else:
        assert warnings == 0, done.stderr
        assert min(*found["ddp"]["graphs"], *found["fsdp"]["graphs"]) > 0
