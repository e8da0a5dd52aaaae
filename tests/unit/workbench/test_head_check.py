"""``calm heads check`` and what it is told by the process that it starts; ``workbench.testing`` without pytest."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tests.suites.command_line import Command
from tests.suites.own_head import EXAMPLE, KIND, write_head
from workbench import head_check, own_heads
from workbench.errors import HeadError
from workbench.head_sections import FlowHeadConfig
from workbench.progress import NoDisplay
from workbench.testing import checked_head

FAKE = """
import os, signal, sys
events = int(sys.argv[sys.argv.index("--events-to") + 1])
for line in {lines!r}:
    os.write(events, line.encode())
print({said!r}, file=sys.stderr, flush=True)
os.kill(os.getpid(), signal.SIGSEGV) if {dies} else sys.exit(3)
"""
"""In place of pytest."""


def lines(*events: dict[str, object]) -> list[str]:
    return [json.dumps(event) + "\n" for event in events]


def checked(
    monkeypatch: pytest.MonkeyPatch, *events: dict[str, object], dies: bool = False, said: str = ""
) -> list[head_check.Checked]:
    program = FAKE.format(lines=lines(*events), said=said, dies=dies)
    monkeypatch.setattr(head_check, "_pytest", lambda folder: [sys.executable, "-S", "-c", program])
    return head_check.check_head(FlowHeadConfig(), one_mode=False, steps=None, display=NoDisplay())


NAMES = {"names": ["test_a_b", "test_c[fast]", "test_d"]}


class TestFollowed:
    def test_every_test_has_its_outcome(self, monkeypatch: pytest.MonkeyPatch) -> None:
        events = (
            NAMES,
            {"begins": "test_a_b"},
            {"ends": "test_a_b", "seconds": 0.5, "reasons": []},
            {"begins": "test_c[fast]"},
            {"ends": "test_c[fast]", "seconds": 1.0, "reasons": ["one", "two"]},
            {"begins": "test_d"},
            {"ends": "test_d", "seconds": 0.0, "reasons": []},
        )
        found = checked(monkeypatch, *events)
        assert [(each.name, each.outcome) for each in found] == [
            ("a b", "passed"),
            ("c (fast)", "failed"),
            ("d", "passed"),
        ]
        assert (found[1].seconds, found[1].reason) == (1.0, "one; two")

    def test_a_process_that_dies_fails_the_test_that_ran_and_leaves_the_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events = (NAMES, {"ends": "test_a_b", "seconds": 0.5, "reasons": []}, {"begins": "test_c[fast]"})
        found = checked(monkeypatch, *events, dies=True)
        assert [each.outcome for each in found] == ["passed", "failed", "not run"]
        assert found[1].reason == "the process ended during it (SIGSEGV)"

    def test_a_process_that_never_begins_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(HeadError, match=r"did not begin the checks \(exit code 3\): no such option"):
            checked(monkeypatch, said="no such option")


class TestReason:
    def test_an_assertion_is_its_own_words_in_one_line(self) -> None:
        error = AssertionError("the loss is not finite\nassert False\n +  where ...")
        assert checked_head.reason(error, "flow") == "the loss is not finite"
        assert checked_head.reason(AssertionError(), "flow") == "AssertionError"
        assert checked_head.reason(ValueError("no\nmore"), "flow") == "ValueError: no"
        assert checked_head.reason(HeadError("the head is wrong"), "flow") == "the head is wrong"

    def test_an_error_in_a_heads_code_names_its_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draw = "        return self.mean.expand"
        failing = (draw, f"        assert False, 'never'\n{draw}")
        monkeypatch.setenv(own_heads.VARIABLE, str(write_head(tmp_path / "mine.py", failing)))
        head = own_heads.find("constant").head(None, hidden_dim=4, latent_dim=2)
        with pytest.raises(AssertionError) as caught:
            head.sample(None, num_samples=1, rng=None)
        said = "the head 'constant' (mine.py, line 20): AssertionError: never"
        assert checked_head.reason(caught.value, "constant") == said


class TestCommand:
    @pytest.fixture
    def calm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
        monkeypatch.setenv(own_heads.VARIABLE, str(EXAMPLE))
        return Command(tmp_path, monkeypatch, capsys)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["nonesuch"], "one of energy, diffusion, flow, gaussian_mixture is wanted, 'nonesuch' given"),
            (["flow", "--set", "optim.lr=1"], "own fields, as model.head.NAME=VALUE; optim.lr given"),
            ([KIND, "--set", "model.head.kind=flow"], "model.head.kind given"),
            ([KIND, "--set", "model.head.num_calls=4"], "model.head.num_calls has no effect"),
            ([KIND, "--set", "model.head.num_components=0"], "model.head.num_components"),
            ([KIND, "--steps", "0"], "'--steps'"),
        ],
    )
    def test_what_cannot_be_checked_is_refused_before_anything_starts(
        self, calm: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
    ) -> None:
        monkeypatch.setattr(head_check.subprocess, "Popen", None)
        done = calm("heads", "check", *arguments)
        assert done.code == 2
        assert said in " ".join(done.err.split())

    def test_what_is_asked_reaches_the_process_and_what_failed_the_exit_code(
        self, calm: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[object, ...]] = []
        found = [head_check.Checked("a", "passed"), head_check.Checked("b", "failed", 1.0, "so [b]bold")]

        def check(head: object, **options: object) -> list[head_check.Checked]:
            asked.append((head.num_components, options["one_mode"], options["steps"]))  # type: ignore[attr-defined]
            return found

        monkeypatch.setattr(head_check, "check_head", check)
        options = ["--set", "model.head.num_components=3", "--one-mode", "--steps", "7"]
        done = calm("heads", "check", KIND, *options)
        assert done.code == 1
        assert "so [b]bold" in done.out
        assert done.out.endswith("2 checks of the head 'gaussian_mixture': 1 passed, 1 failed\n")
        found.pop()
        done = calm("heads", "check", KIND, "--json")
        assert (done.code, json.loads(done.out)["outcome"]) == (0, "passed")
        assert asked == [(3, True, 7), (16, False, None)]

    def test_without_pytest_it_says_how_to_install_it(
        self, calm: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        done = calm("heads", "check", KIND)
        assert (done.code, done.err) == (
            2,
            "calm: calm heads check wants pytest, which is not installed: pip install 'pytest>=9.2'\n",
        )


def test_without_pytest_the_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "workbench.testing")
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ModuleNotFoundError, match=r"wants pytest.*pip install 'pytest>=9.2'"):
        importlib.import_module("workbench.testing")
