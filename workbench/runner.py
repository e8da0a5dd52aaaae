"""One run from a configuration: data, autoencoder, training, evaluation, record.

The run folder (workbench.records) is written first; a tracker mirrors it and may come and go.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from workbench import diagnostics, files, flops, machine, records, run_plots
from workbench.bottleneck import bottleneck
from workbench.build import Inputs, build_model, keep_autoencoder, prepare_inputs, use_cached_targets
from workbench.compute_account import step_groups
from workbench.config import CalmConfig, RunConfig
from workbench.data import Corpus
from workbench.errors import RunError
from workbench.evaluate import Background, Grid, evaluate, evaluation_grid, floors, identical_draws
from workbench.home import Home
from workbench.model import Calm
from workbench.optim import phase_after
from workbench.pairs import PairedDifference, against_floor
from workbench.positions import FLOORS, POSITIONS, read_floors, read_positions, write_floors, write_positions
from workbench.progress import Display, NoDisplay
from workbench.records import FINISHED, Evaluation, RunRecord, Status, TrainPoint
from workbench.sample_text import sample_text
from workbench.sampling_compared import compare_sampling
from workbench.saved_runs import require_same_text
from workbench.schedule import Plan
from workbench.train import NotFiniteError, Trainer

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
    """Everything that was left open filled in for this machine."""
    return machine.resolve(config, home.cache)


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
) -> RunRecord:
    """Run a resolved configuration in ``run_dir``; returns the final record.

    An unfinished run of the same configuration is continued from its checkpoint; a finished one is
    returned as it is. Raises DataError before anything is written, and RunError where the folder holds a
    run of another configuration or of other text, or another process is at it; a failure later on is
    recorded in the folder before it is raised again."""
    run_dir = Path(run_dir)
    existing = _existing(run_dir, config)
    if existing is not None and existing.status in FINISHED:
        return existing
    inputs = prepare_inputs(config, home)
    with files.claimed(run_dir):
        existing = _existing(run_dir, config)  # again: another process may have ended it meanwhile
        if existing is not None and existing.status in FINISHED:
            return existing
        if existing is not None:
            require_same_text(existing, inputs.corpus, run_dir)
        torch.set_num_threads(config.runtime.threads or 1)
        run = _Run(config, run_dir, home, identity or Identity(), tracker, parent)
        try:
            return run.go(inputs, existing, on_evaluation, display or NoDisplay())
        except KeyboardInterrupt:
            if run.record.status not in FINISHED:
                run.end("interrupted", "interrupted; the same command continues it")
            raise
        except Exception as error:
            run.end("failed", f"{type(error).__name__}: {error}")
            raise


def _existing(run_dir: Path, config: RunConfig) -> RunRecord | None:
    if not (run_dir / records.RECORD).exists():
        return None
    record = records.read_record(run_dir)
    if record.config_hash != config.hash():
        raise RunError(
            f"{run_dir} holds a run of another configuration ({record.config_hash}, asked {config.hash()}); "
            "choose another folder or delete it"
        )
    return record


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
    ) -> None:
        self.config, self.run_dir, self.home = config, run_dir, home
        self.tracker, self.parent = tracker, parent
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
            environment=machine.environment(config),
        )

    def go(
        self,
        inputs: Inputs,
        existing: RunRecord | None,
        on_evaluation: Callable[[Evaluation], None] | None,
        display: Display,
    ) -> RunRecord:
        if existing is not None:
            self.record.created = existing.created
            self.record.call_curve, self.record.tradeoff = existing.call_curve, existing.tradeoff
            self.wall_before = existing.wall_seconds
        files.write_atomic(self.run_dir / records.CONFIG, self.config.to_yaml())
        self.record.diagnostics = diagnostics.diagnose_config(self.config)
        for warning in self.record.diagnostics:
            display.note(f"{warning.code}: {warning.message}")
        self.write()
        corpus, grid, schedule = inputs.corpus, inputs.grid, inputs.schedule
        self.describe(corpus, schedule, grid)
        try:
            model, report = build_model(self.config, corpus, self.home, run_dir=self.run_dir, display=display)
        except NotFiniteError as error:
            self.record.diagnostics.append(diagnostics.not_finite(str(error)))
            return self.end("not_finite", str(error))
        if report is not None:
            keep_autoencoder(model, report, self.run_dir)
            self.record.diagnostics += diagnostics.diagnose_autoencoder(report)
        num_chunks = use_cached_targets(model, self.config, corpus, self.home)
        if num_chunks:
            table = flops.encoder_cost(self.config, num_chunks, trained=False)
            self.record.compute["target_table_flops"] = table.total
        self.record.parameters = model.parameter_groups()
        self.write()
        self.deliver()
        trainer = Trainer(model, self.config, schedule, corpus, self.run_dir / records.CHECKPOINT)
        status, reason = self.train(trainer, grid, on_evaluation, display)
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
        trainer.resume()
        self.forget_after(trainer.position.step)
        if trainer.position.step < trainer.plan.num_steps:
            self.record.call_curve, self.record.tradeoff = [], []
        earlier = records.read_evaluations(self.run_dir)
        self.record.final = earlier[-1] if earlier else None
        scored = earlier[-1].brier.num_windows if earlier else None
        if scored is not None and scored > len(grid.windows):  # to a wished-for error, before the interruption
            more = evaluation_grid(self.config.eval, trainer.corpus, num_windows=scored)
            self.keep_background(floors(trainer.corpus, self.config.eval, more, self.home.cache))
        schedule = trainer.plan

        def record_point(point: TrainPoint) -> None:
            files.append_json_line(self.run_dir / records.METRICS, point.model_dump())

        def evaluate_now(current: Trainer) -> Evaluation:
            step = current.position.step
            last = step == schedule.num_steps
            if last:
                adaptive = self.config.eval.target_se is not None
                display.stage("evaluating (windows)", grid.capacity if adaptive else len(grid.windows))
            scores = evaluate(
                current.model,
                self.config.eval,
                grid,
                corpus=trainer.corpus,
                to_target=last,
                progress=lambda done, wanted: display.advance(done) if last else None,
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
            display.note(_line(evaluation))
            self.deliver()
            return evaluation

        def decide(evaluation: Evaluation) -> None:
            if on_evaluation is not None:
                on_evaluation(evaluation)

        try:
            trainer.train(log=record_point, evaluate=evaluate_now, decide=decide, display=display)
        except StopRun as stop:
            return "pruned", str(stop)
        except NotFiniteError as error:
            self.record.diagnostics.append(diagnostics.not_finite(str(error)))
            return "not_finite", str(error)
        return "completed", ""

    def finish(self, status: Status, reason: str, trainer: Trainer, grid: Grid, display: Display) -> RunRecord:
        done = records.read_evaluations(self.run_dir)
        self.record.final = done[-1] if done else None
        if self.record.final is not None:
            found = diagnostics.diagnose_evaluation(self.record.final, self.record.floors, self.above_floors())
            self.record.diagnostics.extend(found)
        if self.record.overlap is not None:
            self.record.diagnostics.extend(diagnostics.diagnose_overlap(self.record.overlap))
        points = records.read_train_points(self.run_dir)
        self.record.diagnostics += diagnostics.diagnose_training(self.config, points, trainer.plan.warmup_steps)
        usable = status != "not_finite"
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
            trainer.save(finished=True)
        return record

    def above_floors(self) -> dict[str, PairedDifference]:
        """The last evaluation minus each n-gram table, at the same positions."""
        scores, tables = read_positions(self.run_dir / POSITIONS), read_floors(self.run_dir / FLOORS)
        pairs = {name: against_floor(scores, tables, name) for name in tables.tables}
        return {name: pair for name, pair in pairs.items() if pair is not None}

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
        except Exception as error:
            log.warning("%s: no text could be sampled at step %d: %s", self.run_dir, step, error)
            return
        if sample is None:
            return
        files.append_json_line(self.run_dir / records.SAMPLES, sample.model_dump())
        text = f"{sample.sampler}, temperature {sample.temperature:g}\n\n{sample.prompt} ⟶ {sample.text}\n"
        files.write_atomic(self.run_dir / records.SAMPLE_TEXTS / f"step-{sample.step:08d}.txt", text)

    def forget_after(self, step: int) -> None:
        """Drop what was recorded after the checkpoint that training continues from."""
        for path in (self.run_dir / records.SAMPLE_TEXTS).glob("step-*.txt"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()
        for name in (records.METRICS, records.EVALUATIONS, records.SAMPLES):
            path = self.run_dir / name
            if path.exists():
                rows = files.read_json_lines(path)
                files.rewrite_json_lines(path, [row for row in rows if row["step"] <= step])

    def end(self, status: Status, reason: str) -> RunRecord:
        self.record.status = status
        self.record.reason = reason
        self.record.finished = _now()
        if status in FINISHED:
            self.draw()  # before the record says so: who mirrors finished runs finds them whole
        self.write()
        self.deliver(final=True)
        return self.record

    def draw(self) -> None:
        try:
            record = self.record
            run_plots.draw(self.run_dir, record.floors, record.call_curve, record.tradeoff)
        except Exception as error:
            log.warning("%s: its figures could not be drawn: %s", self.run_dir, error)

    def write(self) -> None:
        self.record.wall_seconds = self.wall_before + time.perf_counter() - self.started
        records.write_record(self.run_dir, self.record)

    def deliver(self, *, final: bool = False) -> None:
        """Mirror the folder; an outage is the tracker's to report, not the run's to fail on."""
        if self.tracker is None:
            return
        from workbench.tracking import link

        self.tracker.deliver(self.run_dir, parent=self.parent, final=final)
        found = link(self.run_dir)
        if found is not None and found != self.record.mlflow:
            self.record.mlflow = found
            records.write_record(self.run_dir, self.record)


def _line(evaluation: Evaluation) -> str:
    brier = evaluation.brier
    orders = " ".join(f"{value:.2f}" for value in brier.brier)
    extra = f", cross-entropy {evaluation.cross_entropy:.3f}" if evaluation.cross_entropy is not None else ""
    return f"step {evaluation.step} ({evaluation.phase}): BrierLM {brier.words()} (Brier-1…4 {orders} %){extra}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
