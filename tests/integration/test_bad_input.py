"""Bad input of every kind through the command line, generated; and by name what once ended in a traceback.

``tests/chaos/bad_inputs.py`` gives thousands of them; here are a few of every kind."""

from __future__ import annotations

import os
import string
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import yaml
from hypothesis.configuration import set_hypothesis_home_dir
from rich.console import Console

from analysis.table import load_runs
from studies.display import final_table
from studies.progress import TrialRow
from tests.suites import bad_inputs as bad
from tests.suites import bad_kinds
from tests.suites.bad_bench import Bench
from tests.suites.run_folders import make_run_folder
from tests.suites.watched_place import Place, foreign_elements
from workbench import files, records
from workbench.corpora import clean
from workbench.errors import RunError
from workbench.given_files import require_regular
from workbench.positions import POSITIONS, read_positions
from workbench.tokenizer import LONGEST_WORD, BpeTokenizer
from workbench.yaml_reading import read_yaml

QUICK = ("configuration", "assignment", "table", "parquet", "launch name", "corpus path")
"""Kinds whose commands take a few hundredths of a second."""
EACH = 12
FEW = 3
"""Examples of the others."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))  # it keeps tables of characters there
    return Bench(Place(tmp_path_factory.mktemp("place")))


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run of a good configuration measures for seconds how fast the machine trains it."""
    monkeypatch.setattr("workbench.speed.training_flops_per_second", lambda *_: None)


@pytest.fixture
def calm(bench: Bench) -> Any:
    return bench.place.calm


@pytest.mark.slow
@pytest.mark.parametrize("name", [kind[0] for kind in bad_kinds.KINDS])
def test_generated_input_is_answered(bench: Bench, name: str) -> None:
    """Neither a traceback nor a file outside the home, whatever is given."""
    _, _, inputs, use, *_ = next(kind for kind in bad_kinds.KINDS if kind[0] == name)
    num = EACH if name in QUICK else FEW

    @hypothesis.settings(
        max_examples=num,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(inputs)
    def answered(given: Any) -> None:
        assert use(bench, given) == []
        assert bench.place.strays() == []

    before, bench.short, bench.lists = bench.commands, True, 0
    answered()
    assert bench.commands >= before + num // 2


def test_the_watch_sees_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    (place.home / "run.txt").touch()
    (place.home.parent / "stray.txt").touch()
    assert [Path(path).name for path in place.strays()] == ["stray.txt"]
    assert foreign_elements('<p title="a" onclick="x">b</p><a href=" java\nscript:x">c</a><img src=x>') != []
    monkeypatch.setattr("workbench.cli.app", lambda: 1 / 0)
    assert "ZeroDivisionError" in (place.calm("train").problem or "")


class TestYaml:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("seed: !!int five", "a value cannot be read: invalid literal"),
            ("seed: !!bool maybe", "a value cannot be read: 'maybe'"),
            ("seed: !!timestamp x", "a value cannot be read"),
            ("seed: 2020-13-45", "month must be in 1..12"),
            ("seed: " + "9" * 5000, "Exceeds the limit"),
            ("seed: 1" + "0" * 400, "a whole number of"),
            ("seed: 1\nseed: 2", "'seed' stands twice in one section"),
            ("model: {kind: calm}\nmodel: {}", "'model' stands twice"),
            ("&a [*a]", "nested more than 40 levels deep"),
            ("[" * 1500 + "]" * 1500, "nested too deeply"),
            (bad.bomb(), "aliases counted as often as they are used"),
            ('name: "a\\0b"', "text with a NUL"),
            ('name: "\\ud800"', "half of a surrogate pair"),
            ("x" * 2_000_000, "a configuration has at most"),
            ("name: !!binary jgAA", r"bytes \(!!binary\), b'\\x8e\\x00\\x00', where text is wanted"),
            ("{space: {seed: {choices: [!!binary jgAA]}}}", "where text is wanted"),
            ("? !!binary jgAA\n: 1", "where text is wanted"),
            ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ],
    )
    def test_everything_wrong_is_a_yaml_error(self, text: str, words: str) -> None:
        with pytest.raises(yaml.YAMLError, match=words):
            read_yaml(text)

    def test_aliases_and_merges_are_read_as_before(self) -> None:
        text = "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n"
        assert read_yaml(text) == yaml.safe_load(text)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("calm: 1", "unknown field calm"),  # the tag of a union, once taken out of the location
            ("model: {calm: 1}", "unknown field model.calm"),
            ("model: {head: {energy: 1}}", "unknown field model.head.energy"),
            ("model: {head: {kind: flow, solver: [x]}}", "solver"),  # a list asked whether it is in a set
            ("model: {chunk_size: true}", "chunk_size: true given where a number"),
            ("seed: 1" + "0" * 30, "seed: input should be less than or equal to"),
            ("model: {backbone: {width: 1" + "0" * 20 + "}}", "width: input should be less than or equal to"),
        ],
    )
    def test_a_configuration_is_refused_by_name(self, bench: Bench, calm: Any, text: str, words: str) -> None:
        ended = calm("train", bench.place.write(text.encode(), ".yaml"), "--dry-run")
        assert (ended.problem, ended.code) == (None, 2)
        assert words in ended.err

    def test_a_message_is_cut_and_cannot_style_the_terminal(self, bench: Bench, calm: Any) -> None:
        long = calm("train", bench.place.write(b"seed: [" + b"1, " * 5_000 + b"1]", ".yaml"), "--dry-run")
        assert len(long.err) < 500
        name = '"\\e[31mred": 1'
        assert "\x1b" not in calm("train", bench.place.write(name.encode(), ".yaml"), "--dry-run").err


class TestFiles:
    @pytest.fixture
    def pipe(self, tmp_path: Path) -> Path:
        os.mkfifo(tmp_path / "pipe")
        return tmp_path / "pipe"

    def test_a_pipe_is_not_waited_for(self, bench: Bench, calm: Any, pipe: Path) -> None:
        for arguments in (["train", pipe, "--dry-run"], ["plan", "--flops=1e15", "--data", pipe]):
            ended = calm(*arguments)
            assert (ended.problem, ended.code) == (None, 2)
        for read in (files.read_json, files.read_json_lines, read_positions):
            with pytest.raises((OSError, RunError), match="a pipe, socket or device"):
                read(pipe)

    @pytest.mark.parametrize(
        "name", ["~nobody-here", "text:~nobody-here", "json:~nobody-here/x:text", "text:a\\0b"]
    )
    def test_a_corpus_of_a_user_who_is_not_there(self, calm: Any, bench: Bench, name: str) -> None:
        ended = calm("train", bench.config, "--tracking-uri=none", f'--set=data.corpus="{name}"')
        assert (ended.problem, ended.code) == (None, 2)

    def test_what_a_shell_opened_is_read(self) -> None:
        require_regular("/dev/fd/0")

    def test_json_that_could_not_be_written_again(self, tmp_path: Path) -> None:
        path = tmp_path / "record.json"
        for text, words in (("[" * 100_000, "nested too deeply"), ('{"a": "\\ud800"}', "surrogates not allowed")):
            path.write_text(text)
            with pytest.raises(ValueError, match=words):
                files.read_json(path)
        path.write_text('{"a": "\\ud83d\\ude42"}')
        assert files.read_json(path) == {"a": "🙂"}


def test_a_stored_configuration_that_leaves_things_open(bench: Bench, calm: Any) -> None:
    run = make_run_folder(bench.place.inputs / "open", num_points=2, num_evaluations=2)
    (run / "config.yaml").write_text("null")
    for command in ("sample", "bench"):
        ended = calm(command, run)
        assert (ended.problem, ended.code) == (None, 2), command
        assert "config.yaml is not the configuration that its run was made with" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x" * 300, "🙂" * 100])
def test_a_name_longer_than_a_folders(bench: Bench, calm: Any, name: str) -> None:
    for arguments in (["sample", name], ["train", "--dry-run", name], ["study", "status", name], ["report", name]):
        ended = calm(*arguments)
        assert (ended.problem, ended.code) == (None, 2), arguments
    ended = calm("train", bench.config, "--tracking-uri=none", f"--name={name}")
    assert (ended.problem, ended.code) == (None, 0)


def test_bytes_that_are_no_text_as_argument(bench: Bench) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli", "sample", b"\xff"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        cwd=bench.place.here,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"is not UTF-8 text" in done.stderr


class TestStudies:
    @pytest.mark.slow
    @pytest.mark.parametrize("content", ["null", "5", "{}", '{"spec": 5, "storage": 5}', "{", '{"study": null}'])
    def test_a_damaged_study_file_is_an_error(self, bench: Bench, calm: Any, content: str) -> None:
        folder = bench.place.home / "broken"
        folder.mkdir(exist_ok=True)
        (folder / "study.json").write_text(content)
        for command in ("status", "retry", "run"):
            ended = calm("study", command, "broken")
            assert (ended.problem, ended.code) == (None, 2), command
        assert "did you mean" in calm("study", "status", "brokn").err
        (folder / "study.json").unlink()

    @pytest.mark.parametrize(
        "name", ["a/b", "..", "-rf", "[bold]", "<b>", "x" * 101, "a\nb", "🙂", "=1", "a.", "x:y"]
    )
    def test_a_name_that_makes_no_folder_is_refused(self, calm: Any, name: str) -> None:
        ended = calm("study", "run", "chunk_size", f"--name={name}")
        assert (ended.problem, ended.code) == (None, 2)
        assert "wants a plain name for a folder" in ended.err

    def test_an_empty_preset_is_none_of_them(self, calm: Any) -> None:
        assert "has no preset ''" in calm("study", "run", "chunk_size", "--preset=").err

    def test_a_launch_outside_the_home_is_not_read(self, bench: Bench, calm: Any) -> None:
        (bench.place.inputs / "study.json").write_text("{}")
        assert "no study or launch" in calm("study", "run", "../inputs").err

    def test_marks_in_names_are_no_styles(self, capsys: pytest.CaptureFixture[str]) -> None:
        row = TrialRow(
            label="[/]", state="fail", score=None, params="", reason="[red]x[/bold]", run_id="[/x]", seconds=1
        )

        class State:
            searches = False

            def of_state(self, *_: str) -> Iterator[TrialRow]:
                return [row]  # type: ignore[return-value]

        console = Console(width=200)
        console.print(final_table(State()))  # type: ignore[arg-type]
        out = capsys.readouterr().out
        assert all(text in out for text in ("[/]", "[/x]"))


class TestReport:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("brier", [1.0, 2.0, 3.0]),
            ("brier_se", [1.0]),
            ("weak_orders", [7]),
            ("brierlm_se", -1.0),
            ("brierlm", 1e9),
        ],
    )
    def test_a_run_that_cannot_be_true_is_left_out(self, tmp_path: Path, field: str, value: Any) -> None:
        for name in ("good", "bad"):
            run = make_run_folder(tmp_path / "s" / name, num_points=2, num_evaluations=2, num_windows=8)
        record = records.read_record(run)
        assert record.final is not None
        brier = record.final.brier.model_copy(update={field: value})
        final = record.final.model_copy(update={"brier": brier})
        records.write_record(run, record.model_copy(update={"final": final}))
        table = load_runs(tmp_path, ["s"])
        assert table.runs["folder"].tolist() == ["good"]
        assert any("s/bad was left out: its files are damaged" in warning for warning in table.warnings)

    def test_a_folder_whose_name_is_no_text(self, tmp_path: Path) -> None:
        make_run_folder(tmp_path / "s" / "good", num_points=2, num_evaluations=2, num_windows=8)
        os.mkdir(os.fsencode(tmp_path / "s") + b"/\xff")
        assert any("is not UTF-8" in warning for warning in load_runs(tmp_path, ["s"]).warnings)

    def test_a_pipe_for_scores_is_a_warning(self, tmp_path: Path) -> None:
        run = make_run_folder(tmp_path / "s" / "good", num_points=2, num_evaluations=2, num_windows=8)
        (run / POSITIONS).unlink()
        os.mkfifo(run / POSITIONS)
        assert any("pipe" in warning for warning in load_runs(tmp_path, ["s"]).warnings)


class TestTime:
    """Work that grew with the square of a length."""

    @pytest.mark.slow
    def test_two_hundred_thousand_tiny_documents(self, bench: Bench, calm: Any) -> None:
        """The least of three: where other processes have the caches of the machine, the same work takes longer."""
        letters = string.ascii_letters + string.digits
        lines = "".join(f'{{"text": "{letter}"}}\n' for letter in letters)

        def seconds(attempt: int) -> float:
            text = lines * (200_000 // len(letters)) + f'{{"text": "{attempt}"}}\n'
            corpus = f'--set=data.corpus="json:{bench.place.write(text.encode(), ".jsonl")}"'
            began = time.process_time()
            ended = calm("train", bench.config, "--tracking-uri=none", corpus, f"--name=tiny-ones-{attempt}")
            assert (ended.problem, ended.code) == (None, 0), ended.err
            return time.process_time() - began

        assert any(seconds(attempt) < 8 for attempt in range(3))

    @pytest.mark.parametrize("text", ["a" + " " * 300_000 + "b", "e" + "\u0301\u0323" * 60_000, "\n" * 300_000])
    def test_cleaning(self, text: str) -> None:
        began = time.perf_counter()
        clean(text)
        assert time.perf_counter() - began < 5

    def test_cleaning_is_as_before(self) -> None:
        assert clean("a \t\u00a0\nb  c ") == "a\nb  c"
        assert clean("e\u0323\u0301x") == unicodedata.normalize("NFC", "e\u0323\u0301x")

    @pytest.mark.parametrize("letter", ["x", "7", " ", "!", "_", "é"])
    def test_one_endless_word(self, letter: str) -> None:
        text = "a word " + letter * (3 * LONGEST_WORD + 5)
        tokenizer = BpeTokenizer.train([text * 3], 300)
        assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_texts_without_one_have_the_same_tokens(self) -> None:
        text = "the king rides at night. " * 50
        tokenizer = BpeTokenizer.train([text], 300)
        assert np.array_equal(tokenizer.encode(text), np.array(tokenizer._bpe.encode(text).ids) + 2)
