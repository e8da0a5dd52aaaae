"""The notebook of docs/ runs from its first cell to its last, and holds no outputs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest

from tests.suites import warm
from tests.suites.doc_pages import ROOT, check_python

NOTEBOOK = ROOT / "docs" / "first-study.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_valid_and_stripped(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    for cell in code:
        check_python(cell.source)


def test_its_sizes_are_fields_of_a_configuration(notebook: nbformat.NotebookNode) -> None:
    from workbench.config_file import load_config

    source = next(cell.source for cell in notebook.cells if "SMALL = {" in cell.source)
    assigned = {
        node.targets[0].id: node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert load_config("small-calm", ast.literal_eval(assigned["SMALL"])).model.backbone.width == 32


@pytest.mark.slow
def test_it_runs_in_a_minute(
    notebook: nbformat.NotebookNode, tmp_path: Path, checkout: warm.Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient

    for name, value in checkout.variables.items():
        monkeypatch.setenv(name, value)
    kernel = AsyncKernelManager(kernel_name="python3")
    kernel.kernel_spec.argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.kernel_spec.metadata.clear()
    place = {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, km=kernel, timeout=300, resources=place).execute()
    printed = "".join(output.text for output in notebook.cells[-1].outputs)
    score, text = printed.split("\n", 1)
    assert re.match(r"\d+\.\d\d|\[0, ", score), printed  # BrierLM, or its bounds near 0
    assert text.strip("\n"), "nothing was sampled"
    assert (tmp_path / "reports" / "joint-quick" / "report.html").exists()
