"""The compute accounts of a study before it runs: what is put together, and what each run is charged."""

import json

import pytest
from typer.testing import CliRunner

from studies import find_studies
from studies.show import structures
from studies.spec import freeze
from workbench import flops
from workbench.cli import app
from workbench.compute_account import Counting


def spec_of(name, preset="cpu", **more):
    return freeze(find_studies()[name], preset, **more)


def test_runs_that_differ_in_their_budget_alone_are_one_structure():
    spec = spec_of("scaling")
    found = structures(spec)
    sizes = len(spec.space["model.chunk_size"].choices) * len(spec.space["model.backbone.width"].choices)
    assert sum(len(one.accounts) for one in found) == spec.trials + len(spec.baselines)
    calms = [one for one in found if one.settings]
    assert len(calms) == sizes
    for one in calms:
        assert len({setting["train.train_flops"] for setting in one.settings}) == len(one.settings) == one.num_runs
        assert "train_flops" not in one.label
    assert len({one.label for one in found}) == len(found)


def test_every_setting_and_cell_on_its_own():
    spec = spec_of("scaling")
    every = structures(spec, every=True)
    assert len(every) == spec.trials + len(spec.baselines)
    assert [one.label for one in every[-len(spec.baselines) :]] == list(spec.baselines)


def test_the_accounts_are_those_of_the_runs():
    found = structures(spec_of("heads"), Counting("published"))
    assert {one.accounts[0].head for one in found} == {"energy", "diffusion", "flow", None}
    assert all(account.counting.count == "published" for one in found for account in one.accounts)


@pytest.mark.parametrize("name", ["chunk_size", "domains", "autoencoder"])
def test_shared_out_the_autoencoders_add_up(name):
    """What all runs together are charged is what their autoencoders cost, each once."""
    spec = spec_of(name, seeds=3)
    accounts = [account for one in structures(spec, shared=True) for account in one.accounts]
    charged = 3 * sum(account.training.groups.get("autoencoder", 0.0) for account in accounts)
    per_key = {}
    for setting in spec.start:
        from studies.space import setting_config

        config = setting_config(spec, setting).resolved()
        key = (config.chunk_size, config.data.corpus, config.autoencoder.model_dump_json())
        per_key[key] = flops.autoencoder_train_flops(config, flops.vocab_size(config))
    assert charged == pytest.approx(sum(per_key.values()))


def shown(*arguments):
    result = CliRunner().invoke(app, ["study", "show", *arguments, "--workers", "1", "--threads", "1"])
    assert result.exit_code == 0, result.output
    return result.output


def test_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.show.measured_speed", lambda home: (1e10, "assumed"))
    text = shown("scaling", "--preset", "cpu", "--autoencoder", "shared", "--home", str(tmp_path))
    for words in (
        "parameters by group",
        "training FLOPs by part",
        "inference FLOPs per token after 256",
        "batch 32",
    ):
        assert words in text
    tables = [line for line in text.splitlines() if line.startswith(("chunk_size=", "baseline-", "run "))]
    assert len(tables) > 40
    assert max(len(line.rstrip()) for line in tables) <= 100
    more = ("--count", "published", "--causal", "--autoencoder", "full", "--context", "64", "--length", "32")
    tree = json.loads(shown("heads", "--preset", "cpu", "--json", *more, "--home", str(tmp_path)))
    first = tree["structures"][0]["runs"][0]
    assert first["counting"] == {
        "count": "published",
        "causal": True,
        "autoencoder": "full",
        "context": 64,
        "length": 32,
    }
    assert first["training"]["groups"]["autoencoder"] == first["training"]["autoencoder"] > 0
    assert first["inference"]["positions"] == 64 / first["chunk_size"] + (32 / first["chunk_size"] - 1) / 2


@pytest.mark.parametrize(
    ("option", "value"), [("--count", "measured"), ("--autoencoder", "half"), ("--context", "0")]
)
def test_a_wrong_option_is_one_message(option, value, tmp_path):
    result = CliRunner().invoke(app, ["study", "show", "heads", option, value, "--home", str(tmp_path)])
    assert result.exit_code != 0
    assert value in str(result.exception) + result.output
