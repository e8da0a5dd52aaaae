"""The training loop: one step, the log, evaluations at planned points, checkpoints, exact resume.

All randomness of step s comes from (seed, s), so a checkpoint holds weights, optimizer state and a
position (of a text that streams, its state too), and a resumed run equals an uninterrupted one bit for bit on the
CPU.

Several ranks take every step together, each with its part of the batch (``workbench.strategies``); which sequences
and which noise a batch has does not depend on how many there are, nor does the checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from workbench import checkpoint, interruption
from workbench.ahead import Ahead
from workbench.batches import Batches, Received, as_text, from_text, training_batches
from workbench.config import RunConfig
from workbench.data import Corpus
from workbench.errors import NotFiniteError
from workbench.finite import all_finite, at_step
from workbench.hub import HubUnreachableError
from workbench.language_model import LanguageModel
from workbench.layers import generator
from workbench.optim import rate_factor, scale_rates
from workbench.progress import Display, NoDisplay
from workbench.ranks import ALONE, PeerLostError, Ranks
from workbench.records import Evaluation, TrainPoint
from workbench.schedule import Plan
from workbench.strategies import build_strategy

_POLL_SECONDS = 0.1


class _Stopped(Exception):
    """All ranks have agreed to stop after a step."""


@dataclass
class Position:
    """How far a run is; what a checkpoint holds beside weights and optimizer state."""

    step: int = 0
    train_seconds: float = 0.0
    loss_sum: float = 0.0
    """Of the steps since the last logged point."""
    num_summed: int = 0
    grad_norm: float = 0.0
    pending: bool = False
    """The evaluation that is planned at this step has not been done."""
    stream: str = ""
    """Where a text that streams goes on (``workbench.batches``)."""


class Trainer:
    """Trains ``model`` along ``plan``. ``config`` must be resolved. To be closed."""

    def __init__(
        self,
        model: LanguageModel,
        config: RunConfig,
        plan: Plan,
        corpus: Corpus,
        folder: Path,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.config, self.plan, self.corpus = model, config, plan, corpus
        self.ranks = ranks
        self.folder = folder
        """Of the checkpoint."""
        self.strategy = build_strategy(model, config, ranks)
        self.optimizer = self.strategy.optimizer
        self.position = Position()
        self._ahead = Ahead()
        self.batches = self._open_batches()
        self.consistent = True
        """Weights, optimizer and position belong to the same step."""
        self.before_save: Callable[[], None] = lambda: None
        """Called before a checkpoint is written: what was logged must reach the disk before it does."""
        self.saved = time.monotonic()
        self._blocks: Iterator[Int[Tensor, "b t"]] | None = None

    def _open_batches(self) -> Batches:
        """Of a text that streams rank 0 has the batches, and sends them to the others."""
        config = self.config
        if config.data.streams and not self.ranks.leads:
            return Received()
        return training_batches(
            self.corpus,
            config.data,
            seed=config.seed,
            num_blocks=config.batch_sequences,
            block_len=config.train.block_len,
        )

    def close(self) -> None:
        """End what reads ahead, at once, whatever it waits for. A finished run can still be saved."""
        self.batches.close()
        self._ahead.close()

    def resume(self) -> bool:
        """Continue from the checkpoint if there is one. On all ranks together, once, before training."""
        found = checkpoint.find(self.folder) if self.ranks.leads else None
        known = asdict(self.position)
        if found is not None:
            self.position = Position(**checkpoint.load(found, self.model.network, self.optimizer, like=known))
        if self.ranks.leads:
            self.ranks.post("position", json.dumps(asdict(self.position)))
        else:
            self.position = Position(**json.loads(self.ranks.expect_post("position")))
        if self.position.step:
            self.batches.load_state_dict(from_text(self.position.stream))
        self.strategy.begin(self.position.step)
        return found is not None

    def save(self, *, finished: bool = False) -> None:
        """Write the checkpoint; of a finished run only the weights are kept."""
        optimizer = None if finished else self.strategy.optimizer_tensors()
        self.before_save()
        self.position.stream = "" if finished else as_text(self.batches.state_dict(self.position.step))
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

        Raises NotFiniteError, with the last checkpoint left as it was: weights that are not finite are neither
        evaluated nor saved. Ctrl-C and SIGTERM, to any rank, finish the step, or break off the evaluation, and
        save before KeyboardInterrupt is raised; where a step takes longer than ``interruption`` has patience, the
        last checkpoint stays. Raises PeerLostError where another rank ends, and HubUnreachableError where a text
        that streams cannot be had any more, saved as well."""
        with interruption.listening():
            try:
                self._train(log, evaluate, decide, display)
            except (KeyboardInterrupt, PeerLostError, HubUnreachableError):
                with interruption.held():
                    if self.consistent and self.strategy.collected(self.position.step) and self._is_finite():
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
        self.saved = time.monotonic()
        if not self._is_finite():
            raise NotFiniteError(f"the weights to go on from at step {position.step} are not finite")
        display.stage("training", plan.num_steps)
        while position.pending or position.step < plan.num_steps:
            if position.pending:
                with (
                    self.strategy.evaluating(),
                    self.ranks.others_wait(self.config.runtime.threads or 1),
                    at_step(position.step),
                ):
                    evaluation = evaluate(self)
                display.stage("training", plan.num_steps)
                with interruption.held():
                    position.pending = False
                    self._save_now(display)
                decide(evaluation)
                continue
            self.ranks.post("train")
            try:
                self._stretch(log, display)
            except _Stopped:
                interruption.obey()

    def follow(self) -> None:
        """What the other ranks do while rank 0 is in ``train``, and until it posts something else."""
        while self.ranks.await_post()[0] == "train":
            self.position.pending = False
            with contextlib.suppress(NotFiniteError, _Stopped):
                self._stretch(lambda point: None, NoDisplay())

    def _stretch(self, log: Callable[[TrainPoint], None], display: Display) -> None:
        """Steps up to the next evaluation or the end. Several ranks end it together, whatever ends it."""
        position = self.position
        if self._blocks is None:
            self._blocks = self._batches(position.step)
        with interruption.held() if self.ranks.world > 1 else contextlib.nullcontext():
            while not position.pending and position.step < self.plan.num_steps:
                tokens = next(self._blocks)
                with interruption.held():
                    self._advance(tokens, log, display)
            self.strategy.collect(position.step)

    def _advance(self, tokens: Int[Tensor, "b t"], log: Callable[[TrainPoint], None], display: Display) -> None:
        """One step with its log, and a checkpoint where one is due. Where the step before it cannot be shown, all
        ranks end the stretch after this one."""
        position, plan, ranks = self.position, self.plan, self.ranks
        failure = self._failure_to_show(display)
        start = time.perf_counter()
        loss, grad_norm = self._step(tokens, position.step)
        position.step += 1
        total, stop, due, failed = ranks.agree(
            float(loss), interruption.requested(), ranks.leads and self._is_due(), failure is not None
        )
        position.loss_sum += total
        position.num_summed += 1
        position.grad_norm = float(grad_norm)
        position.train_seconds += time.perf_counter() - start
        if not math.isfinite(position.loss_sum) or not math.isfinite(position.grad_norm):
            raise NotFiniteError(
                f"loss {total:.4g}, gradient norm {position.grad_norm:.4g} at step {position.step}"
            )
        if position.step % plan.log_every == 0 or position.step == plan.num_steps:
            self._log(log, display)
        position.pending = position.step in plan.evaluation_steps
        if position.pending or due:
            self._require_finite()
        self.consistent = True
        if due:
            self.strategy.collect(position.step)
            if ranks.leads:
                self._save_now(display)
        if failed:
            self.strategy.collect(position.step)
            raise failure or _Stopped
        if stop and ranks.world > 1:
            self.strategy.collect(position.step)
            raise _Stopped

    def _is_finite(self) -> bool:
        """Of the weights that rank 0 evaluates and saves."""
        return all_finite(self.model.network.parameters())

    def _require_finite(self) -> None:
        """All ranks together, of the weights that they have; the loss of a step is that before its update."""
        (broken,) = self.ranks.agree(not all_finite(self.strategy.weights()))
        if broken:
            raise NotFiniteError(f"the weights are not finite after step {self.position.step}")

    def _is_due(self) -> bool:
        return time.monotonic() - self.saved > self.config.train.checkpoint_every_seconds

    def _save_now(self, display: Display) -> None:
        self.save()
        self.saved = time.monotonic()
        display.saved(self.position.step)

    def _failure_to_show(self, display: Display) -> Exception | None:
        """The last step, unless it was logged: of a long run one in a thousand is, a display goes by the time."""
        position = self.position
        if not position.num_summed:
            return None
        try:
            display.advance(
                position.step,
                loss=position.loss_sum / position.num_summed,
                tokens_per_second=position.step * self.plan.tokens_per_step / max(position.train_seconds, 1e-9),
            )
        except Exception as error:
            return error
        return None

    def _step(self, tokens: Int[Tensor, "b t"], step: int) -> tuple[Tensor, Tensor]:
        """One optimizer step; returns this rank's part of the mean loss, and the gradient's norm unclipped."""
        config, plan = self.config, self.plan
        factor = rate_factor(step, plan.num_steps, warmup_steps=plan.warmup_steps, decay_steps=plan.decay_steps)
        scale_rates(self.optimizer, factor)
        rng = generator(config.seed, "train", step, device=config.runtime.device)
        with self.ranks.together():
            loss = self.strategy.gradients(tokens, rng)
        grad_norm = self.strategy.clip(config.optim.clip)
        self.consistent = False
        self.optimizer.step()
        return loss, grad_norm

    def _batches(self, first: int) -> Iterator[Int[Tensor, "b t"]]:
        """This rank's training blocks from step ``first`` on; the next ones are gathered while a step computes."""
        config, num_steps = self.config, self.plan.num_steps
        shared = config.data.streams and self.ranks.world > 1
        part = self.ranks.part_of(config.batch_sequences)

        def gather(step: int) -> Future[Tensor]:
            rows = slice(None) if shared else part
            return self._ahead.submit(lambda: torch.from_numpy(self.batches.next_batch(step, rows)))

        coming = gather(first)
        for step in range(first, num_steps):
            batch = self._received(coming)[part] if shared else coming.result()
            if step + 1 < num_steps:
                coming = gather(step + 1)
            yield batch.to(config.runtime.device, non_blocking=True)

    def _received(self, coming: Future[Tensor]) -> Int[Tensor, "b t"]:
        """Rank 0's whole batch, on all ranks. Where it cannot be had, or a signal comes before it, they end the
        stretch together."""
        failure, stop = None, False
        if self.ranks.leads:
            while not stop and not wait([coming], timeout=_POLL_SECONDS).done:
                stop = interruption.requested()
            failure = coming.exception() if coming.done() else None
        if any(self.ranks.agree(failure is not None, stop)):
            self.strategy.collect(self.position.step)
            raise failure or _Stopped
        shape = (self.config.batch_sequences, self.config.train.block_len)
        batch = coming.result().int() if self.ranks.leads else torch.empty(shape, dtype=torch.int32)
        return self.ranks.spread(batch).long()

    def _log(self, log: Callable[[TrainPoint], None], display: Display) -> None:
        """Where it fails on rank 0, all end the stretch."""
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
        failure: Exception | None = None
        try:
            log(point)
            display.advance(position.step, loss=point.loss, tokens_per_second=point.tokens_per_second)
        except Exception as error:
            failure = error
        (failed,) = self.ranks.agree(failure is not None)
        if failed:
            self.strategy.collect(position.step)
            raise failure or _Stopped
