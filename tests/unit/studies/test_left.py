"""A launch that is continued where its text is not to be found is refused before a trial is spent on that."""

import pytest
from optuna.trial import TrialState

from studies import plan, prepare
from studies.prepare import Options
from tests.suites.cells_only import CELLS
from tests.suites.study_launch import FAKE, TINY, create, invoke, steps, tiny_home, tiny_spec
from workbench.errors import DataError

MISSING = (
    r"there is no file or folder mine\.txt \(looked from .*elsewhere\).* the folder that it was launched from$"
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Seen from a folder in which there is no mine.txt."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tiny_home(tmp_path / "home", monkeypatch)


def launched(home, **preset):
    launch = create(home.root, tiny_spec(**preset))
    prepare.write_study_file(launch, "none")
    return launch


def mine(**preset):
    return {**preset, "base": {**TINY["base"], "data": {"corpus": "text:mine.txt"}}}


def again(home, **options):
    return prepare.prepare(Options(**{"name": "tiny-quick", **options}), home)[0]


def retry(home, *more):
    return invoke("study", "retry", "tiny-quick", "--home", str(home.root), "--workers", "1", *more)


def test_it_is_refused_before_any_trial_and_nothing_is_changed(home):
    launch = launched(home, **mine())
    for more in ({}, {"trials": 6}):
        with pytest.raises(DataError, match=f"^{MISSING}"):
            again(home, **more)
    assert again(home, trials=6, execute=FAKE).spec.trials == 6, "a runner of one's own knows where its texts are"
    assert launch.search.get_trials() == launch.cells.get_trials() == []


@pytest.mark.parametrize("corpus", ["text:/nowhere/mine.txt", "none-such"])
def test_what_does_not_depend_on_the_folder_is_looked_for_in_no_other(home, corpus):
    launched(home, base={**TINY["base"], "data": {"corpus": corpus}})
    with pytest.raises(DataError, match=corpus.removeprefix("text:")) as caught:
        again(home)
    assert "launched from" not in str(caught.value)


def test_where_the_text_is_it_goes_on_and_nothing_is_read(home, tmp_path):
    launched(home, **mine())
    (tmp_path / "elsewhere" / "mine.txt").write_text("too small to train on")
    assert again(home, trials=6).spec.trials == 6
    assert not (home.root / ".cache" / "corpora").exists()


def test_a_raised_number_of_trials_that_is_refused_is_not_kept(home):
    launched(home, **mine())
    with pytest.raises(DataError):
        again(home, trials=6)
    assert prepare.find_launch(home, "tiny-quick").spec.trials == 5


@pytest.mark.slow
def test_what_has_ended_needs_no_text(home):
    launch = launched(home, **mine())
    steps(launch)
    assert plan.is_finished(launch.spec, launch.search, launch.cells)
    again(home)
    with pytest.raises(DataError, match=MISSING):
        again(home, trials=6)
    assert retry(home).output == "tiny-quick: nothing has failed\n"


@pytest.mark.slow
def test_checks_that_are_left_need_the_text_of_the_search(home):
    launch = launched(home, **mine())
    while not plan.search_ended(launch.spec, plan.count(launch.search.get_trials())):
        steps(launch, most=1)
    with pytest.raises(DataError, match=f"^{MISSING}"):
        again(home)


def test_of_cells_the_text_of_those_that_are_left(home, monkeypatch):
    cells = {"gone": {"data.corpus": "text:mine.txt"}, "there": {}}
    launch = launched(home, **{**CELLS, "baselines": cells})
    with pytest.raises(DataError, match=f"^cell gone: {MISSING}"):
        again(home)
    steps(launch, most=1)
    again(home)


def test_a_text_of_the_hub_is_not_asked_for(home, monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    launched(home, base={**TINY["base"], "data": {"corpus": "hub:owner/set", "hub": {"revision": "0" * 40}}})
    again(home)


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["small", "t000"])
def test_a_retry_is_refused_before_anything_is_queued(home, monkeypatch, fails):
    launch = launched(home, **mine(trials=1, checks={}))
    monkeypatch.setenv("FAKE_FAIL", fails)
    steps(launch, most=3)
    refused = retry(home)
    assert isinstance(refused.exception, DataError)
    assert "no file or folder mine.txt" in str(refused.exception)
    assert plan.count(launch.search.get_trials()).waiting == plan.count(launch.cells.get_trials()).waiting == 0
    assert "queued again" in retry(home, "--queue").output, "that needs none"
    assert isinstance(retry(home).exception, DataError)
    states = [t.state for s in (launch.search, launch.cells) for t in s.get_trials()]
    assert states.count(TrialState.WAITING) == 1
