"""The gpu presets of all studies: what they say is so, shown without a network, and built in small."""

import json

import pytest
from typer.testing import CliRunner

from studies import find_studies
from studies.show import on_devices, structures
from studies.space import baseline_config, setting_config
from tests.suites.paper_sizes import VOCAB
from tests.suites.small_studies import gpu_spec, small_spec
from workbench import flops
from workbench.cli import app
from workbench.config_file import load_config
from workbench.device_plan import Devices
from workbench.schedule import plan
from workbench.speed import _untrained

STUDIES = sorted(find_studies())
EVERY = pytest.mark.parametrize("name", STUDIES)
DEVICES = ("--devices", "8", "--device-memory", "80GB", "--device-flops", "312e12", "--utilisation", "0.4")
WIKITEXT_WORDS = {"validation": 217_646, "test": 245_569}
"""Of WikiText-103; no tokenizer makes fewer tokens of them."""


def configs(spec):
    """Of what is run first: settings that are listed, and cells."""
    listed = [setting_config(spec, setting) for setting in spec.start]
    return [*listed, *(baseline_config(spec, cell) for cell in spec.baselines)]


def test_every_study_has_the_three_presets():
    assert len(STUDIES) == 13
    assert all(list(find_studies()[name].load_presets()) == ["quick", "cpu", "gpu"] for name in STUDIES)


@pytest.mark.slow
@EVERY
def test_sizes_and_recipe_are_the_published_ones(name):
    """Backbones are those of the run presets, K has the published blocks and steps, and baselines their recipe."""
    spec = gpu_spec(name)
    sizes = [load_config(f"{kind}-{size}").model.backbone for kind in ("transformer", "calm") for size in "sml"
             if f"{kind}-{size}" != "calm-s"]  # fmt: skip
    published = load_config("calm-m")
    for config in configs(spec):
        assert config.model.backbone in sizes
        k = config.chunk_size
        assert config.train.block_len == 2048 * k
        assert config.optim.batch_positions * k == 2**21
        assert (config.data.tokenizer, config.optim.betas) == (published.data.tokenizer, published.optim.betas)
        if config.is_calm:
            assert config.autoencoder.batch_chunks * k == 512_000
            assert config.autoencoder.steps == published.autoencoder.steps
        if config.data.hub.evaluation is not None:
            assert config.eval.num_windows * config.eval.context_len < WIKITEXT_WORDS[config.eval.split]
    assert spec.description.endswith("needs GPUs")


@EVERY
def test_budgets_are_one_and_as_described(name):
    """In FLOPs; with as many CALM-M takes the tokens that the description says."""
    spec = gpu_spec(name)
    made = configs(spec)
    if name == "correlation":
        assert {config.train.train_tokens for config in made} == {500_000_000_000}
        return
    budgets = {config.train.train_flops for config in made}
    assert len(budgets) == (3 if name == "scaling" else 1)
    published = load_config("calm-m").resolved()
    per_token = flops.train_step_flops(published, 128_256) / flops.tokens_per_step(published)
    said = {"scaling": 1.4e11, "domains": 1.4e10, "autoencoder": 2.5e10}.get(name, 5e10)
    assert max(budgets) / per_token == pytest.approx(said, rel=0.03)
    words = {"scaling": "1.4e11 tokens", "domains": "1.4e10 tokens", "autoencoder": "twentieth"}
    assert words.get(name, "tenth of the published 5e11 tokens") in spec.description


@EVERY
def test_a_run_fits_on_a_device_of_80_gb(name):
    """By the estimate of ``workbench.device_plan``, of the heads that it is for."""
    spec = gpu_spec(name)
    plans = on_devices(spec, structures(spec), Devices(memory=80e9))
    rows = [plan.memory[0] for _, plan in plans if plan.memory]
    assert len(rows) >= 3
    assert not any(row.checkpointing for row in rows)
    micro_batch = spec.base["runtime"]["micro_batch"]
    assert all(row.most_sequences >= micro_batch for row in rows)


def test_the_texts_of_the_domains_are_scored_on_documents_of_their_own():
    spec = gpu_spec("domains")
    made = configs(spec)
    assert {c.data.corpus for c in made if c.is_calm} == {c.data.corpus for c in made if not c.is_calm}
    assert all(c.data.hub.evaluation is None for c in made)
    fields = {(c.data.corpus, c.data.hub.text_field) for c in made}
    assert ("hub:codeparrot/codeparrot-clean", "content") in fields
    assert len(fields) == 3
    assert "open-web-math" in spec.question


@pytest.mark.slow
@EVERY
def test_it_is_shown_without_a_network_or_a_step(name, tmp_path, monkeypatch):
    def tried(*_):
        raise AssertionError("a step was tried")

    monkeypatch.setattr("workbench.speed.training_flops_per_second", tried)
    monkeypatch.setattr("workbench.machine.preferred_dtype", tried)
    monkeypatch.setattr("socket.socket.connect", tried)
    result = CliRunner().invoke(app, ["study", "show", name, "--preset", "gpu", "--home", str(tmp_path), *DEVICES])
    assert result.exit_code == 0, result.exception
    for text in ("needs GPUs", "transformer-m", "memory of one device", "fsdp, checkpointing", "on 8 device(s)",
                 "40% of a device's 3.12e+14"):  # fmt: skip
        assert text in result.output
    assert not list(tmp_path.iterdir())


def test_without_devices_the_speed_is_assumed(tmp_path):
    result = CliRunner().invoke(app, ["study", "show", "heads", "--preset", "gpu", "--home", str(tmp_path)])
    assert result.exit_code == 0, result.exception
    assert "assumed: the model is too large to try a step" in result.output
    assert "memory of one device" not in result.output


def test_the_times_on_devices_as_json(tmp_path):
    """A run has one device, so that no more of them help than there are runs."""
    shown = {}
    for count in ("1", "4", "64"):
        arguments = ["study", "show", "latent_dim", "--preset", "gpu", "--home", str(tmp_path), "--json"]
        result = CliRunner().invoke(app, [*arguments, *DEVICES[2:], "--devices", count])
        shown[count] = json.loads(result.stdout)
    one, four, many = shown.values()
    assert (one["workers"], four["workers"], many["workers"]) == (1, 4, 4 + 3 + 2)
    assert one["total_seconds"] == pytest.approx(4 * four["total_seconds"])
    run = one["structures"][0]["runs"][0]
    assert run["estimated_training_seconds"] == pytest.approx(run["training"]["total"] / (0.4 * 312e12), rel=1e-6)
    assert many["total_seconds"] >= 2 * run["estimated_training_seconds"], "two seeds, one after the other"
    there = [tree["structures"][0]["devices"] for tree in (one, four)]
    assert there[0]["seconds"] == pytest.approx(4 * there[1]["seconds"])
    assert {row["strategy"] for row in there[0]["memory"]} == {"single"}
    assert {row["strategy"] for row in there[1]["memory"]} == {"single", "ddp", "fsdp"}
    assert all(row["most_sequences"] > 0 for row in there[1]["memory"])


@pytest.mark.parametrize("option", [("--device-memory", "much"), ("--devices", "0"), ("--utilisation", "40")])
def test_devices_that_make_no_sense_are_one_message(option, tmp_path):
    given = ["--device-flops", "1e12", *option]
    result = CliRunner().invoke(app, ["study", "show", "heads", *given, "--home", str(tmp_path)])
    assert result.exit_code != 0
    assert option[1] in str(result.exception)


@pytest.mark.slow
@EVERY
def test_a_small_copy_is_frozen_resolved_and_built(name, tmp_path):
    spec = small_spec(name, tmp_path)
    built = set()
    for config in configs(spec):
        resolved = config.resolved()
        assert plan(resolved, VOCAB).num_steps >= 1
        key = (str(resolved.model), resolved.autoencoder.latent_dim)
        if key not in built:
            model = _untrained(resolved, VOCAB)
            made = sum(p.numel() for p in model.network.parameters())
            assert made == flops.parameters(resolved, VOCAB)["total"]
        built.add(key)
