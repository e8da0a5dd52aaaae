"""What older versions stored is read, keeps its hash and can be resumed; what newer ones stored is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml

from tests.suites.old_runs import EARLIER_HASH, EVALUATION, HASH, write_old_run
from tests.suites.run_folders import make_run_folder
from workbench import config_file, formats, records
from workbench.config import RunConfig, content_hash
from workbench.config_file import is_same_run, load_config, stored_config, verified_config
from workbench.errors import ConfigError, RunError, StudyError
from workbench.formats import Format
from workbench.head_sections import Since
from workbench.sections import Positive, TrainConfig

LADDER = Format(
    3,
    StudyError,
    {0: lambda tree: {**tree, "path": [*tree.get("path", []), 0]}, 2: lambda tree: {**tree, "last": tree["path"]}},
)
"""A number without a migration of its own (1) differs in nothing."""

NEXT = formats.RUN + 1


class TestNumbers:
    @pytest.mark.parametrize(
        ("stored", "wanted"),
        [
            ({}, {"path": [0], "last": [0]}),
            ({"format": 0, "path": [7]}, {"path": [7, 0], "last": [7, 0]}),
            ({"format": 1, "path": [7]}, {"path": [7], "last": [7]}),
            ({"format": 3, "x": 1}, {"x": 1}),
        ],
    )
    def test_older_ones_climb_step_by_step(self, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
        before = json.dumps(stored)
        assert LADDER.read(stored, "here") == wanted
        assert json.dumps(stored) == before

    def test_what_says_none_may_count_as_something_else(self) -> None:
        assert LADDER.read({"x": 1}, "here", unnumbered=3) == {"x": 1}

    def test_a_newer_one_is_refused_with_the_remedy(self) -> None:
        with pytest.raises(
            StudyError, match=r"^here was written by a newer workbench \(format 4, this one reads up"
        ):
            LADDER.read({"format": 4}, "here")
        with pytest.raises(StudyError, match=r"git pull in its checkout"):
            LADDER.read({"format": 4}, "here")

    @pytest.mark.parametrize("found", ["1", -1, 1.0, True, None, [1], {}])
    def test_garbage_is_refused(self, found: object) -> None:
        with pytest.raises(StudyError, match=r"here: format is .* a number from 0 to 3 is wanted"):
            LADDER.read({"format": found}, "here")

    def test_what_is_written_is_read_as_it_was(self) -> None:
        tree = LADDER.numbered({"b": 1})
        assert list(tree) == ["format", "b"]
        assert LADDER.read(tree, "here") == {"b": 1}

    def test_a_line_of_this_version_is_left_as_it_is(self) -> None:
        line = json.loads(EVALUATION)
        once = formats.evaluation_line(line)
        assert {"head_loss", "head_loss_shuffled", "head_loss_gain_se"} <= set(once)
        assert formats.evaluation_line(once) == once


class TestOldRuns:
    def test_everything_is_read(self, tmp_path: Path) -> None:
        run_dir = write_old_run(tmp_path / "old")
        record = records.read_record(run_dir)
        assert record.format == formats.RUN
        assert record.final is not None
        assert record.final.head_loss == 7.7153
        assert records.read_evaluations(run_dir) == [record.final]
        records.write_record(run_dir, record)
        assert json.loads((run_dir / "record.json").read_text())["format"] == formats.RUN
        assert records.read_record(run_dir) == record

    def test_the_same_settings_have_the_hash_of_then(self, tmp_path: Path) -> None:
        """So that the same command finds the run, and goes on with it."""
        path = write_old_run(tmp_path / "old") / "config.yaml"
        asked = load_config(path).resolved()
        assert asked.hash() == HASH
        assert is_same_run(path, HASH, asked)

    def test_what_came_since_is_as_it_was_then(self, tmp_path: Path) -> None:
        """Nothing ended a run whose loss had exploded."""
        path = write_old_run(tmp_path / "old") / "config.yaml"
        config = stored_config(path)
        assert not config.train.stop_diverged
        assert load_config(path).train.stop_diverged, "somebody's own file means this version"
        assert verified_config(path, HASH) == config
        assert is_same_run(path, HASH, config)
        path.write_text(config.to_yaml())
        assert stored_config(path) == config, "written anew it is the same"

    def test_a_run_from_before_some_fields_is_recognised(self, tmp_path: Path) -> None:
        """Its hash was taken of fewer fields."""
        now = stored_config(write_old_run(tmp_path / "old") / "config.yaml")
        path = write_old_run(tmp_path / "earlier", earlier=True) / "config.yaml"
        assert EARLIER_HASH != HASH
        assert stored_config(path) == now
        assert is_same_run(path, EARLIER_HASH, now)
        other = now.model_copy(update={"seed": 1})
        assert not is_same_run(path, EARLIER_HASH, other)

    @pytest.mark.parametrize("earlier", [False, True])
    def test_a_configuration_that_was_changed_afterwards_is_not(self, tmp_path: Path, earlier: bool) -> None:
        run_dir = write_old_run(tmp_path / "old", earlier=earlier)
        path = run_dir / "config.yaml"
        path.write_text(path.read_text().replace("clip: 1.0", "clip: 2.0"))
        with pytest.raises(RunError, match=r"config\.yaml is not the configuration that its run was made with"):
            verified_config(path, records.read_record(run_dir).config_hash)

    def test_a_baselines_hash_leaves_the_autoencoder_out(self, tmp_path: Path) -> None:
        tree = {"model": {"kind": "baseline", "init": "fan_in"}, "train": {"train_tokens": 7}, "seed": 3}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**tree, "name": "b", "autoencoder": {"steps": 5}}))
        verified_config(path, content_hash(tree))


class TestNewerRuns:
    def test_a_record_is_refused(self, tmp_path: Path) -> None:
        run_dir = make_run_folder(tmp_path / "run")
        text = (run_dir / "record.json").read_text()
        assert text.startswith(f'{{\n "format": {formats.RUN},')
        (run_dir / "record.json").write_text(text.replace(f'"format": {formats.RUN}', f'"format": {NEXT}'))
        said = rf"record\.json was written by a newer workbench \(format {NEXT}, .* up to {formats.RUN}\)"
        with pytest.raises(RunError, match=said):
            records.read_record(run_dir)

    def test_a_configuration_is_refused_also_as_somebodys_own(self, tmp_path: Path) -> None:
        path = make_run_folder(tmp_path / "run") / "config.yaml"
        assert yaml.safe_load(path.read_text())["format"] == formats.RUN
        load_config(path)
        path.write_text(path.read_text().replace(f"format: {formats.RUN}", f"format: {NEXT}"))
        for read in (stored_config, load_config):
            with pytest.raises(RunError, match=rf"config\.yaml was written by a newer workbench \(format {NEXT},"):
                read(path)

    def test_a_field_that_is_not_known_is_named(self, tmp_path: Path) -> None:
        path = make_run_folder(tmp_path / "run") / "config.yaml"
        path.write_text(path.read_text().replace("  clip: 1.0\n", "  clip: 1.0\n  look_ahead: 3\n"))
        with pytest.raises(
            RunError, match=r"unknown field .*look_ahead.*\n.*a newer workbench may have written it"
        ):
            stored_config(path)
        with pytest.raises(ConfigError, match=r"unknown field .*look_ahead"):
            load_config(path)

    def test_what_is_missing_or_damaged_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"config\.yaml cannot be read: .*No such file"):
            stored_config(tmp_path / "config.yaml")
        (tmp_path / "config.yaml").write_text("- a list")
        with pytest.raises(RunError, match=r"a mapping of sections is wanted"):
            stored_config(tmp_path / "config.yaml")


class NextTrain(TrainConfig):
    """Where the workbench might go: a field whose default is not what was done before it."""

    accumulate: Annotated[Positive, Since(NEXT, before=1)] = 4
    shuffle: Annotated[bool | None, Since(NEXT, before=None)] = None
    careful: Annotated[bool, Since(NEXT, before=False, left_out=True)] = True


class NextRun(RunConfig):
    train: NextTrain = NextTrain(train_tokens=2_000_000)


def with_train(config: RunConfig, **changes: Any) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_file, "RunConfig", NextRun)
    monkeypatch.setattr(formats, "RUN", NEXT)
    monkeypatch.setattr(formats, "CONFIG", Format(NEXT, RunError))


@pytest.mark.usefixtures("next_version")
class TestTheNextVersion:
    @pytest.mark.parametrize("number", range(NEXT))
    def test_keeps_the_hash_of_older_runs(self, tmp_path: Path, number: int) -> None:
        path = write_old_run(tmp_path / "old") / "config.yaml"
        if number:
            path.write_text(f"format: {number}\n{path.read_text()}")
        config = stored_config(path)
        assert isinstance(config.train, NextTrain)
        assert (config.train.accumulate, config.train.careful) == (1, False), "as it was done then"
        assert is_same_run(path, HASH, config)
        asked = with_train(config, careful=True, stop_diverged=True)
        assert asked.hash() == asked.resolved().hash() == HASH
        assert is_same_run(path, HASH, asked)

    def test_a_new_value_is_another_experiment(self, tmp_path: Path) -> None:
        path = write_old_run(tmp_path / "old") / "config.yaml"
        config = with_train(stored_config(path), careful=True, stop_diverged=True)
        for name, value in (("accumulate", 4), ("shuffle", True), ("careful", False)):
            changed = with_train(config, **{name: value})
            assert changed.hash() != HASH
            assert not is_same_run(path, HASH, changed)
            (tmp_path / "new.yaml").write_text(changed.to_yaml())
            assert stored_config(tmp_path / "new.yaml") == changed, "what is written is read as it is"

    def test_somebodys_own_file_means_the_new_default(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("train: {train_tokens: 7}\n")
        config = load_config(tmp_path / "mine.yaml")
        assert isinstance(config.train, NextTrain)
        assert config.train.accumulate == 4


def test_a_newer_folder_is_left_out_of_a_report_with_the_reason(tmp_path: Path) -> None:
    from analysis.table import load_runs

    for name, file in (("a", None), ("b", "record.json"), ("c", "config.yaml")):
        run_dir = make_run_folder(tmp_path / "study" / name, study="study")
        if file is not None:
            text = (run_dir / file).read_text()
            for colon in ('": ', ": "):
                text = text.replace(f"format{colon}{formats.RUN}", f"format{colon}{NEXT}")
            (run_dir / file).write_text(text)
    write_old_run(tmp_path / "study" / "old")
    (make_run_folder(tmp_path / "study" / "z-rerun", study="study") / "rerun.json").write_text("{}")
    (tmp_path / "study" / "study.json").write_text('{"format": 9, "question": "?"}')
    table = load_runs(tmp_path)
    assert sorted(table.runs["folder"]) == ["a", "old"]
    assert not any(name.startswith("format") for name in table.configs["a"])
    assert [warning.split(" was written")[0] for warning in table.warnings[:4]] == [
        "study/study.json cannot be read: study.json",
        "study/b was left out: record.json",
        "study/c was left out: config.yaml",
        "study/z-rerun was left out: it repeats another run (calm rerun)",
    ]
