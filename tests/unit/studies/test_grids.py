"""The studies that run a grid: what varies, what follows, and that only that differs."""

import pytest

from studies import find_studies
from studies.space import baseline_config, setting_config
from studies.spec import freeze
from workbench import flops
from workbench.config_file import flatten, load_config
from workbench.schedule import plan

GRIDS = {
    "chunk_size": {"model.chunk_size", "model.backbone.width"},
    "scaling": {"model.chunk_size", "model.backbone.width", "train.train_flops"},
    "latent_dim": {"autoencoder.latent_dim"},
    "kl_clip": {"autoencoder.kl_floor", "autoencoder.kl_weight"},
    "autoencoder": {
        "autoencoder.kl_floor",
        "autoencoder.kl_weight",
        "autoencoder.token_dropout",
        "autoencoder.latent_dropout",
    },
    "domains": {"model.chunk_size", "data.corpus"},
}
CASES = [(name, preset) for name in GRIDS for preset in ("quick", "cpu")]
CASE = pytest.mark.parametrize(("name", "preset"), CASES)


def spec_of(name, preset):
    return freeze(find_studies()[name], preset)


def spent(config):
    resolved = config.resolved()
    schedule = plan(resolved, flops.vocab_size(resolved))
    return schedule.num_steps * schedule.flops_per_step


@CASE
def test_only_what_is_varied_and_what_follows_differs(name, preset):
    spec = spec_of(name, preset)
    assert set(spec.space) == GRIDS[name]
    assert len(spec.start) == spec.trials == len({tuple(s.items()) for s in spec.start})
    given = [(key, value) for rows in spec.follows.values() for row in rows.values() for key, value in row.items()]
    followers = {key for key, _ in given if len({value for other, value in given if other == key}) > 1}
    trees = [flatten(setting_config(spec, setting).to_dict()) for setting in spec.start]
    differing = {key for key in trees[0] if len({str(tree[key]) for tree in trees}) > 1}
    assert differing == {n for n in spec.space if len(spec.space[n].choices) > 1} | followers


@CASE
def test_every_run_gets_its_budget_and_ends_with_a_decay(name, preset):
    spec = spec_of(name, preset)
    configs = [setting_config(spec, setting) for setting in spec.start]
    configs += [baseline_config(spec, cell) for cell in spec.baselines]
    for config in configs:
        assert 1 <= spent(config) / config.train.train_flops < 1.02
        assert config.optim.decay_fraction == 0.5
        assert config.eval.split == ("test" if preset == "cpu" else "validation")
    if name != "scaling":
        assert len({config.train.train_flops for config in configs}) == 1


@CASE
def test_the_recipe_is_the_tuned_one(name, preset):
    """Rate and batch in vectors are the same at every size and K; the baselines have their own."""
    spec, tuned = spec_of(name, preset), load_config("tuned-calm")
    for setting in spec.start:
        config = setting_config(spec, setting)
        assert config.optim == tuned.optim
        assert config.model.head == tuned.model.head
        assert config.model.init == tuned.model.init
    baseline = load_config("tuned-baseline")
    for cell in spec.baselines:
        config = baseline_config(spec, cell)
        assert config.optim.kind == baseline.optim.kind
        assert config.optim.batch_positions == baseline.optim.batch_positions
        if config.model.backbone.num_layers == baseline.model.backbone.num_layers:
            assert config.optim == baseline.optim


@pytest.mark.parametrize("preset", ["quick", "cpu"])
@pytest.mark.parametrize("name", ["chunk_size", "scaling", "domains"])
def test_the_latent_dimension_is_in_proportion_to_the_chunk(name, preset):
    spec = spec_of(name, preset)
    for setting in spec.start:
        config = setting_config(spec, setting)
        assert config.autoencoder.latent_dim == 16 * config.chunk_size


@pytest.mark.parametrize("preset", ["quick", "cpu"])
def test_scaling_crosses_sizes_budgets_and_models(preset):
    """Without every combination size and data could not be told apart; the baselines have the same ones."""
    spec = spec_of("scaling", preset)
    widths, budgets = (spec.space[n].choices for n in ("model.backbone.width", "train.train_flops"))
    cells = [baseline_config(spec, cell) for cell in spec.baselines]
    assert {(c.model.backbone.width, c.train.train_flops) for c in cells} == {
        (width, budget) for width in widths for budget in budgets
    }
    if preset == "cpu":
        assert len(widths) >= 3
        assert len(budgets) >= 4
        assert budgets[-1] / budgets[0] >= 20
        assert spec.space["model.chunk_size"].choices == (1, 2, 4, 8)


def test_the_autoencoder_study_switches_each_regulariser_off_and_all():
    spec = spec_of("autoencoder", "quick")
    first, *others = spec.start
    published = {"kl_floor": 0.5, "kl_weight": 0.001, "token_dropout": 0.15, "latent_dropout": 0.15}
    assert first == {f"autoencoder.{name}": value for name, value in published.items()}
    changed = [{name for name in first if setting[name] != first[name]} for setting in others]
    assert sorted(map(len, changed)) == [1, 1, 1, 1, 4]
    assert set.union(*[c for c in changed if len(c) == 1]) == set(first)
    assert len(spec_of("autoencoder", "cpu").start) == 24


@pytest.mark.parametrize("preset", ["quick", "cpu"])
def test_every_text_of_the_domains_has_a_baseline(preset):
    spec = spec_of("domains", preset)
    corpora = {baseline_config(spec, cell).data.corpus for cell in spec.baselines}
    assert corpora == set(spec.space["data.corpus"].choices)


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_the_question_and_what_would_count_against_it_are_stated(name):
    study = find_studies()[name]
    assert study.question.endswith((".", "?"))
    assert "noise" in study.against or "opposite order" in study.against
    assert len(study.against) > 100


@CASE
def test_the_rate_is_checked_at_the_best_setting(name, preset):
    """A study that draws a conclusion looks at how far it hangs on the learning rate."""
    assert spec_of(name, preset).check_names == ("lr-x0.5", "lr-x2")
