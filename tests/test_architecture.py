"""STYLE.md's rules about imports, file sizes and forbidden things, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for package in ("workbench", "studies", "analysis") for p in (ROOT / package).rglob("*.py"))

LAYERS = [
    {"ahead", "aside", "errors", "garbage", "interruption", "modes", "processes", "saving"},
    {"formats", "given_files", "yaml_reading"},
    {"cache", "head_sections", "hub_sections", "data_sections", "sections", "config", "config_file", "cores",
     "files", "stored", "home", "records", "progress", "rank_place", "own_heads"},
    {"head_flops", "flops", "schedule", "device_memory", "device_plan", "diagnostics", "posterior", "layers",
     "optim", "optimizers",
     "tensor_files", "tokenizer",
     "userfiles", "corpora", "hub", "pretrained_tokenizer", "splits", "hub_damage", "hub_reading",
     "hub_sizes", "hub_stream", "hub_corpus", "data", "draws",
     "batches", "finite", "ngram", "energy_score", "muon", "slices", "clock", "run_plots",
     "uncertainty", "positions", "pairs", "seeds", "overlap", "bottleneck_words", "gradient_norms", "grid",
     "growth", "compute_account", "code_state",
     "temperature", "temperature_counts", "text_stream", "room", "divergence", "run_logs",
     "checks", "doctor_disk", "lineage", "system_usage", "head_check",
     "run_names"},
    {"attention", "rank_watch"},
    {"ranks"},
    {"autoencoder", "backbone", "heads"},
    {"blocks"},
    {"targets"},
    {"language_model", "model", "baseline"},
    {"brier", "bottleneck", "scoring", "callable_models", "chunk_samplers", "sampling", "sample_text",
     "checkpoint", "machine", "strategies", "train", "evaluate", "train_autoencoder", "speed", "call_curve",
     "tradeoff",
     "sampling_compared"},
    {"initial"},
    {"tracking", "tracking_schema", "tracking_database", "tracking_mlflow", "tracking_launches",
     "tracking_server", "tracking_sync", "tracking_metrics", "tracking_views", "tracking_report",
     "tracking_datasets", "tracking_experiment", "tracking_mlflow_study", "tracking_outages", "tracking_tokens",
     "tracking_home", "tracking_served", "tracking_targets"},
    {"build"},
    {"saved_runs", "released"},
    {"served_model"},
    {"tracking_registry"},
    {"rescore", "bench_runs"},
    {"compare"},
    {"runner", "followers"},
    {"doctor_machine", "doctor_services", "doctor_home"},
    {"doctor"},
    {"rerun_state", "rerun_results", "rerun"},
    {"api"},
    {"testing"},
]  # fmt: skip
"""Modules of ``workbench`` from left to right; what stands left never imports what stands right."""

TORCH_FREE = ["ahead", "api", "aside", "batches", "bottleneck_words", "code_state", "cache", "compute_account",
              "config", "config_file", "cores", "checks", "corpora", "data", "data_sections", "device_memory",
              "device_plan", "diagnostics",
              "divergence", "doctor", "doctor_disk", "doctor_home", "doctor_machine", "doctor_services", "errors",
              "files", "flops", "formats", "garbage", "given_files", "gradient_norms", "grid", "growth",
              "head_check", "head_flops", "head_sections", "home", "hub", "hub_corpus", "hub_damage",
              "hub_reading", "hub_sections", "hub_sizes", "hub_stream", "interruption", "lineage", "modes",
              "ngram", "overlap", "own_heads", "pairs", "positions", "processes", "progress",
              "pretrained_tokenizer", "rank_place", "rank_watch", "records", "run_logs", "run_names", "room",
              "run_plots", "saving", "schedule", "sections", "seeds", "splits", "stored", "system_usage",
              "text_stream", "tokenizer", "tracking", "tracking_schema", "uncertainty",
              "yaml_reading"]  # fmt: skip
HEAVY = {"torch", "mlflow", "optuna", "pandas", "pydantic", "matplotlib", "datasets", "numpy", "scipy", "rich",
         "yaml", "safetensors", "transformers", "seaborn"}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names of everything a file imports; what is imported for type checkers only is left out.

    ``from package import name`` counts as ``package.name``: it may be a module."""
    found: set[str] = set()
    for node in _statements(tree(path), top_level_only=top_level_only):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _statements(node: ast.AST, *, top_level_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _statements(child, top_level_only=top_level_only)


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def in_package(package: str) -> list[Path]:
    return [p for p in SOURCES if module_name(p).split(".")[0] == package]


def room(name: str) -> str | None:
    """``workbench.heads.energy`` is in the room ``heads``."""
    parts = name.split(".")
    return parts[1] if parts[0] == "workbench" and len(parts) > 1 else None


def layer(name: str) -> int | None:
    return next((i for i, rooms in enumerate(LAYERS) if room(name) in rooms), None)


class TestDirection:
    def test_every_module_has_a_place(self) -> None:
        names = [module_name(p) for p in in_package("workbench")]
        placed = [n for n in names if n != "workbench" and room(n) != "cli"]
        assert [n for n in placed if layer(n) is None] == []

    @pytest.mark.slow
    @pytest.mark.parametrize("path", in_package("workbench"), ids=module_name)
    def test_left_never_imports_right(self, path: Path) -> None:
        own = layer(module_name(path))
        if own is None:  # cli may import everything
            return
        wrong = {name for name in imports(path) if (layer(name) or 0) > own or room(name) == "cli"}
        assert wrong == set()

    @pytest.mark.slow
    def test_the_workbench_knows_neither_studies_nor_analysis(self) -> None:
        for path in in_package("workbench"):
            if "cli" not in path.parts:
                assert not roots(imports(path)) & {"studies", "analysis"}, path

    @pytest.mark.slow
    def test_studies_and_analysis_do_not_know_each_other(self) -> None:
        assert not any("analysis" in roots(imports(path)) for path in in_package("studies"))
        assert not any("studies" in roots(imports(path)) for path in in_package("analysis"))

    @pytest.mark.slow
    def test_nothing_imports_tests_or_the_command_line(self) -> None:
        for path in SOURCES:
            names = imports(path)
            assert "tests" not in roots(names), path
            if "cli" not in path.parts:
                assert not any(name.startswith("workbench.cli") for name in names), path


class TestLibraries:
    @pytest.mark.slow
    def test_only_tracking_imports_mlflow(self) -> None:
        users = {module_name(p) for p in SOURCES if "mlflow" in roots(imports(p))}
        assert users, "the check must see the import"
        assert all(name.startswith("workbench.tracking") for name in users), users

    @pytest.mark.slow
    def test_only_studies_import_optuna(self) -> None:
        users = {module_name(p) for p in SOURCES if "optuna" in roots(imports(p))}
        assert users
        assert all(name.split(".")[0] == "studies" for name in users), users

    @pytest.mark.slow
    def test_only_what_is_to_be_inherited_by_tests_imports_pytest(self) -> None:
        """And nothing imports that."""
        users = {module_name(p) for p in SOURCES if "pytest" in roots(imports(p))}
        assert users
        assert all(room(name) == "testing" for name in users), users
        others = [path for path in SOURCES if room(module_name(path)) != "testing"]
        assert not [path for path in others if any(room(name) == "testing" for name in imports(path))]

    def test_analysis_imports_no_torch_mlflow_or_optuna(self) -> None:
        for path in in_package("analysis"):
            assert not roots(imports(path)) & {"torch", "mlflow", "optuna"}, path

    @pytest.mark.parametrize("path", sorted((ROOT / "workbench" / "cli").glob("*.py")), ids=module_name)
    def test_command_modules_import_nothing_heavy_at_the_top(self, path: Path) -> None:
        if path.name == "display.py":  # imported by the commands when they run
            return
        names = imports(path, top_level_only=True)
        assert not roots(names) & HEAVY
        assert {n for n in names if room(n) not in (None, "cli")} == set()
        assert not roots(names) & {"studies", "analysis"}

    def test_the_package_itself_imports_nothing(self) -> None:
        assert imports(ROOT / "workbench" / "__init__.py") == set()

    @pytest.mark.slow
    def test_analysis_loads_none_of_them_even_indirectly(self) -> None:
        names = [module_name(p) for p in in_package("analysis")]
        assert loaded_by(*names) & {"torch", "mlflow", "optuna"} == set()

    @pytest.mark.slow
    def test_light_modules_load_no_torch(self) -> None:
        loaded = loaded_by(*(f"workbench.{name}" for name in TORCH_FREE))
        assert loaded & {"torch", "mlflow", "optuna"} == set()

    def test_the_command_loads_nothing_heavy(self) -> None:
        assert loaded_by("workbench.cli") & (HEAVY - {"rich"}) == set()


def loaded_by(*names: str) -> set[str]:
    """Top-level modules in a fresh process after importing ``names``."""
    code = f"import sys\nfor n in {list(names)!r}: __import__(n)\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


class TestFiles:
    @pytest.mark.parametrize("path", SOURCES, ids=module_name)
    def test_under_400_lines(self, path: Path) -> None:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 400

    @pytest.mark.slow
    def test_no_pickle_and_no_ambient_state(self) -> None:
        for path in SOURCES:
            assert not roots(imports(path)) & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}, path
            for call in (n for n in ast.walk(tree(path)) if isinstance(n, ast.Call)):
                name = ast.unparse(call.func)
                assert not name.endswith(".cuda"), f"{path}:{call.lineno}"
                options = {option.arg: ast.unparse(option.value) for option in call.keywords}
                if name == "torch.load" and module_name(path) == OPENS_PICKLES:
                    assert options.get("weights_only") == "True", f"{path}:{call.lineno}"
                    continue
                assert name not in FORBIDDEN, f"{path}:{call.lineno}: {name}"
                if name == "np.load":
                    assert options.get("allow_pickle") == "False", f"{path}:{call.lineno}"

    @pytest.mark.parametrize("package", ["workbench", "studies", "analysis"])
    def test_every_module_says_what_it_is(self, package: str) -> None:
        for path in in_package(package):
            assert ast.get_docstring(tree(path)), path


class TestWhatIsInstalled:
    """An installation outside the repository (the container's) has every package and every file that is read."""

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

    @pytest.mark.parametrize("top", ["workbench", "studies", "analysis"])
    def test_every_package(self, top: str) -> None:
        folders = {path.parent.relative_to(ROOT) for path in (ROOT / top).rglob("*.py")}
        listed = {name for name in self.declared["packages"] if name.partition(".")[0] == top}
        assert {".".join(folder.parts) for folder in folders} == listed

    @pytest.mark.parametrize("top", ["workbench", "studies", "analysis"])
    def test_every_file_beside_the_code(self, top: str) -> None:
        beside = {
            path
            for path in (ROOT / top).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
        }
        packed = {path for glob in self.declared["package-data"][top] for path in (ROOT / top).glob(glob)}
        assert beside == packed


OPENS_PICKLES = "workbench.released.sources"
"""The one module that may, and only tensors: released weights come as pickles."""
FORBIDDEN = {"torch.load", "torch.save", "torch.manual_seed", "torch.set_default_dtype", "np.random.seed",
             "torch.set_default_device", "random.seed"}  # fmt: skip


class TestTheChecks:
    """They can fail."""

    def test_imports_are_seen(self, tmp_path: Path) -> None:
        path = tmp_path / "x.py"
        path.write_text(
            "from typing import TYPE_CHECKING\nimport a.b\nfrom c import d\n"
            "if TYPE_CHECKING:\n    import e\ndef f():\n    import g\n"
        )
        assert imports(path) == {"typing.TYPE_CHECKING", "a.b", "c.d", "g"}
        assert imports(path, top_level_only=True) == {"typing.TYPE_CHECKING", "a.b", "c.d"}

    def test_layers_are_ordered(self) -> None:
        assert (layer("workbench.errors.UserError") or 0) < (layer("workbench.config") or 0)
        assert (layer("workbench.heads.energy") or 0) < (layer("workbench.model.Calm") or 0)
        assert layer("workbench.cli.run") is None

    def test_loaded_modules_are_seen(self) -> None:
        assert "sqlite3" in loaded_by("sqlite3")
