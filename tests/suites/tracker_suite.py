"""What every tracker must do. Inherit ``TrackerSuite``, give it a ``tracker`` and ``shown``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.suites.run_folders import make_run_folder
from workbench import files, records
from workbench.home import Home, open_home
from workbench.tracking import Outcome, Tracker
from workbench.tracking_report import StudyReport


@dataclass(frozen=True)
class Shown:
    """What a server shows of one run."""

    name: str
    status: str
    parent: str | None
    params: dict[str, str]
    tags: dict[str, str]
    history: dict[str, list[tuple[int, float]]]
    """(step, value) of each metric, as stored: a point sent twice is there twice."""
    artifacts: list[str]

    def latest(self, key: str) -> float:
        return max(self.history[key])[1]


def cut_back(run_dir: Path, step: int) -> dict[str, list[dict[str, object]]]:
    """Cut the metrics back to a checkpoint at ``step``, as a resumed run does; returns what was cut."""
    cut = {}
    for name in (records.METRICS, records.EVALUATIONS):
        rows = files.read_json_lines(run_dir / name)
        files.rewrite_json_lines(run_dir / name, [row for row in rows if row["step"] <= step])
        cut[name] = [row for row in rows if row["step"] > step]
    return cut


def grow_again(run_dir: Path, cut: dict[str, list[dict[str, object]]]) -> None:
    for name, rows in cut.items():
        for row in rows:
            files.append_json_line(run_dir / name, row)


def set_record(run_dir: Path, **changes: object) -> records.RunRecord:
    record = records.read_record(run_dir).model_copy(update=changes)
    records.write_record(run_dir, record)
    return record


class TrackerSuite:
    """Contract of ``workbench.tracking.Tracker``."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        return open_home(tmp_path / "home")

    @pytest.fixture
    def tracker(self, home: Home) -> Tracker:
        raise NotImplementedError

    def shown(self, tracker: Tracker, run_dir: Path) -> Shown | None:
        """None where the tracker shows nothing at all."""
        raise NotImplementedError

    @pytest.fixture
    def run_dir(self, home: Home) -> Path:
        return make_run_folder(home.single_runs() / "r0", name="a run")

    def test_delivers_a_whole_run(self, tracker: Tracker, run_dir: Path) -> None:
        assert tracker.deliver(run_dir, final=True)
        shown = self.shown(tracker, run_dir)
        if shown is not None:
            final = records.read_record(run_dir).final
            assert final is not None
            assert shown.name == "a run"
            assert shown.status == "FINISHED"
            assert shown.params["model.chunk_size"] == "4"
            assert shown.latest("eval/brierlm") == pytest.approx(final.brier.brierlm)
            steps = [point.step for point in records.read_train_points(run_dir)]
            assert [step for step, _ in shown.history["train/loss"]] == steps
            assert {"config.yaml", "record.json", "autoencoder.json", "plots/loss.svg"} <= set(shown.artifacts)

    def test_delivering_twice_changes_nothing(self, tracker: Tracker, run_dir: Path) -> None:
        assert tracker.deliver(run_dir)
        before = self.shown(tracker, run_dir)
        assert tracker.deliver(run_dir, final=True)
        assert self.shown(tracker, run_dir) == before

    def test_a_growing_run_is_followed(self, tracker: Tracker, run_dir: Path) -> None:
        set_record(run_dir, status="running")
        cut = cut_back(run_dir, 100)
        assert tracker.deliver(run_dir)
        early = self.shown(tracker, run_dir)
        grow_again(run_dir, cut)
        set_record(run_dir, status="completed")
        assert tracker.deliver(run_dir, final=True)
        late = self.shown(tracker, run_dir)
        if early is not None and late is not None:
            assert early.status == "RUNNING"
            assert early.artifacts == []
            assert max(early.history["train/loss"])[0] == 100
            assert max(late.history["train/loss"])[0] == 200
            assert late.status == "FINISHED"

    def test_a_resumed_run_leaves_no_point_twice(self, tracker: Tracker, run_dir: Path) -> None:
        assert tracker.deliver(run_dir)
        cut = cut_back(run_dir, 100)
        set_record(run_dir, status="running")
        assert tracker.deliver(run_dir)
        grow_again(run_dir, cut)
        set_record(run_dir, status="completed")
        assert tracker.deliver(run_dir, final=True)
        shown = self.shown(tracker, run_dir)
        if shown is not None:
            for key, points in shown.history.items():
                assert len({step for step, _ in points}) == len(points), key
            assert len(shown.history["train/loss"]) == 20

    def test_the_run_folder_is_left_as_it_is(self, tracker: Tracker, run_dir: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(run_dir, tmp_path / "copy"))
        tracker.deliver(run_dir, final=True)
        for path in copy.rglob("*"):
            if path.is_file():
                assert (run_dir / path.relative_to(copy)).read_bytes() == path.read_bytes()

    def test_a_study_is_a_parent_of_its_runs(self, tracker: Tracker, home: Home) -> None:
        parent = tracker.start_study("demo", {"question": "Does K matter?", "preset": "quick"})
        run_dir = make_run_folder(home.study("demo") / "t0", study="demo", role="trial", trial=0)
        assert tracker.deliver(run_dir, parent=parent, final=True)
        tracker.finish_study(parent, {"num_trials": 1, "importance": None}, [run_dir / "plots" / "loss.svg"])
        shown = self.shown(tracker, run_dir)
        if shown is not None:
            assert parent is not None
            assert shown.parent == parent

    def test_finishing_a_study_that_has_no_parent_is_harmless(self, tracker: Tracker) -> None:
        tracker.finish_study(None, {"num_trials": 0}, [])
        tracker.close()

    def test_a_report_is_shown_as_often_as_one_likes(self, tracker: Tracker, tmp_path: Path) -> None:
        files.write_atomic(tmp_path / "report" / "report.html", "<html></html>")
        report = StudyReport(
            tmp_path / "report", step=1, metrics={"runs/completed": 1.0}, question="Does K matter?"
        )
        assert tracker.show_report("demo", None, report) is Outcome.COMPLETE  # no launch to show it at
        parent = tracker.start_study("demo", {"question": "Does K matter?"})
        first = tracker.show_report("demo", parent, report)
        assert first is (Outcome.COMPLETE if parent is None else Outcome.DELIVERED)
        assert tracker.show_report("demo", parent, report) is Outcome.COMPLETE
        assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.html"]
