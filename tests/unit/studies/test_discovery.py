"""Adding a study is adding a file, and listing the studies loads nothing heavy."""

import subprocess
import sys

from studies import find_studies


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


def test_listing_loads_neither_optuna_nor_torch():
    code = (
        "import sys, workbench.cli.study; from studies import find_studies;"
        "find_studies()['joint'].preset('quick');"
        "print([m for m in ('optuna', 'torch', 'mlflow', 'sqlalchemy', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
