"""A study's report on a tracking server: what of it is shown at the study's launch, and what is missing there.

Pure: reads the report's folder and a cursor (``mlflow-report.json`` in the study's folder), talks to nobody. What
has not changed since it was sent is not sent again, so a report can be delivered as often as one likes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench import files
from workbench.home import Home
from workbench.tracking_schema import MAX_TEXT
from workbench.tracking_views import address, compute_view

REPORT_CURSOR = "mlflow-report.json"
SHOWN = ("report.html", "figures/*.png", "figures/*.svg", "tables/*", "data/*.csv")
"""Of a report's folder; the data's Parquet files hold the same as the CSV files, which MLflow can show."""
MAX_BYTES = 20_000_000
"""A larger file stays on the disk of whoever wrote the report."""
MAX_SENTENCES = 1000
"""Characters of question and of verdict in the description, which must not be cut in the middle of a link."""
NOTE_FIGURE = "figures/frontier.png"
TABLES_TAG = "mlflow.loggedArtifacts"
"""Names the JSON files that MLflow shows as tables."""


@dataclass(frozen=True)
class StudyReport:
    """A report and what it amounts to."""

    folder: Path
    """With report.html, figures/, tables/ and data/."""
    step: int
    """Of the metrics: number of completed runs the report is about."""
    metrics: dict[str, float]
    question: str = ""
    verdict: str = ""
    tables: dict[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    """Name to columns and rows; shown as CSV and as MLflow's table."""

    def contents(self) -> dict[str, Path | str]:
        """Artifacts by path below the run: a file, or the text of one."""
        found: dict[str, Path | str] = {
            f"report/{path.relative_to(self.folder).as_posix()}": path
            for pattern in SHOWN
            for path in sorted(self.folder.glob(pattern))
            if path.is_file() and path.stat().st_size <= MAX_BYTES
        }
        for name, (columns, rows) in self.tables.items():
            found[f"study/{name}.csv"] = _csv(columns, rows)
            found[f"study/{name}.json"] = json.dumps({"columns": columns, "data": rows})
        return found

    def tags(self, run_id: str, experiment_id: str) -> dict[str, str]:
        """Question, verdict, and the description at the top of the run's page."""
        tables = [{"path": f"study/{name}.json", "type": "table"} for name in self.tables]
        shown = {
            "calm.question": self.question,
            "calm.verdict": self.verdict,
            "mlflow.note.content": self.note(run_id, experiment_id),
        }
        shown |= {TABLES_TAG: json.dumps(tables)} if tables else {}
        return {key: value[:MAX_TEXT] for key, value in shown.items() if value}

    def note(self, run_id: str, experiment_id: str) -> str:
        """The description, in Markdown; its pictures and links are the run's own artifacts."""
        parts = [f"**Verdict.** {_plain(self.verdict[:MAX_SENTENCES])}"] if self.verdict else []
        parts += [f"**Question.** {_plain(self.question[:MAX_SENTENCES])}"] if self.question else []
        if (self.folder / NOTE_FIGURE).exists():
            parts.append(f"![BrierLM against training compute]({_artifact(run_id, 'report/' + NOTE_FIGURE)})")
        parts.append(
            f"The whole [report]({_artifact(run_id, 'report/report.html')}), figures and tables: tab Artifacts. "
            f"[Charts of all runs over compute]({address(experiment_id, compute_view())})."
        )
        return "\n\n".join(parts)


class ReportCursor(BaseModel):
    """What has been delivered to one launch."""

    model_config = ConfigDict(extra="ignore")

    run_id: str = ""
    files: dict[str, str] = {}
    """Artifact to hash of its content."""
    metrics: dict[str, float] = {}
    step: int = 0
    tags: dict[str, str] = {}


@dataclass
class MissingReport:
    """What the server does not have yet."""

    files: dict[str, tuple[Path | str, str]] = field(default_factory=dict)
    """Artifact to content and hash."""
    metrics: dict[str, float] = field(default_factory=dict)
    step: int = 0
    tags: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.files or self.metrics or self.tags)


def find_missing_report(report: StudyReport, cursor: ReportCursor, experiment_id: str) -> MissingReport:
    """Compare a report with what was delivered. A metric is sent where its value has changed, at a step that never
    falls, so that its latest point is its value now.

    Raises OSError where the report's folder cannot be read."""
    due = {path: (content, _digest(content)) for path, content in report.contents().items()}
    return MissingReport(
        files={path: pair for path, pair in due.items() if cursor.files.get(path) != pair[1]},
        metrics={key: value for key, value in report.metrics.items() if cursor.metrics.get(key) != value},
        step=max(report.step, cursor.step),
        tags={k: v for k, v in report.tags(cursor.run_id, experiment_id).items() if cursor.tags.get(k) != v},
    )


def read_report_cursor(home: Home, study: str, run_id: str) -> ReportCursor:
    """An empty one where nothing was delivered to ``run_id``, or the file cannot be read."""
    try:
        cursor = ReportCursor.model_validate(files.read_json(home.study(study) / REPORT_CURSOR))
    except (OSError, ValueError, ValidationError):
        cursor = ReportCursor()
    return cursor if cursor.run_id == run_id else ReportCursor(run_id=run_id)


def write_report_cursor(home: Home, study: str, cursor: ReportCursor) -> None:
    files.write_atomic(home.study(study) / REPORT_CURSOR, cursor.model_dump_json(indent=1) + "\n")


def _digest(content: Path | str) -> str:
    data = content.read_bytes() if isinstance(content, Path) else content.encode()
    return hashlib.sha256(data).hexdigest()[:16]


def _artifact(run_id: str, path: str) -> str:
    """Relative to MLflow's pages, wherever they are served."""
    return f"get-artifact?run_uuid={run_id}&path={quote(path, safe='')}"


def _plain(text: str) -> str:
    """Free text in Markdown: no character of it is a command."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|" else c for c in " ".join(text.split()))


def _csv(columns: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([files.spreadsheet_text(cell) for cell in row] for row in [columns, *rows])
    return text.getvalue()
