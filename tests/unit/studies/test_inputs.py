"""The study ``inputs``: three input modes, all else equal."""

import pytest

from studies import find_studies
from studies.space import baseline_config, setting_config
from studies.spec import freeze
from workbench import flops
from workbench.config_file import load_config
from workbench.schedule import plan

STUDY = find_studies()["inputs"]
MODES = {"tokens", "latent", "both"}
PRESETS = pytest.mark.parametrize("preset", ["quick", "cpu"])


def configs(preset):
    spec = freeze(STUDY, preset)
    return [setting_config(spec, setting).resolved() for setting in spec.start]


@PRESETS
def test_every_mode_is_trained_for_every_k_with_all_else_equal(preset):
    made = configs(preset)
    sizes = {config.chunk_size for config in made}
    assert sizes == ({4, 2} if preset == "cpu" else {4})
    for k in sizes:
        same = [config for config in made if config.chunk_size == k]
        assert {config.model.input_mode for config in same} == MODES
        assert len(same) == len(MODES)
        assert {config.autoencoder.latent_dim for config in same} == {16 * k}
        assert len({c.model.model_copy(update={"input_mode": "tokens"}).model_dump_json() for c in same}) == 1
        assert len({c.autoencoder.model_dump_json() for c in same}) == 1
    assert freeze(STUDY, preset).trials == len(made)


@PRESETS
def test_feedback_is_not_searched_because_no_score_depends_on_it(preset):
    assert "model.latent_feedback" not in freeze(STUDY, preset).space
    assert {config.model.latent_feedback for config in configs(preset)} == {"reencoded"}
    assert "latent_feedback" in STUDY.question


@PRESETS
def test_the_budget_is_equal_compute_and_latent_inputs_have_more_steps(preset):
    spec = freeze(STUDY, preset)
    steps, spent = {}, []
    for config in (*configs(preset), *(baseline_config(spec, name).resolved() for name in spec.baselines)):
        made = plan(config, flops.vocab_size(config))
        spent.append(made.num_steps * made.flops_per_step)
        if config.is_calm:
            steps[config.chunk_size, config.model.input_mode] = made.num_steps
    assert max(spent) / min(spent) < 1.01
    for k in {k for k, _ in steps}:
        assert steps[k, "latent"] > steps[k, "tokens"] >= steps[k, "both"]
    assert steps[4, "latent"] / steps[4, "tokens"] == pytest.approx(1.15, abs=0.01)


def test_two_workers_do_not_wait_for_one_autoencoder():
    first, second = configs("cpu")[:2]
    assert (first.chunk_size, first.autoencoder) != (second.chunk_size, second.autoencoder)


def test_the_first_setting_is_the_tuned_recipe():
    tuned, first = load_config("tuned-calm").resolved(), configs("cpu")[0]
    assert (first.model, first.optim, first.autoencoder) == (tuned.model, tuned.optim, tuned.autoencoder)
    assert first.train.train_flops == tuned.train.train_flops
    assert freeze(STUDY, "cpu").seeds >= 2


def test_the_published_findings_are_stated_beforehand():
    for finding in ("4.70", "3.25", "in between", "more steps"):
        assert finding in STUDY.question
