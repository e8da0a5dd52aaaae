"""One run from a configuration: data, autoencoder, training, evaluation, record.

The run folder (workbench.records) is written first; a tracker mirrors it and may come and go.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from workbench import code_state, diagnostics, files, flops, interruption, machine, records, run_logs, run_plots
from workbench.bottleneck import bottleneck
from workbench.build import Inputs, build_model, keep_autoencoder, prepare_inputs, share_model, use_cached_targets
from workbench.compute_account import step_groups
from workbench.config import CalmConfig, RunConfig
from workbench.data import Corpus
from workbench.divergence import DivergedError, Watcher, collapsed
from workbench.errors import NotFiniteError, OutputError
from workbench.evaluate import Background, Grid, evaluate, evaluation_grid, floors, identical_draws
from workbench.home import Home
from workbench.hub import HubUnreachableError, with_revisions
from workbench.initial import begin, beginning
from workbench.lineage import keep as keep_lineage
from workbench.model import Calm
from workbench.optim import phase_after
from workbench.own_heads import FAILURES, blaming, failure_in_words
from workbench.pairs import above_floors
from workbench.positions import FLOORS, POSITIONS, write_floors, write_positions
from workbench.pretrained_tokenizer import with_kept, with_tokenizer
from workbench.progress import Display, NoDisplay
from workbench.rank_place import require_fit
from workbench.ranks import ALONE, PeerLostError, Ranks
from workbench.records import BAD_NUMBERS, FINISHED, Evaluation, RunRecord, Status, TrainPoint
from workbench.room import require_room_for_run
from workbench.sample_text import sample_text
from workbench.sampling_compared import compare_sampling
from workbench.saved_runs import existing_record, require_same_text
from workbench.schedule import Plan
from workbench.system_usage import Recorder
from workbench.train import Trainer
from workbench.train_autoencoder import HELD_OUT

if TYPE_CHECKING:
    from workbench.tracking import Tracker

log = logging.getLogger(__name__)


class StopRun(Exception):
    """Raised by ``on_evaluation`` to end a run early; its text becomes the reason."""


@dataclass(frozen=True)
class Identity:
    """Which run of what."""

    study: str | None = None
    role: Literal["run", "trial", "baseline", "check"] = "run"
    trial: int | None = None
    name: str = ""


def resolve(config: RunConfig, home: Home) -> RunConfig:
    """Everything left open filled in for this machine; names on the hub with the commits they mean, a pretrained
    tokenizer with its file's sha256 and special ids. Raises ConfigError, and DataError for the tokenizer."""
    return machine.resolve(with_tokenizer(with_revisions(config, home.cache)), home.cache)


def execute(
    config: RunConfig,
    run_dir: Path,
    *,
    home: Home,
    identity: Identity | None = None,
    tracker: Tracker | None = None,
    parent: str | None = None,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    display: Display | None = None,
    ranks: Ranks = ALONE,
    initial: Path | None = None,
) -> RunRecord:
    """Run a resolved configuration in ``run_dir``; returns the final record. With other ``ranks``, which are in
    ``workbench.followers``, this is rank 0. ``initial``: the run that ``train.init_from`` names, if it is known.

    An unfinished run of the same configuration is continued from its checkpoint; a finished one is
    returned as it is. Raises DataError before anything is written, and RunError where the folder holds a
    run of another configuration or of other text, or another process is at it; a failure later on is
    recorded in the folder before it is raised again."""
    run_dir = Path(run_dir)
    require_fit(config, ranks.world)
    existing = existing_record(run_dir, config, home)
    if existing is not None and existing.status in FINISHED:
        files.remove_halves(run_dir, f".{records.CHECKPOINT}.*")  # killed at the very last of its writes
        return existing
    initial = beginning(config, home, run_dir, initial)  # that it is there and fits
    config = with_kept(config, home, run_dir, initial)
    require_room_for_run(config, run_dir, home.cache)
    inputs = prepare_inputs(config, home, display=display)
    with files.claimed(run_dir):
        existing = existing_record(run_dir, config, home)  # again: another process may have ended it meanwhile
        if existing is not None and existing.status in FINISHED:
            return existing
        if existing is not None:
            require_same_text(existing, inputs.corpus, run_dir)
        torch.set_num_threads(ranks.threads(config.runtime.threads or 1))
        run = _Run(config, run_dir, home, identity or Identity(), tracker, parent, ranks)
        at_fault = blaming(run.record.head, "; mend it: the run goes on from its last checkpoint")
        with interruption.listening(), ranks.occupied("run", config.model_dump_json()), at_fault:
            try:
                return run.go(inputs, existing, initial, on_evaluation, display or NoDisplay())
            except (KeyboardInterrupt, PeerLostError) as error:
                if run.record.status not in FINISHED:
                    run.end("interrupted", str(error) or "interrupted; the same command continues it")
                raise
            except (OutputError, HubUnreachableError) as error:  # no room: perhaps not to be recorded either
                with contextlib.suppress(OutputError):
                    run.end("interrupted", f"{error}; when that is mended the same command continues it")
                raise
            except FAILURES as error:
                run.end("failed", failure_in_words(error, run.record.head))
                raise


class _Run:
    """The state of one execution: its record and where everything goes."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        home: Home,
        identity: Identity,
        tracker: Tracker | None,
        parent: str | None,
        ranks: Ranks,
    ) -> None:
        self.config, self.run_dir, self.home = config, run_dir, home
        self.tracker, self.parent, self.ranks = tracker, parent, ranks
        self.usage = Recorder(run_dir)
        self.started = time.perf_counter()
        self.wall_before = 0.0
        self.published_flops = 0.0
        self.step_groups: dict[str, float] = {}
        """Of the whole run."""
        self.record = RunRecord(
            run_id=run_dir.name,
            name=identity.name or run_dir.name,
            study=identity.study,
            role=identity.role,
            trial=identity.trial,
            seed=config.seed,
            kind=config.model.kind,
            head=config.model.head.kind if isinstance(config.model, CalmConfig) else None,
            config_hash=config.hash(),
            created=_now(),
            environment=machine.environment(config, ranks.world),
        )

    def go(
        self,
        inputs: Inputs,
        existing: RunRecord | None,
        initial: Path | None,
        on_evaluation: Callable[[Evaluation], None] | None,
        display: Display,
    ) -> RunRecord:
        if existing is not None:
            self.record.created = existing.created
            self.record.call_curve, self.record.tradeoff = existing.call_curve, existing.tradeoff
            self.wall_before = existing.wall_seconds
            self.record.environment = code_state.session(existing.environment, self.record.environment)
        self.record.environment |= begin(self.config, initial, existing, self.run_dir)
        records.write_config(self.run_dir, self.config.to_yaml())
        code_state.keep(self.run_dir)
        self.record.diagnostics = diagnostics.diagnose_config(self.config)
        self.record.diagnostics += diagnostics.diagnose_beginning(self.record.environment)
        for warning in self.record.diagnostics:
            display.note(f"{warning.code}: {warning.message}")
        self.write()
        self.usage.start()
        corpus, grid, schedule = inputs.corpus, inputs.grid, inputs.schedule
        self.describe(corpus, schedule, grid)
        try:
            model, report = build_model(
                self.config, corpus, self.home, run_dir=self.run_dir, display=display, ranks=self.ranks
            )
        except NotFiniteError as error:
            self.record.diagnostics.append(diagnostics.not_finite(str(error)))
            return self.end("not_finite", str(error))
        if report is not None:
            keep_autoencoder(model, report, self.run_dir)
            self.record.diagnostics += diagnostics.diagnose_autoencoder(report)
            why = collapsed(report, corpus.tokens[HELD_OUT]) if self.config.train.stop_diverged else None
            if why is not None:
                self.record.diagnostics.append(diagnostics.collapsed(why, self.config.train.init_from))
                return self.end("collapsed", why)
        num_chunks = use_cached_targets(model, self.config, corpus, self.home)
        if num_chunks:
            cost = flops.encoder_cost(self.config, num_chunks, trained=False)
            self.record.compute["target_table_flops"] = cost.total
        self.record.parameters = model.parameter_groups()
        self.write()
        self.deliver()
        share_model(model, self.ranks)
        folder = self.run_dir / records.CHECKPOINT
        with contextlib.closing(Trainer(model, self.config, schedule, corpus, folder, self.ranks)) as trainer:
            status, reason = self.train(trainer, grid, on_evaluation, display)
        with self.ranks.others_wait(self.config.runtime.threads or 1):
            return self.finish(status, reason, trainer, grid, display)

    def describe(self, corpus: Corpus, schedule: Plan, grid: Grid) -> None:
        """Fill in what is known before training."""
        described = flops.describe(self.config, corpus.vocab_size)
        names = ("infer_flops_per_token", "infer_flops_per_token_published", "autoencoder_train_flops")
        self.record.compute = {name: described[name] for name in names if name in described}
        self.published_flops = described["train_flops_published"]
        self.step_groups = step_groups(self.config, corpus.vocab_size)
        self.record.data_hash = corpus.hash
        self.record.eval_fingerprint = grid.fingerprint
        self.record.num_steps = schedule.num_steps
        keep_lineage(self.run_dir, corpus, self.config)
        self.keep_background(floors(corpus, self.config.eval, grid, self.home.cache))
        self.write()

    def keep_background(self, background: Background) -> None:
        """The n-gram tables on the scored windows, and what of those the training text holds."""
        self.record.floors, self.record.overlap = background.floors, background.overlap
        write_floors(self.run_dir / FLOORS, background.scores)

    def train(
        self,
        trainer: Trainer,
        grid: Grid,
        on_evaluation: Callable[[Evaluation], None] | None,
        display: Display,
    ) -> tuple[Status, str]:
        if trainer.resume():
            display.note(f"continued after step {trainer.position.step} of {trainer.plan.num_steps}")
        trainer.before_save = lambda: run_logs.flush(self.run_dir)
        position = trainer.position
        run_logs.forget_after(self.run_dir, position.step, evaluated=not position.pending)
        if trainer.position.step < trainer.plan.num_steps:
            self.record.call_curve, self.record.tradeoff = [], []
        earlier = records.read_evaluations(self.run_dir)
        self.record.final = earlier[-1] if earlier else None
        scored = earlier[-1].brier.num_windows if earlier else None
        if scored is not None and scored > len(grid.windows):  # to a wished-for error, before the interruption
            more = evaluation_grid(self.config.eval, trainer.corpus, num_windows=scored)
            self.keep_background(floors(trainer.corpus, self.config.eval, more, self.home.cache))
        schedule, before = trainer.plan, records.read_train_points(self.run_dir)
        watcher = Watcher(warmup_steps=schedule.warmup_steps, earlier=before)

        def record_point(point: TrainPoint) -> None:
            files.append_json_line(self.run_dir / records.METRICS, point.model_dump())
            if self.config.train.stop_diverged:
                watcher.see(point)

        def evaluate_now(current: Trainer) -> Evaluation:
            step = current.position.step
            last = step == schedule.num_steps
            adaptive = last and self.config.eval.target_se is not None
            display.stage("evaluating (windows)", grid.capacity if adaptive else len(grid.windows))
            scores = evaluate(
                current.model,
                self.config.eval,
                grid,
                corpus=trainer.corpus,
                to_target=last,
                progress=lambda done, wanted: display.advance(done),
                phase=phase_after(
                    step,
                    schedule.num_steps,
                    warmup_steps=schedule.warmup_steps,
                    decay_steps=schedule.decay_steps,
                ),
                step=step,
                tokens=step * schedule.tokens_per_step,
                flops=step * schedule.flops_per_step,
            )
            evaluation = scores.evaluation
            self.keep_sample(current, evaluation)
            files.append_json_line(self.run_dir / records.EVALUATIONS, evaluation.model_dump())
            write_positions(self.run_dir / POSITIONS, scores.positions)
            if len(scores.grid.windows) > len(grid.windows):
                self.keep_background(floors(trainer.corpus, self.config.eval, scores.grid, self.home.cache))
            self.record.final = evaluation
            self.progress(current)
            self.write()
            display.note(run_logs.evaluation_line(evaluation))
            self.deliver()
            return evaluation

        decide = on_evaluation or (lambda evaluation: None)
        try:
            trainer.train(log=record_point, evaluate=evaluate_now, decide=decide, display=display)
        except StopRun as stop:
            return "pruned", str(stop)
        except NotFiniteError as error:
            self.record.diagnostics.append(diagnostics.not_finite(str(error)))
            return "not_finite", str(error)
        except DivergedError as error:
            self.record.diagnostics.append(diagnostics.diverged(str(error)))
            return "diverged", str(error)
        return "completed", ""

    def finish(self, status: Status, reason: str, trainer: Trainer, grid: Grid, display: Display) -> RunRecord:
        done = records.read_evaluations(self.run_dir)
        self.record.final = done[-1] if done else None
        if (last := self.record.final) is not None:
            paired = above_floors(self.run_dir)
            self.record.diagnostics += diagnostics.diagnose_evaluation(last, self.record.floors, paired)
        if self.record.overlap is not None:
            self.record.diagnostics.extend(diagnostics.diagnose_overlap(self.record.overlap))
        points = records.read_train_points(self.run_dir)
        self.record.diagnostics += diagnostics.diagnose_training(self.config, points, trainer.plan.warmup_steps)
        usable = status not in BAD_NUMBERS
        if usable and isinstance(trainer.model, Calm):
            if status == "completed":
                self.record.bottleneck = bottleneck(trainer.model, self.config.eval, grid.windows, grid.positions)
            if identical_draws(trainer.model, self.config.eval, grid):
                self.record.diagnostics.append(diagnostics.identical_draws())
        if status == "completed":
            compare_sampling(
                trainer.model, self.config, grid, trainer.corpus.vocab_size, self.record, self.write, display
            )
        self.progress(trainer)
        record = self.end(status, reason)
        if usable:
            # last of all: without the optimizer's state a run that is not recorded as finished could not go on
            with contextlib.suppress(OutputError):  # the record is written, the last checkpoint is whole
                trainer.save(finished=True)
        return record

    def progress(self, trainer: Trainer) -> None:
        position, schedule = trainer.position, trainer.plan
        self.record.step = position.step
        self.record.tokens = position.step * schedule.tokens_per_step
        self.record.train_seconds = position.train_seconds
        self.record.tokens_per_second = self.record.tokens / max(position.train_seconds, 1e-9)
        share = position.step / max(schedule.num_steps, 1)
        self.record.compute["train_flops"] = position.step * schedule.flops_per_step
        self.record.compute["train_flops_published"] = share * self.published_flops
        for group, flops_of_step in self.step_groups.items():
            self.record.compute[f"{group}_train_flops"] = position.step * flops_of_step

    def keep_sample(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """A text to look at; it may fail without the run."""
        step, tokens = evaluation.step, evaluation.tokens
        try:
            sample = sample_text(trainer.model, trainer.corpus, self.config, step=step, tokens=tokens)
        except FAILURES as error:
            log.warning("%s: no text could be sampled at step %d: %s", self.run_dir, step, error)
            return
        if sample is not None:
            run_logs.keep_sample(self.run_dir, sample)

    def end(self, status: Status, reason: str) -> RunRecord:
        self.record.status, self.record.reason = status, reason
        self.record.finished = _now()
        self.usage.stop()
        if status in FINISHED:
            self.draw()  # before the record says so: who mirrors finished runs finds them whole
        self.write()
        self.deliver(final=True)
        return self.record

    def draw(self) -> None:
        try:
            run_plots.draw(self.run_dir, self.record.floors, self.record.call_curve, self.record.tradeoff)
        except Exception as error:
            log.warning("%s: its figures could not be drawn: %s", self.run_dir, error)

    def write(self) -> None:
        self.record.wall_seconds = self.wall_before + time.perf_counter() - self.started
        records.write_record(self.run_dir, self.record)

    def deliver(self, *, final: bool = False) -> None:
        """Mirror the folder; an outage is the tracker's to report, not the run's to fail on."""
        if self.tracker is None:
            return
        from workbench.tracking import deliver_at_work, link

        deliver_at_work(self.tracker, self.run_dir, parent=self.parent, final=final)
        found = link(self.run_dir)
        if found is not None and found != self.record.mlflow:
            self.record.mlflow = found
            records.write_record(self.run_dir, self.record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
