"""The study ``correlation``: what its question needs is in its presets."""

from collections import Counter

import pytest

from studies import find_studies
from studies.space import baseline_config, distinct_inputs
from studies.spec import freeze
from workbench import flops
from workbench.config_file import load_config
from workbench.schedule import plan

STUDY = find_studies()["correlation"]
SIZES = {(64, 2), (96, 2), (128, 2), (128, 4)}


def configs(preset):
    spec = freeze(STUDY, preset)
    return {name: baseline_config(spec, name).resolved() for name in spec.baselines}


def text_of(config):
    return config.data.corpus, config.data.tokenizer.kind


@pytest.mark.parametrize(
    ("preset", "texts"),
    [
        ("quick", {("shakespeare", "byte"), ("kjv", "byte")}),
        ("cpu", {(corpus, kind) for corpus in ("shakespeare", "kjv") for kind in ("byte", "bpe")}),
    ],
)
def test_every_size_is_trained_on_every_text(preset, texts):
    """A cell with another cell's text or size, as a slip of copying would make it, breaks a text's figure."""
    made = configs(preset)
    assert Counter(text_of(c) for c in made.values()) == dict.fromkeys(texts, len(SIZES))
    sizes = {}
    for name, config in made.items():
        backbone = config.model.backbone
        corpus, kind = text_of(config)
        assert name == f"{corpus}-{kind}-d{backbone.width}-l{backbone.num_layers}"
        sizes.setdefault((corpus, kind), set()).add((backbone.width, backbone.num_layers))
    assert all(found == SIZES for found in sizes.values())
    assert len(list(distinct_inputs(freeze(STUDY, preset)))) == len(texts)


@pytest.mark.parametrize("preset", ["quick", "cpu", "gpu"])
def test_nothing_is_searched_and_all_checkpoints_are_of_one_kind(preset):
    """A decay, a checkpoint within the warm-up, or unequal rules of evaluation would mix kinds of points."""
    spec = freeze(STUDY, preset)
    assert not spec.searches
    made = configs(preset)
    assert not any(c.is_calm for c in made.values())
    for config in made.values():
        steps = plan(config, flops.vocab_size(config))
        assert steps.decay_steps == 0
        assert steps.evaluation_steps[0] >= steps.warmup_steps
        assert len(steps.evaluation_steps) == config.train.num_evaluations
    for rule in ("context_len", "min_context", "grid_stride", "split", "num_samples"):
        assert len({getattr(c.eval, rule) for c in made.values()}) == 1
    per_text = Counter((text_of(c), c.eval.num_windows) for c in made.values())
    assert len(per_text) == len({text for text, _ in per_text})


def test_the_budget_is_equal_compute():
    for preset in ("quick", "cpu"):
        spent = []
        for config in configs(preset).values():
            steps = plan(config, flops.vocab_size(config))
            spent.append(steps.num_steps * steps.flops_per_step)
        assert max(spent) / min(spent) < 1.01


def test_the_cpu_preset_has_ten_checkpoints_on_windows_of_256_tokens():
    for config in configs("cpu").values():
        assert config.train.num_evaluations == 10
        assert (config.eval.context_len, config.train.block_len) == (256, 256)
        assert config.eval.num_windows >= 256


def test_the_gpu_preset_has_the_published_settings():
    """Equal to the single-run presets of the same names but for the points of evaluation."""
    for name, config in configs("gpu").items():
        published = load_config(name).resolved()
        assert config.model == published.model
        assert config.optim == published.optim
        assert (config.train.train_tokens, config.train.block_len) == (
            published.train.train_tokens,
            published.train.block_len,
        )
        assert config.data == published.data
        assert config.eval == published.eval


def test_the_gpu_presets_text_can_be_the_users():
    own = {"data.corpus": "json:mine.jsonl", "data.hub": None, "data.tokenizer": {"kind": "bpe"}}
    spec = freeze(STUDY, "gpu", overrides=own)
    assert {baseline_config(spec, name).data.corpus for name in spec.baselines} == {"json:mine.jsonl"}


def test_question_and_what_counts_against_it_are_stated_beforehand():
    assert "cross-entropy" in STUDY.question
    assert "-0.9" in STUDY.against
