"""A stand-in for ``workbench.runner``: writes a plausible run folder, calls ``on_evaluation``, trains nothing.

Behaviour is read from the environment, because worker processes inherit it:
``FAKE_SECONDS`` (a run's length), ``FAKE_FAIL`` (text: run ids that contain it fail, with a RuntimeError or the
built-in exception ``FAKE_FAIL_KIND``), ``FAKE_ERROR`` (likewise, with a DataError), ``FAKE_NO_ROOM`` (an
OutputError), ``FAKE_NOT_FINITE``, ``FAKE_STUBBORN`` (likewise, a step that takes a minute), ``FAKE_SAVES``
(seconds that an interrupted run takes to save).
"""

from __future__ import annotations

import builtins
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import files, interruption, records
from workbench.config import CalmConfig, RunConfig
from workbench.errors import DataError, OutputError
from workbench.home import Home
from workbench.records import Brier, Evaluation, RunRecord
from workbench.saving import saving

ATTEMPTS = "attempts.jsonl"
"""One line per call of ``execute`` that trained something: process and the evaluation it started from."""


class StopRun(Exception):
    pass


@dataclass(frozen=True)
class Identity:
    study: str | None
    role: str
    trial: int | None
    name: str


def resolve(config: RunConfig, home: Home) -> RunConfig:
    return config.resolved()


def score(config: RunConfig, part: float = 1.0) -> float:
    """A known surface: best at K = 2, latent 32, floor 0.25; a little noise by seed; grows with compute."""
    if not isinstance(config.model, CalmConfig):
        return 6.0 * part + 0.01 * config.model.backbone.num_layers
    ae = config.autoencoder
    value = {1: 2.0, 2: 4.0, 4: 3.0}[config.chunk_size] + ae.latent_dim / 64 - abs(ae.kl_floor - 0.25)
    return (value + 0.01 * (config.seed % 3)) * part


def evaluation(index: int, value: float, flops: float) -> Evaluation:
    brier = Brier(
        brier=[20.0, 5.0, 2.0, 1.0],
        brier_se=[0.1] * 4,
        brierlm=value,
        brierlm_se=0.1,
        num_positions=1000,
        num_clusters=50,
        score=value,
    )
    return Evaluation(
        step=10 * (index + 1), tokens=1000, train_flops=flops, phase="constant", fingerprint="f", brier=brier
    )


def execute(
    config: RunConfig,
    run_dir: Path,
    *,
    home: Home,
    identity: Identity,
    tracker: Any = None,
    parent: str | None = None,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> RunRecord:
    assert config == config.resolved(), "the runner wants a resolved configuration"
    if (run_dir / records.RECORD).exists():
        before = records.read_record(run_dir)
        assert before.config_hash == config.hash(), "another configuration in this run folder"
        if before.status == "completed":
            return before
    run_dir.mkdir(parents=True, exist_ok=True)
    files.write_atomic(run_dir / records.CONFIG, config.to_yaml())
    record = RunRecord(
        run_id=run_dir.name,
        name=identity.name,
        study=identity.study,
        role=identity.role,  # type: ignore[arg-type]
        trial=identity.trial,
        seed=config.seed,
        kind=config.model.kind,
        config_hash=config.hash(),
        created="2025-01-01T00:00:00+00:00",
    )
    records.write_record(run_dir, record)
    start = len(records.read_evaluations(run_dir))
    files.append_json_line(run_dir / ATTEMPTS, {"pid": os.getpid(), "from": start})
    try:
        for index in range(start, config.train.num_evaluations):
            _misbehave(run_dir.name)
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0")) / config.train.num_evaluations)
            part = (index + 1) / config.train.num_evaluations
            point = evaluation(index, score(config, part), part * 1e9)
            files.append_json_line(run_dir / records.EVALUATIONS, point.model_dump())
            if on_evaluation:
                on_evaluation(point)
        status, reason = "completed", ""
        if _named("FAKE_NOT_FINITE", run_dir.name):
            status, reason = "not_finite", "loss is nan at step 30"
    except StopRun as stop:
        status, reason = "pruned", str(stop)
    except KeyboardInterrupt:
        with saving():
            time.sleep(float(os.environ.get("FAKE_SAVES", "0")))
        records.write_record(run_dir, record.model_copy(update={"status": "interrupted"}))
        raise
    except Exception as error:
        records.write_record(run_dir, record.model_copy(update={"status": "failed", "reason": str(error)}))
        raise
    final = records.read_evaluations(run_dir)[-1]
    record = record.model_copy(update={"status": status, "reason": reason, "final": final})
    records.write_record(run_dir, record)
    return record


def _misbehave(run_id: str) -> None:
    if _named("FAKE_ERROR", run_id):
        raise DataError("the corpus of this test is missing; give one that exists")
    if _named("FAKE_FAIL", run_id):
        kind = os.environ.get("FAKE_FAIL_KIND", "RuntimeError")
        raise getattr(builtins, kind)("a failure for the test")
    if _named("FAKE_STUBBORN", run_id):
        with interruption.held():
            time.sleep(60)
    if _named("FAKE_NO_ROOM", run_id):
        raise OutputError("no room left; free some")


def _named(variable: str, run_id: str) -> bool:
    text = os.environ.get(variable)
    return text is not None and text in run_id
