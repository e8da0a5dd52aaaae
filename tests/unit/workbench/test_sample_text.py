"""The text that is sampled at each evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.suites.small import build_baseline, build_calm, small_config
from workbench.config import RunConfig
from workbench.data import Corpus
from workbench.grid import evaluation_grid
from workbench.language_model import LanguageModel
from workbench.records import SampleText
from workbench.sample_text import sample_text


def with_tokens(config: RunConfig, num: int, **rules: Any) -> RunConfig:
    return config.model_copy(update={"eval": config.eval.model_copy(update={"sample_tokens": num, **rules})})


def calm(num: int = 20, **fields: Any) -> tuple[LanguageModel, RunConfig]:
    config = small_config(**fields)
    return build_calm(config, vocab_size=258), with_tokens(config, num)


def test_continues_the_first_scored_window(tiny_corpus: Corpus) -> None:
    model, config = calm()
    found = sample_text(model, tiny_corpus, config, step=7, tokens=700)
    assert found is not None
    window = evaluation_grid(config.eval, tiny_corpus).windows[0]
    assert found.prompt == tiny_corpus.tokenizer.decode(window[:64])
    assert (found.step, found.tokens, found.sampler, found.temperature) == (7, 700, "batch, N = 32", 0.5)
    assert 0 < len(found.text) <= 20
    assert SampleText.model_validate_json(found.model_dump_json()) == found


def test_depends_on_seed_and_step_alone(tiny_corpus: Corpus) -> None:
    model, config = calm()

    def text(step: int, config: RunConfig) -> str:
        found = sample_text(model, tiny_corpus, config, step=step, tokens=0)
        assert found is not None
        return found.text

    assert text(3, config) == text(3, config)
    assert text(3, config) != text(4, config)
    assert text(3, config) != text(3, with_tokens(config, 20, seed=1))


def test_none_where_none_is_wanted(tiny_corpus: Corpus) -> None:
    model, config = calm(0)
    assert sample_text(model, tiny_corpus, config, step=1, tokens=1) is None


def test_of_a_baseline(tiny_corpus: Corpus) -> None:
    config = with_tokens(small_config(baseline=True), 20)
    found = sample_text(build_baseline(config, vocab_size=258), tiny_corpus, config, step=1, tokens=1)
    assert found is not None
    assert (found.sampler, found.temperature) == ("softmax", 0.5)


@pytest.mark.parametrize(
    ("head", "sampler", "num_chunks"),
    [
        ({"kind": "flow", "num_calls": 20}, "batch, N = 32", 50),
        ({"kind": "diffusion", "num_calls": 500}, "batch, N = 8", 4),
    ],
)
def test_many_network_calls_get_fewer_samples_and_tokens(
    tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch, head: dict[str, Any], sampler: str, num_chunks: int
) -> None:
    from workbench import sample_text as module

    wanted: list[int] = []
    generate = module.generate

    def watched(*arguments: Any, num_tokens: int, **more: Any) -> Any:
        wanted.append(num_tokens)
        return generate(*arguments, num_tokens=4, **more)

    monkeypatch.setattr(module, "generate", watched)
    model, config = calm(200, head=head)
    found = sample_text(model, tiny_corpus, config, step=1, tokens=1)
    assert found is not None
    assert found.sampler == sampler
    assert wanted == [4 * num_chunks]
