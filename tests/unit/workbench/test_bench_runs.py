"""Measured generation: what is measured, counted and refused. Times themselves are not tested."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.suites.small import build_baseline, build_calm, small_config
from workbench import bench_runs, flops
from workbench.bench_runs import BenchRow, BenchSettings, Spread, bench, counted_flops, usable_samplers
from workbench.data import Corpus
from workbench.errors import ConfigError
from workbench.records import RunRecord
from workbench.saved_runs import SavedRun

QUICK = BenchSettings(num_texts=3, num_tokens=8, repeats=2, budget=200)


def saved_run(corpus: Corpus, **fields: Any) -> SavedRun:
    config = small_config(**fields)
    build = build_calm if config.is_calm else build_baseline
    kind = config.model.kind
    return SavedRun(
        config=config,
        record=RunRecord(run_id="x", name="some run", kind=kind, config_hash="x", created="2026-01-01"),
        model=build(config, vocab_size=258),
        corpus=corpus,
        step=1,
        tokens=1,
        train_flops=1.0,
        phase="constant",
    )


@pytest.fixture(scope="module")
def rows(tiny_corpus: Corpus) -> list[BenchRow]:
    return bench(saved_run(tiny_corpus), QUICK)


@pytest.mark.slow
def test_every_sampler_of_a_calm(rows: list[BenchRow]) -> None:
    assert [row.sampler for row in rows] == ["plain", "noise", "batch", "exact"]
    assert [row.temperature for row in rows] == [1.0, None, 0.5, 0.5]
    plain, noise, batch, exact = rows
    assert (plain.calls_per_chunk, noise.calls_per_chunk, batch.calls_per_chunk) == (1, 1, 32)
    assert (noise.noise_scale, batch.batch_size, plain.batch_size) == (0.5, 32, None)
    assert 1 < exact.calls_per_chunk <= exact.drawn_per_chunk
    for row in rows:
        assert (row.run, row.kind, row.head, row.chunk_size, row.network_calls) == (
            "some run",
            "calm",
            "energy",
            4,
            1,
        )
        assert (row.context, row.num_tokens, row.num_texts, row.repeats) == (16, 8, 3, 2)
        assert (row.threads, row.dtype, row.device) == (torch.get_num_threads(), "float32", "cpu")
        assert 0 < row.seconds_per_token.low <= row.seconds_per_token.median <= row.seconds_per_token.high
        assert row.tokens_per_second.median > 0
        assert row.peak_memory > 10**7
        assert row.complete


def test_flops_are_those_that_are_counted_at_the_mean_context(rows: list[BenchRow], tiny_corpus: Corpus) -> None:
    config = small_config()
    config = config.model_copy(update={"eval": config.eval.model_copy(update={"context_len": 20})})
    for row in rows:
        assert row.flops_per_token == flops.infer_flops_per_token(config, 258)
        drawn = round(row.drawn_per_chunk)
        assert row.sampler_flops_per_token == flops.sample_flops_per_token(config, 258, num_samples=drawn)
        achieved = row.sampler_flops_per_token / row.seconds_per_token.median
        assert row.flops_per_second == pytest.approx(achieved)
    assert rows[2].sampler_flops_per_token > 10 * rows[0].sampler_flops_per_token


def test_the_context_is_at_most_a_training_block(tiny_corpus: Corpus) -> None:
    saved = saved_run(tiny_corpus)
    assert counted_flops(saved, 500.0, 1.0) == counted_flops(saved, 32.0, 1.0)
    row = bench(saved, BenchSettings(samplers=("plain",), context=100, num_tokens=8, repeats=1, num_texts=1))[0]
    assert row.context == 28


def test_a_baseline(tiny_corpus: Corpus) -> None:
    (row,) = bench(saved_run(tiny_corpus, baseline=True), QUICK)
    assert (row.sampler, row.temperature, row.head, row.network_calls) == ("softmax", 0.5, None, None)
    assert row.flops_per_token == row.sampler_flops_per_token


def test_what_a_run_cannot_use_is_left_out(tiny_corpus: Corpus) -> None:
    calm, baseline = saved_run(tiny_corpus), saved_run(tiny_corpus, baseline=True)
    both = BenchSettings(samplers=("batch", "softmax"), temperature=0.25, batch_sizes=(8, 64))
    words = [[str(choice) for choice in usable_samplers(saved, both)] for saved in (calm, baseline)]
    assert words == [
        ["batch N = 8 at temperature 0.25", "batch N = 64 at temperature 0.25"],
        ["softmax at temperature 0.25"],
    ]
    with pytest.raises(ConfigError, match="some run: sampler exact is for a CALM"):
        bench(baseline, BenchSettings(samplers=("exact",)))


def test_prompts_are_held_out_text(tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[Any] = []
    generation = bench_runs.Generation

    def watched(model: Any, texts: Any, **more: Any) -> Any:
        prompts.append(texts)
        return generation(model, texts, **more)

    monkeypatch.setattr(bench_runs, "Generation", watched)
    bench(saved_run(tiny_corpus), BenchSettings(samplers=("plain",), num_texts=2, num_tokens=4, repeats=1))
    assert [len(texts) for texts in prompts] == [2, 2, 1, 1], "a pass to warm up and one that is timed, each"
    text = tiny_corpus.tokens["validation"]
    assert np.array_equal(prompts[0][0], text[:16])
    assert np.array_equal(prompts[0][1], text[-16:])


def test_a_pass_ends_when_its_time_is_over(tiny_corpus: Corpus) -> None:
    settings = BenchSettings(samplers=("plain",), num_texts=2, num_tokens=400, repeats=1, seconds=1e-9)
    (row,) = bench(saved_run(tiny_corpus), settings)
    assert not row.complete
    assert math.isfinite(row.tokens_per_second.median)


def test_progress_is_shown(tiny_corpus: Corpus) -> None:
    class Seen:
        def __init__(self) -> None:
            self.stages: list[tuple[str, int]] = []
            self.done: list[int] = []

        def stage(self, name: str, total: int) -> None:
            self.stages.append((name, total))

        def advance(self, done: int, **values: float) -> None:
            self.done.append(done)

        def saved(self, done: int) -> None:
            raise AssertionError

        def note(self, text: str) -> None:
            raise AssertionError

    seen = Seen()
    settings = BenchSettings(samplers=("plain",), num_texts=2, num_tokens=4, repeats=2)
    bench(saved_run(tiny_corpus), settings, display=seen)
    assert seen.stages == [("some run: plain", 6)]
    assert seen.done == [2, 3, 5, 6]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_texts": 0}, "num_texts must be at least 1, 0 given"),
        ({"context": 0}, "context must be at least 1"),
        ({"seconds": 0.0}, "seconds must be above 0"),
        ({"samplers": ("greedy",)}, "sampler must be one of"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"batch_sizes": (0,)}, "batch_size must be at least 1"),
        ({"noise_scale": -1.0}, "noise_scale must be at least 0"),
    ],
)
def test_settings_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchSettings(**fields)


def test_a_context_longer_than_the_text(tiny_corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="a context of 1,000,000 tokens is longer than the held-out text"):
        bench(saved_run(tiny_corpus), BenchSettings(context=1_000_000))


def test_one_line_of_a_table(rows: list[BenchRow]) -> None:
    flat = rows[0].flat()
    assert flat["seconds_per_token_median"] == rows[0].seconds_per_token.median
    assert not any(isinstance(value, dict) for value in flat.values())
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
