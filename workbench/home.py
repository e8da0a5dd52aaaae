"""Where things lie: one folder (``--home``, default ``runs``) holds runs, caches and databases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workbench.files import writable_folder


@dataclass(frozen=True)
class Home:
    """Paths below one folder; nothing is created until it is needed."""

    root: Path

    @property
    def cache(self) -> Path:
        """Prepared corpora, trained autoencoders, probe results: safe to delete."""
        return self.root / ".cache"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def optuna_url(self) -> str:
        return f"sqlite:///{self.root / 'optuna.db'}"

    def study(self, name: str) -> Path:
        """Folder of a launched study: study.json (frozen specification) and one folder a run."""
        return self.root / name

    def single_runs(self) -> Path:
        """Folder of runs outside studies."""
        return self.root / "single"


def open_home(root: Path | str) -> Home:
    """Raises OutputError where the folder cannot be written."""
    return Home(writable_folder(root).resolve())
