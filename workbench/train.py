"""The training loop: one step, the log, evaluations at planned points, checkpoints, exact resume.

All randomness of step s comes from (seed, s), so a checkpoint holds weights, optimizer state and a
position, and a resumed run equals an uninterrupted one bit for bit on the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from workbench import checkpoint
from workbench.config import RunConfig
from workbench.data import Corpus, training_blocks
from workbench.language_model import LanguageModel
from workbench.layers import generator
from workbench.optim import autocast, build_optimizer, rate_factor, scale_rates
from workbench.progress import Display
from workbench.records import Evaluation, TrainPoint
from workbench.schedule import Plan


class NotFiniteError(Exception):
    """The loss or its gradient is not a number any more."""


@dataclass
class Position:
    """How far a run is; what a checkpoint holds beside weights and optimizer state."""

    step: int = 0
    train_seconds: float = 0.0
    loss_sum: float = 0.0
    """Of the steps since the last logged point."""
    num_summed: int = 0
    grad_norm: float = 0.0


class Trainer:
    """Trains ``model`` along ``plan``. ``config`` must be resolved."""

    def __init__(self, model: LanguageModel, config: RunConfig, plan: Plan, corpus: Corpus, folder: Path) -> None:
        self.model, self.config, self.plan, self.corpus = model, config, plan, corpus
        self.folder = folder
        """Of the checkpoint."""
        self.optimizer = build_optimizer(model.network, config.optim, dtype=config.runtime.dtype)
        self.position = Position()
        self.consistent = True
        """Weights, optimizer and position belong to the same step, whose evaluation, if any, is done."""

    def resume(self) -> bool:
        """Continue from the checkpoint if there is one."""
        found = checkpoint.find(self.folder)
        if found is None:
            return False
        self.position = Position(**checkpoint.load(found, self.model.network, self.optimizer))
        return True

    def save(self, *, finished: bool = False) -> None:
        """Write the checkpoint; of a finished run only the weights are kept."""
        optimizer = None if finished else self.optimizer
        checkpoint.save(self.folder, self.model.network, asdict(self.position), optimizer)

    def train(
        self,
        *,
        log: Callable[[TrainPoint], None],
        evaluate: Callable[[Trainer], Evaluation],
        decide: Callable[[Evaluation], None],
        display: Display,
    ) -> None:
        """Run to the end of the plan. ``evaluate`` is called at the planned steps; ``decide`` is told its
        result once the checkpoint is written, and may raise to stop.

        Raises NotFiniteError, with the last checkpoint left as it was. An interruption saves where it can:
        in the middle of an update or an evaluation only the last checkpoint is exact."""
        display.stage("training", self.plan.num_steps)
        try:
            self._train(log, evaluate, decide, display)
        except KeyboardInterrupt:
            if self.consistent:
                self.save()
            raise

    def _train(
        self,
        log: Callable[[TrainPoint], None],
        evaluate: Callable[[Trainer], Evaluation],
        decide: Callable[[Evaluation], None],
        display: Display,
    ) -> None:
        position, plan = self.position, self.plan
        saved = time.monotonic()
        batches = self._batches(position.step)
        while position.step < plan.num_steps:
            start = time.perf_counter()
            loss, grad_norm = self._step(next(batches), position.step)
            position.step += 1
            position.loss_sum += float(loss)
            position.num_summed += 1
            position.grad_norm = float(grad_norm)
            position.train_seconds += time.perf_counter() - start
            if not math.isfinite(position.loss_sum) or not math.isfinite(position.grad_norm):
                raise NotFiniteError(
                    f"loss {float(loss):.4g}, gradient norm {position.grad_norm:.4g} at step {position.step}"
                )
            due = position.step in plan.evaluation_steps
            if position.step % plan.log_every == 0 or position.step == plan.num_steps:
                self._log(log, display)
            evaluation = evaluate(self) if due else None
            self.consistent = True
            if due or time.monotonic() - saved > self.config.train.checkpoint_every_seconds:
                self.save()
                saved = time.monotonic()
            if evaluation is not None:
                decide(evaluation)

    def _step(self, tokens: Int[Tensor, "b t"], step: int) -> tuple[Tensor, Tensor]:
        """One optimizer step; returns the mean loss and the gradient's norm before clipping."""
        config, plan = self.config, self.plan
        factor = rate_factor(step, plan.num_steps, warmup_steps=plan.warmup_steps, decay_steps=plan.decay_steps)
        scale_rates(self.optimizer, factor)
        rng = generator(config.seed, "train", step, device=config.runtime.device)
        with autocast(config.runtime.device, config.runtime.dtype):
            loss = self.model.training_loss(tokens, rng=rng).mean()
        self.model.network.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.network.parameters(), config.optim.clip)
        self.consistent = False
        self.optimizer.step()
        return loss.detach(), grad_norm

    def _batches(self, first: int) -> Iterator[Int[Tensor, "b t"]]:
        """Training blocks from step ``first`` on; the next one is gathered while a step computes."""
        config = self.config

        def gather(step: int) -> Tensor:
            rng = np.random.default_rng([config.seed, step])
            blocks = training_blocks(
                self.corpus.tokens["train"], config.batch_sequences, config.train.block_len, rng
            )
            return torch.from_numpy(blocks)

        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = pool.submit(gather, first)
            for step in range(first, self.plan.num_steps):
                batch = coming.result()
                coming = pool.submit(gather, step + 1)
                yield batch.to(config.runtime.device, non_blocking=True)

    def _log(self, log: Callable[[TrainPoint], None], display: Display) -> None:
        position, plan = self.position, self.plan
        tokens = position.step * plan.tokens_per_step
        point = TrainPoint(
            step=position.step,
            tokens=tokens,
            train_flops=position.step * plan.flops_per_step,
            loss=position.loss_sum / position.num_summed,
            grad_norm=position.grad_norm,
            lr=self.optimizer.param_groups[-1]["lr"],
            tokens_per_second=tokens / max(position.train_seconds, 1e-9),
            seconds=position.train_seconds,
        )
        position.loss_sum, position.num_summed = 0.0, 0
        log(point)
        display.advance(position.step, loss=point.loss, tokens_per_second=point.tokens_per_second)
