"""How many workers: what was asked for is kept, what is tried is remembered, ties and memory decide."""

import json
import sys

import pytest

from studies import staffing
from studies.objective import DEFAULT_RUNNER
from studies.staffing import (
    Measured,
    Split,
    Staffing,
    best_split,
    choose_staffing,
    planned_staffing,
    probe,
    splits,
)
from tests.suites.cells_only import CELLS
from tests.suites.study_launch import FAKE, tiny_spec
from workbench.errors import StudyError
from workbench.home import Home, open_home

GB = 10**9


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(staffing, "available_cores", lambda: 4)
    monkeypatch.setattr(staffing, "available_memory", lambda: 16 * GB)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return open_home(tmp_path)


def measured(rates, memory=GB):
    return [Measured(split, rate, memory) for split, rate in zip(splits(4), rates, strict=True)]


def test_splits_share_the_cores_out_evenly():
    assert splits(1) == [Split(1, 1)]
    assert splits(4) == [Split(4, 1), Split(2, 2), Split(1, 4)]
    assert all(s.workers * s.threads == 48 for s in splits(48))
    assert splits(48)[0] == Split(48, 1)
    assert splits(48)[-1] == Split(1, 48)
    assert len(splits(48)) == staffing.MOST_SPLITS


@pytest.mark.parametrize(
    ("rates", "memory", "expected"),
    [
        ((4.0, 3.0, 2.0), GB, Split(4, 1)),
        ((4.0, 3.9, 2.0), GB, Split(2, 2)),  # a tie: fewer workers
        ((1.0, 1.0, 1.0), GB, Split(1, 4)),
        ((4.0, 3.0, 2.0), 3 * GB, Split(2, 2)),  # 4 x 1.5 x 3 GB do not fit into 80 % of 16 GB
        ((4.0, 3.0, 2.0), 50 * GB, Split(1, 4)),  # nothing fits: the least
    ],
)
def test_the_fastest_that_fits(rates, memory, expected):
    found = best_split(measured(rates, memory), 16 * GB)
    assert found.split == expected
    assert len(found.measured) == 3
    assert str(expected) in found.words()


@pytest.mark.parametrize(
    ("workers", "threads", "expected"),
    [(3, None, Split(3, 1)), (1, None, Split(1, 4)), (9, None, Split(9, 1)), (2, 3, Split(2, 3))],
)
def test_what_was_asked_for_is_not_tried(home, monkeypatch, workers, threads, expected):
    monkeypatch.setattr(staffing, "measure_split", None)
    assert choose_staffing(tiny_spec(), home, workers=workers, threads=threads).split == expected


def test_threads_alone_fill_the_cores(home):
    assert choose_staffing(tiny_spec(), home, workers=None, threads=2).split == Split(2, 2)


def test_only_what_was_asked_for_is_said_to_be(home, monkeypatch):
    def words(workers, threads=None):
        return choose_staffing(tiny_spec(), home, workers=workers, threads=threads).words()

    assert words(2, 1) == "2 worker(s) x 1 thread(s): as asked for"
    assert words(2) == "2 worker(s) x 2 thread(s): workers as asked for, cores shared out"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert words(2) == "2 worker(s) x 3 thread(s): workers as asked for, threads by OMP_NUM_THREADS"
    assert words(2, 1) == "2 worker(s) x 1 thread(s): as asked for"
    for no_number in ("many", "²"):
        monkeypatch.setenv("OMP_NUM_THREADS", no_number)
        assert "cores shared out" in words(2)


def session(home, last=None, **given):
    """One that begins where another, as study.json tells of it, has ended."""
    stored = None if last is None else json.loads(json.dumps({"staffing": last.here().to_dict()}))
    known = staffing.last_session(stored)
    return choose_staffing(tiny_spec(), home, **{"workers": None, "threads": None, **given}, last=known)


def test_a_launch_that_goes_on_keeps_what_was_asked_for(home, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    first = session(home, workers=1, threads=1)
    second = session(home, first, workers=1)
    assert second.words() == "1 worker(s) x 1 thread(s): workers as asked for, threads as in the last session"
    third = session(home, second)
    assert third.words() == "1 worker(s) x 1 thread(s): as in the last session"
    assert session(home, third).split == Split(1, 1)
    assert session(home, third, workers=1).split == Split(1, 1)
    assert session(home, third, workers=2).words().endswith("workers as asked for, threads as in the last session")
    assert session(home, third, threads=2).words().endswith("threads as asked for, workers as in the last session")
    assert session(home, third, workers=1, threads=2).words().endswith(": as asked for")


def test_threads_that_were_asked_for_alone_are_kept_and_the_cores_filled(home):
    last = session(home, threads=2)
    said = "2 worker(s) x 2 thread(s): threads as in the last session, workers as many as 4 core(s) hold"
    assert session(home, session(home, last)).words() == said
    assert planned_staffing(tiny_spec(), home, workers=None, threads=None, last=last).words() == said


def test_what_was_chosen_is_chosen_again_with_its_threads_for_as_many_workers(home, monkeypatch):
    """OMP_NUM_THREADS has no part in it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(staffing, "measure_split", lambda _, split, __: Measured(split, float(split.workers), GB))
    chosen = session(home)
    assert chosen.split == Split(4, 1)
    assert session(home, chosen).words() == chosen.words()
    assert session(home, chosen, workers=4).split == Split(4, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"machine": "another"},
        {"machine": None},
        {"threads": 0},
        {"workers": "two"},
        {"threads": None},
        {"asked": 1},
    ],
)
def test_a_last_session_elsewhere_or_not_told_counts_for_nothing(change):
    good = staffing.Staffing(Split(1, 1), "as asked for", asked=("workers", "threads")).here().to_dict()
    assert staffing.last_session({"staffing": good}).split == Split(1, 1)
    assert staffing.last_session({"staffing": {**good, **change}}) is None


@pytest.mark.parametrize("stored", [None, {}, {"staffing": None}, {"staffing": [1]}, {"staffing": {"workers": 1}}])
def test_nor_does_a_study_file_without_one(stored):
    assert staffing.last_session(stored) is None


@pytest.mark.parametrize("given", [{"workers": 0, "threads": None}, {"workers": 1, "threads": -1}])
def test_numbers_below_one_are_refused(home, given):
    with pytest.raises(StudyError, match=r"--(workers|threads) must be at least 1 .*given"):
        choose_staffing(tiny_spec(), home, **given)


def test_the_probe_runs_once_and_is_told(home, monkeypatch):
    tried, notes = [], []

    def measure(config, split, cache):
        tried.append(split)
        return Measured(split, {4: 40e9, 2: 30e9, 1: 20e9}[split.workers], GB)

    monkeypatch.setattr(staffing, "measure_split", measure)
    spec = tiny_spec()
    assert planned_staffing(spec, home, workers=None, threads=None).split == Split(4, 1)
    assert tried == []
    for _ in range(2):
        found = choose_staffing(spec, home, workers=None, threads=None, note=notes.append)
        assert found.split == Split(4, 1)
        assert tried == splits(4)
    assert len(notes) == 1
    assert "4x1: 40, 2x2: 30, 1x4: 20" in found.words()
    assert json.loads(json.dumps(found.to_dict()))["gflops_per_second"] == {"4x1": 40.0, "2x2": 30.0, "1x4": 20.0}
    assert planned_staffing(spec, home, workers=None, threads=None) == found
    wider = tiny_spec(base={"model": {"kind": "calm", "backbone": {"width": 32, "num_heads": 2}}})
    choose_staffing(wider, home, workers=None, threads=None)
    assert len(tried) == 6, "another model is tried anew"


ROW = {"workers": 4, "threads": 1, "flops_per_second": 4.0, "memory": GB}
OTHERS = [
    {**ROW, "workers": 2, "threads": 2},
    {**ROW, "workers": 1, "threads": 4},
]


@pytest.mark.parametrize(
    "content",
    [
        "{broken",
        "[{}]",
        "[]",
        "5",
        "null",
        "[[1]]",
        json.dumps([ROW]),
        json.dumps([ROW, *OTHERS, ROW]),
        json.dumps([{**ROW, "flops_per_second": float("nan")}, *OTHERS]),
        json.dumps([{**ROW, "memory": float("inf")}, *OTHERS]),
        json.dumps([{**ROW, "memory": "much"}, *OTHERS]),
        json.dumps([{**ROW, "workers": 0}, *OTHERS]),
    ],
)
def test_a_damaged_probe_is_made_again(home, monkeypatch, content):
    monkeypatch.setattr(staffing, "measure_split", lambda _, split, __: Measured(split, float(split.workers), GB))
    spec, notes = tiny_spec(), []
    sound = choose_staffing(spec, home, workers=None, threads=None)
    (path,) = (home.cache / "probes").glob("*.json")
    before = path.read_text()
    path.write_text(content)
    assert "assumed" in planned_staffing(spec, home, workers=None, threads=None).reason
    assert choose_staffing(spec, home, workers=None, threads=None, note=notes.append) == sound
    assert len(notes) == 1
    assert path.read_text() == before


def test_a_failed_probe_is_not_remembered(home):
    config = staffing.first_config(tiny_spec())
    answers = [None, Measured(Split(1, 4), 1.0, GB)]
    assert len(probe(config, home, [Split(4, 1), Split(1, 4)], lambda *_: answers.pop(0))) == 1
    assert not list((home.cache / "probes").glob("*.json"))
    assert best_split([], GB).split.workers == 1


def test_no_worker_without_work(home, monkeypatch):
    spec = tiny_spec(**CELLS)  # two cells
    rates = {4: 4.0, 2: 3.0, 1: 2.0}
    monkeypatch.setattr(staffing, "measure_split", lambda c, s, _: Measured(s, rates[s.workers], GB))
    assert choose_staffing(spec, home, workers=None, threads=None).split == Split(2, 1)


def test_what_cannot_be_tried(home, monkeypatch):
    monkeypatch.setattr(staffing, "measure_split", None)
    assert choose_staffing(tiny_spec(), home, workers=None, threads=None, execute=FAKE).split == Split(4, 1)
    monkeypatch.setattr("workbench.speed.LARGEST", 10)
    large = choose_staffing(tiny_spec(), home, workers=None, threads=None)
    assert large.split == Split(1, 4)
    assert "too large" in large.reason
    monkeypatch.setattr(staffing, "available_cores", lambda: 1)
    assert (
        choose_staffing(tiny_spec(), home, workers=None, threads=None, execute=DEFAULT_RUNNER).split.workers == 1
    )


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import time; time.sleep(60)", "no answer within 0.5 seconds"),
        ("print('ready', flush=True); import time; time.sleep(60)", "no answer within 0.5 seconds"),
        ("raise SystemExit('no such corpus')", "no such corpus"),
        ("print('ready', flush=True)", "a process ended without a word"),
    ],
)
def test_a_probe_that_is_stuck_or_fails_ends_and_is_told(home, monkeypatch, caplog, program, reason):
    monkeypatch.setattr(staffing, "PROBE_TIMEOUT", 0.5 if "sleep" in program else 30.0)
    start = staffing._process
    monkeypatch.setattr(
        staffing, "_process", lambda _, threads, path: start([sys.executable, "-S", "-c", program], threads, path)
    )
    config = staffing.first_config(tiny_spec())
    assert staffing.measure_split(config, Split(2, 1), home.cache) is None
    assert f"2 worker(s) x 1 thread(s) could not be tried: {reason}" in caplog.text


def test_what_the_speed_depends_on_is_tried_anew():
    base = tiny_spec().to_dict()["base"]
    muon = {"kind": "muon", "matrix_every": 2}
    changes = [
        {},
        {"optim": {"kind": "muon"}},
        {"optim": muon},
        {"optim": muon, "train": {**base["train"], "cache_targets": False}},
        {"optim": muon, "train": {**base["train"], "cache_targets": True}},
    ]
    configs = [staffing.first_config(tiny_spec(base={**base, **change})) for change in changes]
    assert len({staffing.probe_key(config, splits(4)) for config in configs[:3]}) == 3
    assert len({staffing.probe_key(config, splits(4)) for config in configs[3:]}) == 2


@pytest.mark.slow
def test_processes_are_measured_at_the_same_time(home, monkeypatch):
    monkeypatch.setattr(staffing, "PROBE_SECONDS", 0.2)
    found = staffing.measure_split(staffing.first_config(tiny_spec()), Split(2, 1), home.cache)
    assert found is not None
    assert found.flops_per_second > 0
    assert 10**7 < found.memory < 10**10


@pytest.mark.parametrize(
    ("asked", "then", "split"),
    [
        (("threads",), {"workers": 2}, Split(2, 1)),
        (("workers", "threads"), {"workers": 3}, Split(3, 1)),
        (("workers",), {"threads": 3}, Split(1, 3)),
        (("workers",), {}, Split(1, 1)),
        (("workers",), {"workers": 2}, Split(2, 2)),
    ],
)
def test_what_is_left_out_is_as_in_the_last_session(tmp_path, monkeypatch, asked, then, split):
    """``last``: one worker with one thread, of which so much was ``asked``."""
    monkeypatch.setattr(staffing, "available_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    last = Staffing(Split(1, 1), "", asked=asked)
    given = {"workers": None, "threads": None, **then}
    found = choose_staffing(tiny_spec(), Home(tmp_path), **given, last=last)
    assert found.split == split
    assert set(found.asked) >= {*asked, *then}
