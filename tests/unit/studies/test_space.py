"""The search space is pure: a trial and a specification determine the configuration."""

import pytest
from optuna.trial import FixedTrial

from studies import find_studies
from studies.space import (
    baseline_config,
    cell_seeds,
    check_config,
    distinct_inputs,
    next_seeds,
    setting_config,
    suggest,
    with_seed,
)
from studies.spec import freeze
from tests.suites.cells_only import CELLS
from tests.suites.study_launch import tiny_spec

SETTING = {"model.chunk_size": 2, "autoencoder.latent_dim": 32, "autoencoder.kl_floor": 0.25}


def test_suggest_puts_the_setting_into_the_base():
    spec = tiny_spec()
    config = suggest(FixedTrial(SETTING), spec)
    assert config.chunk_size == 2
    assert config.autoencoder.latent_dim == 32
    assert config.autoencoder.kl_floor == 0.25
    assert config.train.train_flops == 1e11
    assert config.model.backbone.width == 16


def test_suggest_is_pure():
    spec = tiny_spec()
    before = spec.to_dict()
    assert suggest(FixedTrial(SETTING), spec) == suggest(FixedTrial(SETTING), spec)
    assert spec.to_dict() == before


def test_a_value_outside_the_space_is_not_taken():
    with pytest.raises(ValueError, match="8"):
        suggest(FixedTrial({**SETTING, "model.chunk_size": 8}), tiny_spec())


def test_ranges_are_searched_as_numbers():
    spec = tiny_spec(
        space={
            "autoencoder.latent_dim": {"low": 8, "high": 64, "log": True},
            "autoencoder.kl_floor": {"low": 0.0, "high": 1.0},
        }
    )
    trial = FixedTrial({"autoencoder.latent_dim": 23, "autoencoder.kl_floor": 0.37})
    config = suggest(trial, spec)
    assert (config.autoencoder.latent_dim, config.autoencoder.kl_floor) == (23, 0.37)
    assert trial.distributions["autoencoder.latent_dim"].log
    assert type(trial.distributions["autoencoder.latent_dim"]).__name__ == "IntDistribution"
    assert type(trial.distributions["autoencoder.kl_floor"]).__name__ == "FloatDistribution"


def test_a_baseline_has_the_same_budget_data_and_evaluation():
    spec = tiny_spec()
    baseline, calm = baseline_config(spec, "large"), suggest(FixedTrial(SETTING), spec)
    assert not baseline.is_calm
    assert baseline.model.backbone.num_layers == 3
    assert (baseline.train, baseline.data, baseline.eval) == (calm.train, calm.data, calm.eval)


def test_a_cells_own_settings_may_change_text_and_tokenizer():
    text = {"data.corpus": "kjv", "data.tokenizer.kind": "bpe", "data.tokenizer.vocab_size": 512}
    spec = tiny_spec(baselines={"plain": {}, "other": text})
    plain, other = baseline_config(spec, "plain"), baseline_config(spec, "other")
    assert (plain.data.corpus, plain.data.tokenizer.kind) == ("shakespeare", "byte")
    assert (other.data.corpus, other.data.tokenizer.kind, other.data.tokenizer.vocab_size) == ("kjv", "bpe", 512)
    assert other.model_copy(update={"data": plain.data}) == plain


def test_every_text_block_length_and_evaluation_is_named_once():
    """What is checked before a launch: leaving out a cell's own text would let a launch be frozen with a corpus
    that is not there."""
    cells = {
        "same": {"model.backbone.width": 32},
        "kjv": {"data.corpus": "kjv"},
        "kjv-wide": {"data.corpus": "kjv", "model.backbone.width": 32},
        "kjv-bpe": {"data.corpus": "kjv", "data.tokenizer.kind": "bpe"},
        "long": {"train.block_len": 512},
        "many": {"eval.num_windows": 200},
    }
    spec = tiny_spec(baselines=cells)
    assert [whose for whose, _ in distinct_inputs(spec)] == ["", "kjv", "kjv-bpe", "long", "many"]
    assert all(config.is_calm == (whose == "") for whose, config in distinct_inputs(spec))
    alone = tiny_spec(**CELLS, baselines=cells)
    assert [whose for whose, _ in distinct_inputs(alone)] == ["same", "kjv", "kjv-bpe", "long", "many"]
    searched = tiny_spec(space={"data.corpus": {"choices": ["shakespeare", "python-stdlib"]}}, baselines={})
    assert [c.data.corpus for _, c in distinct_inputs(searched)] == ["shakespeare", "python-stdlib"]


def test_a_check_multiplies_the_resolved_rate_only():
    spec = tiny_spec()
    best = suggest(FixedTrial(SETTING), spec)
    assert spec.check_names == ("lr-x0.5", "lr-x2")
    check = check_config(spec, "lr-x2", SETTING)
    assert check.optim.lr == pytest.approx(2 * best.resolved().optim.lr)
    assert check.model_copy(update={"optim": best.optim}) == best


@pytest.mark.parametrize(("given", "matrix"), [({}, 0.02), ({"matrix_lr": 0.03}, 0.06)])
def test_a_check_multiplies_muons_rate_too(given, matrix):
    base = tiny_spec().to_dict()["base"]
    spec = tiny_spec(base={**base, "optim": {"kind": "muon", "lr": 0.01, **given}})
    check = check_config(spec, "lr-x2", SETTING).resolved()
    assert (check.optim.lr, check.optim.matrix_lr) == (pytest.approx(0.02), pytest.approx(matrix))


def test_seed_and_threads_are_set_without_touching_the_rest():
    config = suggest(FixedTrial(SETTING), tiny_spec())
    run = with_seed(config, 3, name="x", threads=2)
    assert (run.seed, run.name, run.runtime.threads) == (3, "x", 2)
    again = with_seed(run, 0, name="x", threads=8)
    assert again.runtime.threads == 2  # a stated number of threads stays


@pytest.mark.parametrize(
    ("num", "used", "seeds"),
    [(1, set(), [0]), (1, {0}, [1]), (2, set(), [0, 1]), (2, {0, 1}, [2, 3]), (1, {4}, [5])],
)
def test_a_setting_seen_before_gets_the_next_seeds(num, used, seeds):
    assert next_seeds(num, used) == seeds


def test_a_baseline_that_says_a_seed_repeats_another():
    cells = {"small": {}, "again": {"seed": 1}, "once-more": {"seed": 2}}
    for num, wanted in ((1, [[0], [1], [2]]), (3, [[0, 1, 2], [3, 4, 5], [6, 7, 8]])):
        spec = tiny_spec(baselines=cells, seeds=num)
        assert [cell_seeds(spec, name) for name in cells] == wanted
        assert cell_seeds(spec, "lr-x2") == list(range(num))
    same = [with_seed(baseline_config(spec, name), 0, name="", threads=1) for name in cells]
    assert same[0] == same[1] == same[2]


@pytest.mark.parametrize("preset", ["quick", "cpu"])
def test_the_first_trials_of_several_workers_need_different_autoencoders(preset):
    """None of them waits while another trains the one autoencoder that all need."""
    spec = freeze(find_studies()["joint"], preset)
    configs = [setting_config(spec, setting) for setting in spec.start[:3]]
    assert len({(c.chunk_size, c.autoencoder) for c in configs}) == 3
