"""Heads from outside the package: how they are found, what is refused, and that nothing else is ever run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.suites.own_head import CONSTANT_HEAD, EXAMPLE, KIND, write_head
from workbench import machine, own_heads
from workbench.config import RunConfig
from workbench.config_file import build_config, require_effect, stored_config, with_head_sampling
from workbench.errors import ConfigError, RunError


@pytest.fixture(autouse=True)
def no_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_heads.VARIABLE, "")


def constant(**fields: object) -> RunConfig:
    return build_config({"model": {"head": {"kind": "constant", **fields}}})


class TestFiles:
    def test_a_given_file_offers_its_heads_here_and_to_processes_that_are_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_head(tmp_path / "mine.py")
        own_heads.give(["mine.py", EXAMPLE])
        assert os.environ["CALM_HEADS"] == f"{tmp_path / 'mine.py'}{os.pathsep}{EXAMPLE}"
        assert own_heads.kinds() == ["constant", KIND]
        found = own_heads.find("constant")
        assert (found.head.__name__, found.source) == ("ConstantHead", "mine.py")
        assert not list(tmp_path.rglob("__pycache__"))

    def test_a_file_that_nobody_gave_is_never_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A configuration from a stranger, unpacked beside code of theirs."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        for name in ("constant", "my_heads"):
            (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n{CONSTANT_HEAD}")
        for kind in ("constant", "my_heads", "my_heads:ConstantHead", "constant.py", f"{tmp_path}/constant.py"):
            with pytest.raises(ConfigError, match=r"calm --heads FILE\.py"):
                build_config({"model": {"head": {"kind": kind}}})
        assert not (tmp_path / "run").exists()

    def test_the_hash_is_of_what_was_run(self, tmp_path: Path) -> None:
        hashes = []
        for name, changes in (("a", []), ("b", []), ("c", [("1.0\n", "2.0\n")])):
            os.environ["CALM_HEADS"] = str(write_head(tmp_path / f"{name}.py", *changes))
            hashes.append(own_heads.find("constant").code_hash)
        assert hashes[0] == hashes[1] != hashes[2]
        assert len(hashes[0]) == 16

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("x = 1\ny = 1 +\n", r"mine.py cannot be loaded: line 2: SyntaxError"),
            ("import nonesuch\n", r"line 1: ModuleNotFoundError: No module named 'nonesuch'"),
            ("def f():\n    return 1 / 0\nf()\n", r"line 2: ZeroDivisionError"),
            ("import sys\nsys.exit()\n", r"mine.py cannot be loaded: line 2: SystemExit; mend it"),
            ("raise SystemExit('no licence')\n", r"line 1: SystemExit: no licence; mend it"),
            ("x = 1\n", r"a table HEADS of kinds and classes is wanted.*there is none"),
            ("HEADS = [1]\n", r"a table HEADS .* \[1\] given"),
            ("HEADS = {}\n", r"a table HEADS .* {} given"),
            ("HEADS = {'a': 3}\n", r"the head 'a' of mine.py cannot be used: a subclass .* is wanted, 3 given"),
            ("HEADS = {'a': dict}\n", r"dict.section must be a subclass of workbench.head_sections.OwnHeadConfig"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_refused_at_once(
        self, tmp_path: Path, source: str, message: str
    ) -> None:
        path = tmp_path / "mine.py"
        path.write_text(source, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            own_heads.give([path])

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("def sample", "def draw", "ConstantHead does not define sample"),
            ('HEADS = {"constant"', 'HEADS = {"energy"', "the workbench has a head of that name"),
            ('HEADS = {"constant"', 'HEADS = {"other"', r'must say kind: Literal\["other"\] = "other", it says'),
            ('Literal["constant"] = "constant"', "str", "must say kind: Literal.*, it has no default"),
            ("section = Config", "section = dict", "section must be a subclass"),
            ("ConstantHead(Head)", "ConstantHead(torch.nn.Module)", "is no subclass of workbench.heads.base.Head"),
        ],
    )
    def test_a_class_that_is_no_head_is_refused(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            own_heads.give([write_head(tmp_path / "mine.py", (old, new))])

    def test_a_missing_file_and_two_of_one_name_are_refused(self, tmp_path: Path) -> None:
        missing = tmp_path / "nowhere.py"
        said = r"names a file of heads that cannot be read: .*nowhere.py \(No such file or directory\); name one"
        with pytest.raises(ConfigError, match=f"^--heads {said}"):
            own_heads.give([missing], by="--heads")
        os.environ[own_heads.VARIABLE] = str(missing)
        for act in (own_heads.kinds, lambda: own_heads.give([EXAMPLE], by="--heads")):
            with pytest.raises(ConfigError, match=f"^CALM_HEADS {said}"):
                act()
        os.environ[own_heads.VARIABLE] = ""
        own_heads.give([write_head(tmp_path / "a.py"), write_head(tmp_path / "b.py")])
        with pytest.raises(ConfigError, match=r"'constant' is offered by a.py and by b.py; offer one"):
            own_heads.find("constant")


class TestDistributions:
    @pytest.fixture
    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A distribution my-heads 0.3 with one module."""
        info = tmp_path / "my_heads-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-heads\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text("[calm.heads]\nconstant = my_constant_heads:ConstantHead\n")
        write_head(tmp_path / "my_constant_heads.py")
        monkeypatch.syspath_prepend(tmp_path)
        own_heads._installed.cache_clear()
        return tmp_path

    def test_an_entry_point_offers_a_head(self, installed: Path) -> None:
        assert own_heads.kinds() == ["constant"]
        found = own_heads.find("constant")
        assert found.source == "my-heads 0.3 (my_constant_heads:ConstantHead)"
        assert found.code_hash
        assert constant(spread=2.0).model.head.model_dump() == {"kind": "constant", "spread": 2.0}

    def test_one_that_cannot_be_loaded_is_named(self, installed: Path) -> None:
        entry = installed / "my_heads-0.3.dist-info" / "entry_points.txt"
        entry.write_text("[calm.heads]\nconstant = my_lost_heads:ConstantHead\n")
        with pytest.raises(ConfigError, match=r"my-heads 0.3 .* cannot be loaded: ModuleNotFoundError"):
            constant()
        (installed / "my_lost_heads.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"my-heads 0.3 .* cannot be loaded: SystemExit: 3; install it anew"):
            constant()


class TestConfiguration:
    @pytest.fixture(autouse=True)
    def given(self, tmp_path: Path, no_heads: None) -> None:
        own_heads.give([write_head(tmp_path / "mine.py"), EXAMPLE])

    def test_its_own_fields_are_kept_and_hashed(self) -> None:
        config = constant(spread=2.0).resolved()
        assert config.to_dict()["model"]["head"] == {"kind": "constant", "spread": 2.0}
        assert config.hashed()["model"]["head"] == {"kind": "constant", "spread": 2.0}
        assert build_config(config.to_dict()) == config
        assert config.hash() != constant(spread=3.0).resolved().hash()

    def test_the_kind_alone_changes_the_head_both_ways_and_between_own_ones(self) -> None:
        tree = build_config({"model": {"head": {"kind": "energy", "noise_dim": 5}}}).to_dict()
        for kind in ("constant", KIND, "flow", "energy"):
            tree = build_config(tree, {"model.head.kind": kind}).to_dict()
            assert tree["model"]["head"]["kind"] == kind
            assert set(tree["model"]["head"]) >= {"kind"}
        assert build_config({}, {"model.head.num_components": 3}).model.head.kind == "energy"

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"spread": "wide"}, r"^model.head.spread: input should be a valid number.*'wide'"),
            ({"spred": 1.0}, r"^unknown field model.head.spred; did you mean model.head.spread\?"),
            ({"spread": True}, r"^model.head: spread: true given where a number or text is wanted"),
        ],
    )
    def test_wrong_fields_are_named(self, fields: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            constant(**fields)

    def test_another_heads_field_set_by_hand_has_no_effect(self) -> None:
        for name, owner in (("num_components", KIND), ("num_calls", "diffusion and flow")):
            overrides = {"model.head.kind": "constant", f"model.head.{name}": 4}
            with pytest.raises(ConfigError, match=f"model.head.kind is constant, this is a field of {owner}"):
                require_effect(build_config({}, overrides), overrides)

    def test_a_trained_one_without_settings_of_sampling_cannot_be_changed(self) -> None:
        with pytest.raises(ConfigError, match="head constant has no settings of sampling"):
            with_head_sampling(constant(), {"model.head.spread": 2.0})

    def test_comparisons_of_solvers_mean_nothing_to_it(self) -> None:
        asked = build_config({}, {"model.head.kind": "constant", "eval.solvers": ["rk4"]}).resolved()
        assert asked.hash() == constant().resolved().hash()

    def test_the_environment_of_a_record_names_its_code(self) -> None:
        recorded = machine.environment(constant().resolved())["own_head"]
        assert recorded == own_heads.find("constant").recorded()
        assert set(recorded) == {"kind", "source", "code_hash"}
        assert "own_head" not in machine.environment(RunConfig().resolved())

    def test_a_stored_run_without_its_head_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "config.yaml"
        path.write_text(constant().resolved().to_yaml(), encoding="utf-8")
        assert stored_config(path).model.head.kind == "constant"
        monkeypatch.setenv("CALM_HEADS", "")
        with pytest.raises(RunError, match=r"config.yaml cannot be read: .*'constant' given; .*calm --heads"):
            stored_config(path)
