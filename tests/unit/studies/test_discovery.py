"""Adding a study is adding a file, and listing the studies loads nothing heavy."""

import subprocess
import sys

import pytest

import studies
from studies import api, find_studies, spec, why_none
from studies.spec import Study
from tests.suites.study_launch import invoke, tiny_study
from workbench.errors import StudyError


def own_study(name: str = "noise_width") -> Study:
    return Study(name, "its summary", "q?", "against", "score")


def test_joint_is_found_with_its_presets():
    study = find_studies()["joint"]
    assert {"quick", "cpu"} <= set(study.load_presets())
    assert study.question
    assert study.against


def test_a_new_file_is_a_new_study(tmp_path, monkeypatch):
    folder = tmp_path / "more_studies"
    folder.mkdir()
    (folder / "helper.py").write_text("raise RuntimeError('a module without a study is not imported')\n")
    (folder / "widths.py").write_text(
        "from studies.spec import Study\n"
        "STUDY = Study('widths', 'summary', 'question?', 'against', 'score',\n"
        "    presets={'quick': {'base': {'train': {'train_flops': 1e9}}, 'trials': 2,\n"
        "             'space': {'model.backbone.width': {'choices': [64, 128]}}}})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = find_studies(folder, "more_studies")
    assert list(found) == ["widths"]
    assert found["widths"].preset("quick").trials == 2


def test_a_file_that_is_broken_is_left_out_and_named(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "mixed_studies"
    folder.mkdir()
    (folder / "broken.py").write_text("from studies.spec import Study\n\nSTUDY = Study(questoin='what?')\n")
    (folder / "half.py").write_text("STUDY = (\n")
    whole = (
        "from studies.spec import Study\nSTUDY = Study('{}', 'summary', 'q?', 'against', 'score', presets={{}})\n"
    )
    (folder / "other.py").write_text(whole.format("another"))
    (folder / "widths.py").write_text(whole.format("widths"))
    monkeypatch.syspath_prepend(tmp_path)
    assert list(find_studies(folder, "mixed_studies")) == ["widths"]
    broken, half, other = (record.getMessage() for record in caplog.records)
    assert "broken.py is left out: TypeError" in broken
    assert "questoin" in broken
    assert broken.endswith("(line 3)")
    assert "half.py is left out: SyntaxError" in half
    assert "its study is called 'another', which must be the file's name" in other


def test_so_is_one_that_is_no_text(tmp_path, caplog):
    (tmp_path / "latin.py").write_bytes(b"# Gr\xf6\xdfe\nSTUDY = 1\n")
    assert find_studies(tmp_path) == {}
    assert "latin.py is left out: UnicodeDecodeError" in caplog.text


@pytest.mark.parametrize(
    "line", ["STUDIE = Study(", "study: spec.Study = spec.Study(", "Study(name='noise_width')", "X=Study(\n'x')"]
)
def test_a_study_of_another_name_is_named(tmp_path, caplog, line):
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "noise_width.py").write_text(f"from studies.spec import Study\n\n{line}\n")
    (folder / "helper.py").write_text("class Study(Base):\n    x: int\n\n\ndef f():\n    return Study()\n")
    assert find_studies(folder) == {}
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("studies/noise_width.py defines no STUDY (")
    assert warning.endswith(", so it is left out")
    assert why_none("noise_width", folder).startswith(": studies/noise_width.py defines no STUDY (")
    assert why_none("helper", folder) == why_none("nothing", folder) == ""


def test_no_module_of_the_package_is_taken_for_one(caplog):
    assert find_studies()
    assert not caplog.records


@pytest.mark.parametrize("command", [["show"], ["run"]])
def test_that_there_is_no_such_study_says_what_its_file_lacks(tmp_path, monkeypatch, caplog, command):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "noise_width.py").write_text("STUDIE = Study('noise_width')\n")
    monkeypatch.setattr(studies, "__file__", str(tmp_path / "studies" / "__init__.py"))
    result = invoke("study", *command, "noise_width", "--home", str(tmp_path / "runs"))
    assert isinstance(result.exception, StudyError)
    assert "'noise_width': studies/noise_width.py defines no STUDY (" in str(result.exception)
    assert len(caplog.records) == 1, "and it is said once before"


@pytest.mark.parametrize(
    ("presets", "said"),
    [
        (None, "has no presets; make studies/presets/noise_width.yaml or give presets in the file"),
        ("quick:\n  base: {}\n wrong: 1\n", "noise_width.yaml: line 3, column 2: "),
        ("quick:\n  trials: 1\n", "--preset quick cannot be used: study noise_width, preset quick:\nbase: "),
    ],
)
def test_a_study_whose_presets_cannot_be_read_hides_no_other(tmp_path, monkeypatch, caplog, presets, said):
    folder = tmp_path / "studies" / "presets"
    folder.mkdir(parents=True)
    if presets:
        (folder / "noise_width.yaml").write_text(presets)
    monkeypatch.setattr(spec, "PRESETS", folder)
    there = {"noise_width": own_study(), "tiny": tiny_study()}
    monkeypatch.setattr(studies, "find_studies", lambda: there)
    result = invoke("study", "list", "--home", str(tmp_path / "runs"))
    assert result.exit_code == 0, result.exception
    before, after = result.output.split("tiny  for tests\n")
    assert said in before
    assert after.startswith("  --preset quick: ")
    assert "Errno" not in result.output
    assert api.names()["tiny"] == ["quick"]
    assert ("noise_width is left out" in caplog.text) == ("cannot be used" not in said)


def test_listing_loads_neither_optuna_nor_torch():
    code = (
        "import sys, workbench.cli.study; from studies import find_studies;"
        "find_studies()['joint'].preset('quick');"
        "print([m for m in ('optuna', 'torch', 'mlflow', 'sqlalchemy', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
