"""Counts, time left, summary.json and what is printed."""

import io
import json
import time

import pytest
from rich.console import Console

from studies import progress
from studies.display import Display, duration, final_table, line, live_view, progress_text
from studies.launch import Result
from studies.show import dry_run
from studies.staffing import Split
from studies.status import status, status_lines
from tests.suites.cells_only import CELLS
from tests.suites.run_folders import make_run_folder
from tests.suites.study_launch import create, steps, tiny_spec
from workbench.cli.study import _print_result
from workbench.home import open_home
from workbench.records import read_record, read_train_points


def printed(thing) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(thing)
    return console.file.getvalue()


def test_a_snapshot_counts_and_names_the_best(tmp_path):
    launch = create(tmp_path, tiny_spec())
    empty = progress.snapshot(launch)
    assert (empty.search.complete, empty.cells_wanted, empty.best, empty.seconds_left) == (0, 4, None, None)
    steps(launch, most=4)
    state = progress.snapshot(launch)
    assert (state.search.complete, state.cells.complete, state.finished) == (2, 2, False)
    assert state.best.score == max(r.score for r in state.rows if r.label.startswith("trial"))
    assert progress_text(state).startswith("2/5 trials, 0 pruned, 0 failed, 0 running, cells 2/4, about")


def test_the_time_left_is_divided_by_the_workers(tmp_path):
    launch = create(tmp_path, tiny_spec())
    steps(launch, most=4)
    one, two = (progress.snapshot(launch, workers=n).seconds_left for n in (1, 2))
    assert one > 0
    assert two == pytest.approx(one / 2)


@pytest.mark.slow
def test_the_summary(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(tmp_path, tiny_spec())
    steps(launch)
    summary = progress.write_summary(launch)
    assert json.loads((launch.folder / "summary.json").read_text()) == summary
    assert (summary["num_trials"], summary["num_complete"], summary["num_failed"]) == (5, 5, 1)
    assert not summary["in_vain"]
    best = launch.search.best_trial
    assert summary["best"] == {"run_id": best.user_attrs["runs"][0], "params": best.params, "score": best.value}
    assert summary["importance"] is None
    assert summary["importance_note"].startswith("withheld: 5 complete trials, at least 20")
    assert summary["failures"] == [{"what": "small", "reason": "RuntimeError: a failure for the test"}]


def test_importance_that_cannot_be_computed_says_so(tmp_path):
    launch = create(tmp_path, tiny_spec(trials=1))
    steps(launch)
    summary = progress.write_summary(launch)
    assert summary["importance"] is None
    assert summary["importance_note"].startswith("not computable:")


@pytest.mark.slow
def test_importance_is_shown_from_twenty_trials_on(tmp_path):
    launch = create(tmp_path, tiny_spec(trials=20, baselines={}, checks={}, sampler={"kind": "random"}))
    steps(launch)
    values, note = progress.importance(launch)
    assert note == "PED-ANOVA over 20 complete trials"
    assert sum(values.values()) == pytest.approx(1.0)


def test_a_finished_trial_is_one_line_where_there_is_no_terminal(tmp_path):
    launch = create(tmp_path, tiny_spec())
    steps(launch, most=3)
    console = Console(file=io.StringIO(), width=60, force_terminal=False)
    with Display(console, "tiny") as display:
        display.update(progress.snapshot(launch))
        assert console.file.getvalue() == ""  # what was there before is not news
        steps(launch, most=1)
        display.update(progress.snapshot(launch))
        display.update(progress.snapshot(launch))
    (text,) = console.file.getvalue().splitlines()
    assert text.startswith("trial 1 complete ")
    assert "[2/5 trials" in text


@pytest.mark.slow
def test_the_views_show_trials_cells_and_reasons(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(tmp_path, tiny_spec())
    steps(launch)
    state = progress.snapshot(launch)
    live, table = printed(live_view("tiny-quick", state)), printed(final_table(state))
    assert "study tiny-quick" in live
    assert "best so far: trial" in live
    assert all(name in table for name in ("large", "lr-x2", state.best.run_id))
    shown = "\n".join(status_lines(status(launch)))
    assert "finished: 5/5 trials" in shown
    assert "failed: small : RuntimeError: a failure for the test" in shown
    assert "calm study retry tiny-quick" in shown


def test_lines_and_durations():
    row = progress.TrialRow("trial 7", "complete", 2.3125, "chunk_size=4", 41.2, "t007-s0")
    assert line(row) == "trial 7 complete score 2.312 chunk_size=4 41 s"
    assert [duration(s) for s in (3.2, 89, 200, 7500)] == ["3 s", "89 s", "3 min", "2 h 05 min"]
    assert [duration(24 * 3600 * days) for days in (2, 12, 5000)] == ["48 h 00 min", "12 days", "5,000 days"]


def test_without_a_search_only_cells_are_counted_and_nothing_is_best(tmp_path, monkeypatch):
    """Scores of cells on different texts cannot be ranked, and a mean over no trials must not be taken."""
    monkeypatch.setenv("FAKE_FAIL", "small")
    launch = create(tmp_path, tiny_spec(**CELLS))
    state = progress.snapshot(launch)
    assert progress_text(state) == "cells 0/2, 0 failed, 0 running, time left unknown"
    assert "best" not in printed(live_view("tiny-quick", state))
    steps(launch, most=2)
    state = progress.snapshot(launch)
    assert (state.searches, state.trials_wanted, state.cells_wanted, state.best) == (False, 0, 2, None)
    assert state.finished
    assert progress_text(state) == "cells 1/2, 1 failed, 0 running"
    views = [
        printed(live_view("tiny-quick", state)),
        printed(final_table(state)),
        "\n".join(status_lines(status(launch))),
    ]
    assert not any("best" in view or "trial" in view for view in views)
    assert "large" in views[1]
    assert "large-s0" in views[1]
    assert views[2].startswith("finished: cells 1/2, 1 failed")
    assert "failed: small : RuntimeError" in views[2]


def test_the_time_left_of_cells_only_comes_from_cells(tmp_path):
    launch = create(tmp_path, tiny_spec(**CELLS))
    steps(launch, most=1)
    state = progress.snapshot(launch, workers=1)
    (done,) = state.of_state("complete")
    assert state.seconds_left == pytest.approx(done.seconds, rel=0.01), "as much work, to a step"


def test_the_summary_without_a_search(tmp_path):
    launch = create(tmp_path, tiny_spec(**CELLS))
    steps(launch)
    summary = progress.write_summary(launch)
    assert (summary["num_trials"], summary["num_complete"], summary["num_cells"]) == (0, 0, 2)
    assert (summary["best"], summary["importance"], summary["importance_note"]) == (
        None,
        None,
        "nothing was searched",
    )


def test_the_dry_run_of_cells_only(tmp_path):
    """The time of the cells alone, once for each seed, shared by the workers, but no cell by two of them."""
    shown = dry_run(tiny_spec(**CELLS), open_home(tmp_path), Split(2, 1))
    assert [r.label for r in shown.rows] == ["small", "large"]
    assert all(r.cost["kind"] == "baseline" for r in shown.rows)
    assert (shown.num_autoencoders, shown.autoencoder_seconds) == (0, 0.0)
    assert shown.total_seconds == pytest.approx(max(r.seconds for r in shown.rows))
    assert "from a few steps of the first cell" in shown.speed_from
    make_run_folder(tmp_path / "single" / "done")  # speeds of finished runs are used: equal in both calls below
    once, twice = (dry_run(tiny_spec(**CELLS, seeds=n), open_home(tmp_path), Split(1, 1)) for n in (1, 2))
    assert twice.total_seconds == pytest.approx(2 * once.total_seconds)


@pytest.mark.slow
def test_the_dry_run_costs_every_chunk_size_and_baseline(tmp_path):
    spec = tiny_spec()
    shown = dry_run(spec, open_home(tmp_path), Split(2, 1))
    assert [r.label for r in shown.rows] == ["chunk_size=1", "chunk_size=2", "chunk_size=4", "small", "large"]
    assert all(r.cost["train_flops"] == pytest.approx(1e11, rel=0.05) for r in shown.rows)
    assert shown.num_autoencoders == 18
    assert "from a few steps" in shown.speed_from
    assert shown.total_seconds > 0
    assert [p.name for p in tmp_path.iterdir()] == [".cache"], "only the remembered probe of the machine"
    continuous = tiny_spec(space={"autoencoder.kl_floor": {"low": 0.0, "high": 1.0}})
    assert dry_run(continuous, open_home(tmp_path), Split(1, 1)).num_autoencoders is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # ask() stands for another worker
def test_what_is_under_way_is_a_line_now_and_then_where_there_is_no_terminal(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("studies.display.time.monotonic", lambda: clock[0])
    launch = create(tmp_path, tiny_spec(seeds=2))
    trial = launch.search.ask()
    trial.set_user_attr("runs", ["t000-s0", "t000-s1"])
    console = Console(file=io.StringIO(), width=60, force_terminal=False)
    with Display(console, "tiny") as display:
        display.folder = launch.folder
        for _ in range(40):  # a look a second; the first run has not begun, the second one has points
            display.update(progress.snapshot(launch))
            clock[0] += 1
            if clock[0] == 110:
                trial.set_user_attr("scores", [1.0])
                run = make_run_folder(launch.folder / "t000-s1")
                (run / "metrics.jsonl").open("a").write('{"step": ')  # torn
    first, second = console.file.getvalue().splitlines()
    assert first.startswith("running: trial 0 for ")
    assert "[0/5 trials" in first
    point = read_train_points(run)[-1]
    of = read_record(run).num_steps
    assert second.startswith(f"running: trial 0 step {point.step}/{of} loss {point.loss:.4g} ")


def test_on_a_terminal_something_moves_before_the_table_is_there() -> None:
    output = io.StringIO()
    with Display(Console(file=output, force_terminal=True, width=80), "tiny").preparing():
        pass
    assert "preparing tiny: texts, database, workers" in output.getvalue()
    with Display(Console(file=(elsewhere := io.StringIO()), width=80), "tiny").preparing():
        pass
    assert elsewhere.getvalue() == ""


def test_the_table_takes_over_from_what_moved() -> None:
    output = io.StringIO()
    display = Display(Console(file=output, force_terminal=True, width=80), "tiny")
    with display.preparing():
        display.note("2 workers")
        with display:
            before = output.tell()
            time.sleep(0.5)  # it would move some times
            assert "preparing" not in output.getvalue()[before:]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "more"), [("grid", False), ("random", True)])
def test_more_trials_are_offered_of_a_search_only(tmp_path, kind, more):
    given = {"trials": 1} if more else {"pruner": {"kind": "none"}, "start": [], "trials": 0}
    space = {"optim.clip": {"choices": [1.0, 2.0]}}
    launch = create(
        tmp_path, tiny_spec(space=space, sampler={"kind": kind}, baselines={}, checks={}, **{"start": [], **given})
    )
    steps(launch)
    console = Console(file=io.StringIO(), width=200)
    _print_result(console, Result(launch, progress.snapshot(launch), already_finished=True))
    said = console.file.getvalue()
    assert "tiny-quick is finished already" in said
    assert ("--trials N" in said) is more


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "why"), [("grid", "; a grid does not replace them"), ("random", "are not replaced")]
)
def test_a_search_that_ended_short_says_how_many_failed(tmp_path, monkeypatch, kind, why):
    monkeypatch.setenv("FAKE_FAIL", "t0")
    given = {"pruner": {"kind": "none"}, "trials": 0} if kind == "grid" else {"trials": 1, "max_pruned": 1}
    space = {"optim.clip": {"choices": [1.0, 2.0]}}
    spec = tiny_spec(space=space, sampler={"kind": kind}, baselines={}, checks={}, **{"start": [], **given})
    launch = create(tmp_path, spec)
    steps(launch)
    state = progress.snapshot(launch)
    console = Console(file=io.StringIO(), width=200)
    _print_result(console, Result(launch, state))
    assert (
        f"the search ended with 0 of {state.trials_wanted} trials: {state.search.failed} were pruned or failed"
        in (said := console.file.getvalue())
    )
    assert why in said
    assert state.search.failed > 0
