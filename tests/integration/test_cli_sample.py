"""``calm sample`` and ``calm bench``: what they print and refuse."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.suites.command_line import Command
from tests.suites.tiny_runs import BASELINE, tiny_config
from workbench.cli import sample as command

FLOW = {"model.head.kind": "flow", "model.head.num_calls": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs ``energy``, ``flow`` and ``baseline``."""
    from workbench.runner import Identity, execute

    folder = tmp_path_factory.mktemp("sample")
    few = {"train.num_evaluations": 1}
    for name, overrides, sections in (("energy", {}, {}), ("flow", FLOW, {}), ("baseline", {}, BASELINE)):
        config, home = tiny_config(folder, {**few, **overrides}, **sections)
        execute(config, home.single_runs() / name, home=home, identity=Identity(name=name))
    return folder


@pytest.fixture
def calm(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(folder, monkeypatch, capsys)


class TestText:
    @pytest.mark.slow
    @pytest.mark.parametrize("run", ["energy", "flow", "baseline"])
    def test_echoes_the_prompt_and_depends_on_the_seed_alone(self, calm: Command, run: str) -> None:
        texts = [
            calm("sample", run, "--prompt", "the king", "--tokens", "40", "--seed", seed)
            for seed in ("0", "0", "1")
        ]
        assert all(text.code == 0 and text.out.startswith("the king") for text in texts)
        assert texts[0].out == texts[1].out
        assert texts[0].out != texts[2].out
        assert {text.err for text in texts} == {""}

    @pytest.mark.slow
    def test_one_text_is_written_as_it_comes(self, calm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        pieces: list[str] = []
        write = command._write
        monkeypatch.setattr(command, "_write", lambda text: pieces.append(text) or write(text))
        done = calm("sample", "energy", "--prompt", "é", "--tokens", "40", "--sampler", "plain")
        assert pieces[0] == "é"
        assert len(pieces) >= 8
        assert "".join(pieces) == done.out

    def test_several_texts_of_several_prompts(self, calm: Command, tmp_path: Path) -> None:
        (tmp_path / "prompt.txt").write_text("from a file\n", encoding="utf-8")
        prompts = ("--prompt", "the king", "--prompt", "a", "--prompt-file", tmp_path / "prompt.txt")
        done = calm("sample", "energy", *prompts, "--num", "2", "--tokens", "9")
        assert done.code == 0
        beginnings = [part.partition("\n")[2] for part in done.out.split("--- ")[1:]]
        for text, start in zip(
            beginnings, ("the king", "the king", "a", "a", *2 * ("from a file\n",)), strict=True
        ):
            assert text.startswith(start)
        assert "--- 6 of 6" in done.out

    def test_without_a_prompt(self, calm: Command) -> None:
        assert calm("sample", "energy", "--tokens", "8").code == 0

    def test_json(self, calm: Command) -> None:
        arguments = ("--prompt", "the king rides", "--prompt", "x", "--tokens", "10", "--seed", "3", "--json")
        found = json.loads(calm("sample", "energy", *arguments).out)
        assert found["run"] == "energy"
        assert found["sampler"]["kind"] == "batch"
        assert (found["temperature"], found["calls_per_chunk"], found["fallback_chunks"]) == (0.5, 32.0, 0)
        assert (found["seed"], found["chunk_size"], found["window"], found["error"]) == (3, 4, 32, None)
        first, second = found["texts"]
        assert first["prompt"] == "the king rides"
        assert (first["unread_prompt_tokens"], second["unread_prompt_tokens"]) == (2, 0)
        assert 0 < first["num_tokens"] <= 10
        again = json.loads(calm("sample", "energy", *arguments).out)
        assert again["texts"] == found["texts"]

    def test_of_a_long_prompt_it_says_what_is_not_read(self, calm: Command) -> None:
        done = calm("sample", "energy", "--prompt", 50 * "x", "--tokens", "4")
        assert "the first 22 tokens of the prompt are not read: the model sees 32 at most" in done.err

    def test_a_terminal_gets_no_control_characters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(out, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stdout", out)
        command._write("a\n\t\x1b[2Jé")
        assert out.buffer.getvalue().decode() == "a\n\t\ufffd[2Jé"  # type: ignore[attr-defined]

    def test_an_output_that_cannot_show_a_character(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", out)
        command._write("a é \udcff")
        assert out.buffer.getvalue() == b"a ? ?"  # type: ignore[attr-defined]


class TestSamplers:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("--sampler", "plain"),
            ("--sampler", "batch", "--batch-size", "8", "--temperature", "0.3"),
            ("--sampler", "noise", "--noise-scale", "0.2"),
            ("--noise-scale", "0.2"),
            ("--sampler", "exact", "--temperature", "1"),
        ],
    )
    def test_of_a_calm(self, calm: Command, arguments: tuple[str, ...]) -> None:
        done = calm("sample", "flow", "--tokens", "8", *arguments)
        assert done.code == 0, done.err

    def test_without_noise_the_seed_does_not_matter(self, calm: Command) -> None:
        arguments = ("sample", "energy", "--prompt", "the", "--tokens", "20", "--noise-scale", "0", "--seed")
        assert calm(*arguments, "0").out == calm(*arguments, "1").out

    def test_the_heads_own_settings(self, calm: Command) -> None:
        done = calm("sample", "flow", "--tokens", "8", "--json", "--set", "model.head.num_calls=2")
        assert json.loads(done.out)["head"]["num_calls"] == 2
        assert json.loads(calm("sample", "flow", "--tokens", "8", "--json").out)["head"]["num_calls"] == 6

    def test_a_spent_budget(self, calm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        """Warned of before, refused when it happens; what was written stays."""
        arguments = ("--sampler", "exact", "--temperature", "0.2", "--tokens", "400", "--prompt", "the king")
        done = calm("sample", "energy", *arguments, "--budget", "5")
        assert done.code == 2
        warning, error = done.err.splitlines()
        assert "sampler exact at temperature 0.2 needs" in warning
        assert "above the budget of 5: it will probably be spent" in warning
        assert "has spent its budget of 5 calls on one chunk, after" in error
        assert "--fallback (batch decides such chunks)" in error
        assert done.out.startswith("the king")
        found = json.loads(calm("sample", "energy", *arguments, "--budget", "5", "--json").out)
        assert "has spent its budget" in found["error"]
        assert found["texts"][0]["prompt"] == "the king"

    def test_fallbacks_are_counted(self, calm: Command) -> None:
        arguments = ("--sampler", "exact", "--temperature", "0.2", "--budget", "5", "--fallback", "--num", "2")
        done = calm("sample", "energy", "--tokens", "40", *arguments, "--batch-size", "16")
        assert done.code == 0, done.err
        assert "batch will probably decide instead" in done.err
        assert (
            "chunks were beyond the budget of 5 calls and drawn by batch, N = 16: the text is not exact"
            in done.err
        )

    def test_few_calls_are_no_warning(self, calm: Command) -> None:
        done = calm("sample", "energy", "--sampler", "exact", "--temperature", "1", "--tokens", "8")
        assert (done.code, done.err) == (0, "")


class TestRefused:
    """One message, exit code 2."""

    @pytest.mark.parametrize(
        ("run", "arguments", "message"),
        [
            ("baseline", ("--sampler", "exact"), "choose softmax for a token baseline"),
            ("energy", ("--sampler", "softmax"), "a CALM has none; choose batch, exact"),
            ("energy", ("--temperature", "0"), "Greedy text, the limit at 0, is not available"),
            ("energy", ("--temperature", "1.2"), "sampler batch takes temperatures in (0, 1], 1.2 given"),
            ("energy", ("--sampler", "greedy"), "sampler must be one of auto, plain"),
            ("energy", ("--sampler", "noise", "--temperature", "0.5"), "sampler noise has no temperature"),
            ("energy", ("--sampler", "batch", "--noise-scale", "1"), "noise_scale has no effect on sampler batch"),
            ("energy", ("--budget", "10"), "--budget is for --sampler exact, auto given"),
            ("energy", ("--sampler", "plain", "--fallback"), "--fallback is for --sampler exact, plain given"),
            ("energy", ("--sampler", "exact", "--batch-size", "4"), "--batch-size is for --sampler batch"),
            ("energy", ("--batch-size", "0"), "batch_size must be at least 1"),
            ("energy", ("--prompt-file", "nosuchfile"), "cannot read the prompt nosuchfile"),
            ("energy", ("--set", "model.head.num_calls=4"), "the energy head always makes one network call"),
            ("flow", ("--set", "model.head.num_calls=0"), "model.head.num_calls"),
            ("energy", ("--tokens", "0"), "Invalid value for '--tokens'"),
        ],
    )
    def test_sample(self, calm: Command, run: str, arguments: tuple[str, ...], message: str) -> None:
        done = calm("sample", run, *arguments)
        assert done.code == 2, (done.out, done.err)
        assert message in done.err
        assert done.out == ""
        assert "Traceback" not in done.err

    @pytest.mark.parametrize(
        ("run", "arguments", "message"),
        [
            ("baseline", ("--sampler", "exact"), "baseline: sampler exact is for a CALM"),
            ("energy", ("--sampler", "greedy"), "sampler must be one of"),
            ("energy", ("--context", "1000000"), "longer than the held-out text"),
            ("energy", ("--set", "model.chunk_size=2"), "cannot be changed without training anew"),
            ("nosuchrun", (), "no run 'nosuchrun'"),
        ],
    )
    def test_bench(self, calm: Command, run: str, arguments: tuple[str, ...], message: str) -> None:
        done = calm("bench", run, *arguments)
        assert done.code == 2, (done.out, done.err)
        assert message in done.err
        assert "Traceback" not in done.err


class TestBench:
    QUICK = ("--texts", "2", "--tokens", "8", "--repeats", "1", "--budget", "50")

    def test_json_and_csv(self, calm: Command, tmp_path: Path) -> None:
        done = calm("bench", "energy", "baseline", *self.QUICK, "--json", "--csv", tmp_path / "bench.csv")
        assert done.code == 0, done.err
        found: list[dict[str, Any]] = json.loads(done.out)
        assert [(row["run"], row["sampler"]) for row in found] == [
            ("energy", "plain"),
            ("energy", "noise"),
            ("energy", "batch"),
            ("energy", "exact"),
            ("baseline", "softmax"),
        ]
        assert all(row["seconds_per_token"]["median"] > 0 for row in found)
        table = list(csv.DictReader((tmp_path / "bench.csv").open(encoding="utf-8")))
        assert [row["sampler"] for row in table] == [row["sampler"] for row in found]
        assert float(table[0]["flops_per_token"]) == found[0]["flops_per_token"]

    def test_network_calls_are_counted(self, calm: Command) -> None:
        arguments = ("bench", "flow", *self.QUICK, "--sampler", "plain", "--json")
        many, few = (
            json.loads(calm(*arguments, "--set", f"model.head.num_calls={calls}").out)[0] for calls in (6, 2)
        )
        assert (many["network_calls"], few["network_calls"]) == (6, 2)
        assert many["flops_per_token"] > few["flops_per_token"]

    def test_as_a_table(self, calm: Command) -> None:
        done = calm("bench", "energy", *self.QUICK, "--threads", "1")
        for word in ("batch τ=0.5 N=32", "energy (1)", "tokens/s, 2 texts", "peak MB", "exact"):
            assert word in done.out
        assert "8 tokens after a context of 16; 1 thread(s), float32, cpu, 1 repeats" in done.out
        assert "energy: plain" in done.err


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    calm = Path(sys.executable).with_name("calm")
    line = f"{calm} sample energy --tokens 4000 --sampler plain | head -c 20 > {os.devnull}"
    environment = {**os.environ, "CALM_HOME": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=120)
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr
