"""The study ``energy``: one of N, M and alpha is changed at a time, at equal compute."""

import pytest

from studies import find_studies
from studies.space import baseline_config, setting_config
from studies.spec import freeze
from workbench import flops
from workbench.config_file import load_config
from workbench.schedule import plan

STUDY = find_studies()["energy"]
N, M, ALPHA = "model.head.num_samples", "model.head.num_targets", "model.head.alpha"
PRESETS = pytest.mark.parametrize("preset", ["quick", "cpu"])


def configs(preset):
    spec = freeze(STUDY, preset)
    return [(setting, setting_config(spec, setting).resolved()) for setting in spec.start]


def budget(config):
    return plan(config, flops.vocab_size(config))


@PRESETS
def test_the_settings_differ_from_the_first_in_one_parameter(preset):
    spec = freeze(STUDY, preset)
    first = spec.start[0]
    assert set(spec.space) == {N, M, ALPHA}
    assert [first[N], first[ALPHA]] == [8, 1.0]  # the published values
    for setting in spec.start[1:]:
        assert set(setting) == set(first)
        assert sum(setting[name] != first[name] for name in first) == 1
    assert len({tuple(setting.items()) for setting in spec.start}) == len(spec.start)
    for name, dimension in spec.space.items():  # every value is met with the others as in the first
        assert {setting[name] for setting in spec.start} == set(dimension.choices)
    assert spec.trials == len(spec.start)  # so that nothing else is trained


def test_the_cpu_preset_has_the_values_of_the_question():
    space = freeze(STUDY, "cpu").space
    assert space[N].choices == (2, 4, 8, 16)
    assert space[M].choices == (1, 16, 100)
    assert {0.8, 1.0, 1.25, 1.5} <= set(space[ALPHA].choices)
    assert min(space[ALPHA].choices) < 1.0
    assert freeze(STUDY, "cpu").seeds >= 2
    assert freeze(STUDY, "cpu").check_names == ("lr-x0.5", "lr-x2")


@PRESETS
def test_every_parameter_has_an_effect(preset):
    """On the quadric distance alpha has none: resolving would give three settings one configuration."""
    made = configs(preset)
    assert all(config.model.head.distance == "power" for _, config in made)
    assert len({config.hash() for _, config in made}) == len(made)
    for setting, config in made:
        head = config.model.head
        assert [head.num_samples, head.num_targets, head.alpha] == [setting[N], setting[M], setting[ALPHA]]


@PRESETS
def test_the_budget_is_equal_compute_and_a_larger_n_has_fewer_steps(preset):
    made = configs(preset)
    spec = freeze(STUDY, preset)
    all_configs = [config for _, config in made]
    all_configs += [baseline_config(spec, name).resolved() for name in spec.baselines]
    spent = [budget(c).num_steps * budget(c).flops_per_step for c in all_configs]
    assert max(spent) / min(spent) < 1.01
    by_n = {setting[N]: budget(config).num_steps for setting, config in made if setting[ALPHA] == 1.0}
    assert list(dict(sorted(by_n.items())).values()) == sorted(by_n.values(), reverse=True)
    if preset == "cpu":  # what the question says
        assert by_n[16] / by_n[8] == pytest.approx(2 / 3, abs=0.02)
        assert by_n[2] / by_n[8] == pytest.approx(1.5, abs=0.1)


def test_the_first_setting_is_the_tuned_recipe_with_the_published_distance():
    tuned = load_config("tuned-calm").resolved()
    first = configs("cpu")[0][1]
    assert first.optim == tuned.optim
    assert first.autoencoder == tuned.autoencoder
    assert first.train.train_flops == tuned.train.train_flops
    head = tuned.model.head
    wanted = {"num_blocks": head.num_blocks, "num_samples": head.num_samples, "num_targets": head.num_targets}
    assert {name: getattr(first.model.head, name) for name in wanted} == wanted
    assert first.model.model_copy(update={"head": head}) == tuned.model


def test_the_published_findings_are_stated_beforehand():
    for finding in ("4.37", "4.70", "4.72", "fewer", "alpha below 1", "alpha = 2"):
        assert finding in STUDY.question
    assert "gradient_norm" in STUDY.against
