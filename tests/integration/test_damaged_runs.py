"""Whole runs with damaged files: refused with the way out, or made anew; the result is that of a sound run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from tests.suites.tiny_runs import tiny_config, traces
from workbench import checkpoint, files, records
from workbench.errors import RunError
from workbench.home import Home
from workbench.records import Evaluation
from workbench.runner import execute
from workbench.saved_runs import load_run
from workbench.tracking import open_tracker

pytestmark = pytest.mark.slow


def stopped(whole: Path, name: str) -> Path:
    """A run that Ctrl-C has ended at its first evaluation, at step 7 of 24."""
    config, home = tiny_config(whole)

    def stop(_: Evaluation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config, home.root / name, home=home, on_evaluation=stop)
    assert checkpoint.read_step(home.root / name / "checkpoint") == 7
    return home.root / name


def require_like_whole(whole: Path, run_dir: Path, home: Home | None = None) -> None:
    config, own = tiny_config(whole)
    assert execute(config, run_dir, home=home or own).status == "completed"
    assert traces(run_dir) == traces(own.root / "whole")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model.safetensors", r"model\.safetensors cannot be loaded: it has [\d,]+ bytes, written were"),
        ("optimizer.safetensors", r"optimizer\.safetensors cannot be loaded: it has [\d,]+ bytes"),
        ("state.json", r"state\.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_without_it_the_run_begins_again(
    whole: Path, name: str, reason: str
) -> None:
    run_dir = stopped(whole, f"damaged-{name}")
    path = run_dir / "checkpoint" / name
    os.truncate(path, path.stat().st_size // 2)
    config, home = tiny_config(whole)
    with pytest.raises(RunError, match=rf"{reason}.* delete that folder to start the run from its beginning"):
        execute(config, run_dir, home=home)
    assert reason.split(r"\.")[0] in records.read_record(run_dir).reason
    shutil.rmtree(run_dir / "checkpoint")
    require_like_whole(whole, run_dir)


def test_a_tampered_position_is_refused(whole: Path) -> None:
    run_dir = stopped(whole, "tampered")
    state = files.read_json(run_dir / "checkpoint" / "state.json")
    position = {name: value for name, value in state.items() if name not in ("format", "files", "sha256")}
    config, home = tiny_config(whole)
    for changes in ({"step": -1}, {"loss_sum": "much"}, {"unknown": 1}, {"num_summed": 0.5}):
        (run_dir / "checkpoint" / "state.json").write_text(json.dumps({**position, **changes}))
        with pytest.raises(RunError, match=rf"state\.json is damaged: {next(iter(changes))} is .*, wanted is"):
            execute(config, run_dir, home=home)


def test_a_checkpoint_of_an_earlier_version_is_continued(whole: Path) -> None:
    run_dir = stopped(whole, "earlier")
    path = run_dir / "checkpoint" / "state.json"
    names = ("step", "train_seconds", "loss_sum", "num_summed", "grad_norm")
    path.write_text(json.dumps({name: files.read_json(path)[name] for name in names}))
    require_like_whole(whole, run_dir)


def test_what_a_power_failure_leaves_in_the_logs_is_forgotten(whole: Path) -> None:
    run_dir = stopped(whole, "power")
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b"\0" * 700 + b'oss": 1.0}\n{"step": 9, "tok')
    with (run_dir / "evaluations.jsonl").open("ab") as file:
        file.write(b'{"step": 14, "tokens": 1\xc3')
    require_like_whole(whole, run_dir)


def without(key: str) -> Callable[[bytes], bytes]:
    def changed(line: bytes) -> bytes:
        row = json.loads(line)
        del row[key]
        return json.dumps(row).encode()

    return changed


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("metrics.jsonl", lambda _: b"{}", r"metrics\.jsonl is damaged: line 1: step is missing"),
        ("metrics.jsonl", without("loss"), r"metrics\.jsonl is damaged: line 1: loss is missing"),
        ("evaluations.jsonl", without("brier"), r"evaluations\.jsonl is damaged: line 1: brier is missing"),
        ("samples.jsonl", without("step"), r"samples\.jsonl is damaged: line 1: step is missing"),
        ("samples.jsonl", without("text"), r"samples\.jsonl is damaged: line 1: text is missing"),
    ],
)
def test_a_damaged_line_is_told_before_a_run_goes_on(
    whole: Path, name: str, change: Callable[[bytes], bytes], words: str
) -> None:
    """Nothing is written, so that the same command continues once the line is mended."""
    run_dir = stopped(whole, f"line-{abs(hash(words))}")
    path = run_dir / name
    sound = path.read_bytes()
    first, rest = sound.split(b"\n", 1)
    path.write_bytes(change(first) + b"\n" + rest)
    before = contents(run_dir)
    config, home = tiny_config(whole)
    with pytest.raises(RunError, match=rf"{words}.*; bring the file back from a copy, or delete that line"):
        execute(config, run_dir, home=home)
    assert contents(run_dir) == before
    assert records.read_record(run_dir).status == "interrupted"
    path.write_bytes(sound)
    require_like_whole(whole, run_dir)


def contents(run_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_what_somebody_has_put_beside_the_texts(whole: Path) -> None:
    run_dir = stopped(whole, "beside")
    folder = run_dir / records.SAMPLE_TEXTS
    (folder / "step-foo.txt").write_text("mine")
    (folder / "step-00000099.txt").write_text("of a session that has got further")
    (folder / "step-00000098.txt").mkdir()
    require_like_whole(whole, run_dir)
    assert (folder / "step-foo.txt").read_text() == "mine"
    assert not (folder / "step-00000099.txt").exists()


def test_what_a_run_can_do_without_fails_nothing(
    whole: Path, tracking_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = stopped(whole, "system")
    (run_dir / "system.jsonl").write_text("{}\n{}\n")
    config, home = tiny_config(whole)
    shutil.copy(tracking_database, home.root / "mlflow.db")
    with closing(open_tracker(None, experiment="single", home=home)) as tracker:
        assert execute(config, run_dir, home=home, tracker=tracker).status == "completed"
    assert "system.jsonl is damaged: line 1: sample is missing" in caplog.text
    assert traces(run_dir) == traces(home.root / "whole")


def test_a_damaged_report_of_the_autoencoder_fails_nothing(whole: Path, tmp_path: Path) -> None:
    config, home = tiny_config(whole)
    message = (
        r"autoencoder\.json is damaged: .* is missing .*; bring it back from a copy, or delete the run's folder"
    )
    run_dir = stopped(whole, "report")
    shutil.copytree(home.root / "whole", tmp_path / "whole")
    for folder, status in ((run_dir, "interrupted"), (tmp_path / "whole", "completed")):
        (folder / records.AUTOENCODER).write_text("{}")
        with pytest.raises(RunError, match=message):
            execute(config, folder, home=home)
        assert records.read_record(folder).status == status


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl", "samples.jsonl"])
def test_a_damaged_log_of_a_finished_run_is_told(whole: Path, tmp_path: Path, name: str) -> None:
    """Its record alone would say that all is well. What a crash leaves behind the last line does no harm."""
    config, home = tiny_config(whole)
    run_dir = tmp_path / "whole"
    shutil.copytree(home.root / "whole", run_dir)
    with (run_dir / name).open("ab") as file:
        file.write(b'{"step": 24, "tok')
    assert execute(config, run_dir, home=home).status == "completed"
    lines = (run_dir / name).read_bytes().split(b"\n")
    (run_dir / name).write_bytes(b"\n".join([lines[0], lines[1][:-9], *lines[2:]]))
    message = (
        rf"{name} is damaged: line 2 is not a JSON object; bring the file back from a copy, or delete that line"
    )
    with pytest.raises(RunError, match=message):
        execute(config, run_dir, home=home)
    assert records.read_record(run_dir).status == "completed"


def test_every_entry_of_the_cache_may_be_damaged(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that begins, with the first, the middle and the last byte of a file in each entry altered."""
    _, home = tiny_config(whole)
    copy = Home(tmp_path / "runs")
    shutil.copytree(home.cache, copy.cache)
    damaged = [path for path in copy.cache.glob("*/[0-9a-f]*/*") if path.name != "manifest.json"]
    assert {path.parent.parent.name for path in damaged} >= {"corpora", "autoencoders", "floors", "posteriors"}
    for number, path in enumerate(damaged):
        content = bytearray(path.read_bytes())
        content[(0, len(content) // 2, len(content) - 2)[number % 3]] ^= 4
        path.write_bytes(content)
    require_like_whole(whole, copy.root / "run", copy)
    entries = {path.parent for path in damaged}
    assert caplog.text.count("it is set aside as") == len(entries)
    for path in damaged:
        original = home.cache / path.relative_to(copy.cache)
        if path.name != "report.json":  # it says how long the training took
            assert path.read_bytes() == original.read_bytes(), path.name


def test_the_runs_own_autoencoder_damaged(whole: Path) -> None:
    """The model belongs to those weights: others are not put in their place."""
    run_dir = stopped(whole, "autoencoder")
    config, home = tiny_config(whole)
    for name in ("autoencoder.safetensors", "autoencoder.json"):
        content = (run_dir / name).read_bytes()
        (run_dir / name).write_bytes(content[:-9])
        with pytest.raises(RunError, match=rf"{name}.*; bring it back from a copy, or delete the run's folder"):
            execute(config, run_dir, home=home)
        (run_dir / name).write_bytes(content)
    require_like_whole(whole, run_dir)


@pytest.mark.parametrize("section", ["autoencoder", "model"])
def test_a_configuration_without_a_section_is_refused(whole: Path, section: str) -> None:
    """What is left open would be filled in with what is the rule today."""
    _, home = tiny_config(whole)
    run_dir = Path(shutil.copytree(home.root / "whole", home.root / f"without-{section}"))
    tree = yaml.safe_load((run_dir / records.CONFIG).read_text())
    del tree[section]
    (run_dir / records.CONFIG).write_text(yaml.safe_dump(tree))
    with pytest.raises(RunError, match=r"config\.yaml is not the configuration that its run was made with"):
        load_run(run_dir, home)


def test_a_text_that_was_moved_may_be_written_into_the_configuration(whole: Path, tmp_path: Path) -> None:
    _, home = tiny_config(whole)
    run_dir = Path(shutil.copytree(home.root / "whole", home.root / "moved-text"))
    tree = yaml.safe_load((run_dir / records.CONFIG).read_text())
    for text, said in (((whole / "text.txt").read_text(), ""), ("the king " * 8000, "was trained on other text")):
        (tmp_path / "there.txt").write_text(text)
        tree["data"]["corpus"] = f"text:{tmp_path / 'there.txt'}"
        (run_dir / records.CONFIG).write_text(yaml.safe_dump(tree))
        with pytest.raises(RunError, match=said) if said else contextlib.nullcontext():
            assert load_run(run_dir, home).step == 24


def test_a_lost_record_beside_a_checkpoint_is_refused_and_nothing_is_written(whole: Path) -> None:
    """A finished run was marked as failed, in MLflow too."""
    config, home = tiny_config(whole)
    run_dir = Path(shutil.copytree(home.root / "whole", home.root / "lost-record"))
    (run_dir / records.RECORD).unlink()
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(
        RunError, match=r"record\.json is missing beside a checkpoint; bring it back from a copy, or"
    ):
        execute(config, run_dir, home=home)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
