"""Studies that are refused: one message, nothing left behind, and a home as it was."""

import io
import re

import pytest
from rich.console import Console

from studies import database, prepare, storage
from studies import launch as launching
from studies.display import Display
from studies.prepare import Options
from studies.search_spec import HeartbeatSpec
from tests.suites.study_launch import FAKE, create, invoke, prepared_home, tiny_home, tiny_spec
from workbench.errors import TrackingError, UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    return tiny_home(tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "join"], r"no study or launch 'join'; did you mean joint\?"),
        (["show", "joint", "--preset", "huge"], r"no preset 'huge'; known: cpu, gpu, quick"),
        (["run", "joint", "--set", "optim.clipp=1"], r"did you mean optim.clip\?"),
        (["run", "joint", "--storage", "journal.log"], r"--storage wants a database URL"),
        (["run", "joint", "--set", "data.corpus=text:/nowhere.txt"], r"nowhere"),
        (["run", "joint", "--set", "eval.num_windows=99999"], r"set eval\.num_windows to at most"),
        (["status", "joint-quick"], r"no launch 'joint-quick'"),
        (["retry", "joint-quick"], r"no launch 'joint-quick'"),
        (["show", "correlation", "--trials", "2"], r"--trials 2: study correlation, preset quick, has no search"),
        (["run", "correlation", "--trials", "2"], r"--trials 2: study correlation, preset quick, has no search"),
        (
            ["run", "correlation", "--set", "data.corpus=kjv"],
            r"data.corpus cannot be set: every cell of study",
        ),
        (["run", "correlation", "--preset", "gpu"], r"^the model 'meta-llama/Llama-3.1-8B' cannot be had"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing_behind(tmp_path, arguments, message):
    result = invoke("study", *arguments, "--home", str(tmp_path / "new" / "home"))
    assert isinstance(result.exception, UserError)
    assert re.search(message, str(result.exception))
    left = list((tmp_path / "new" / "home").glob("*"))
    if "windows" in message:  # known once the text is prepared, and that is kept
        assert [path.name for path in left] == [".cache"]
    else:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--set", "data.corpus=text:/nowhere.txt"], r"nowhere"),
        (["--set", "eval.num_windows=99999"], r"set eval\.num_windows to at most"),
        (["--set", "runtime.device=cuda:99"], r"runtime.device: 'cuda:99' cannot be used here"),
        (["--tracking-uri", "http://127.0.0.1:9"], r"connection refused"),
    ],
)
def test_a_refused_launch_leaves_a_home_as_it_was(home, settings, message):
    """With a database, caches and runs of others in it."""
    prepared_home(home.root)
    (home.root / "single").mkdir()
    before = set(home.root.rglob("*"))
    result = invoke("study", "run", "tiny", *settings, "--home", str(home.root))
    assert re.search(message, str(result.exception))
    new = set(home.root.rglob("*")) - before
    told_apart = ("-wal", "-shm", ".verified")  # of the open database; what the cache remembers of a copied text
    assert [path for path in new if not path.name.endswith(told_apart)] == []
    assert all(path.exists() for path in before)


def test_a_refused_launch_makes_no_database_elsewhere(tmp_path):
    (tmp_path / "shared").mkdir()
    url = f"sqlite:///{tmp_path}/shared/optuna.db"
    arguments = ["--set", "data.corpus=text:/nowhere.txt", "--storage", url, "--home", str(tmp_path / "home")]
    assert "nowhere" in str(invoke("study", "run", "joint", *arguments).exception)
    assert list(tmp_path.rglob("*")) == [tmp_path / "shared"]


@pytest.mark.parametrize("command", ["run", "status", "retry"])
def test_nor_does_a_launch_that_a_mistyped_storage_does_not_know(tmp_path, command):
    launch = create(tmp_path / "home", tiny_spec(checks={}))
    prepare.write_study_file(launch, "none")
    arguments = [launch.name, "--storage", f"sqlite:///{tmp_path}/typo/x.db", "--home", str(tmp_path / "home")]
    assert re.search("typo/x.db does not know", str(invoke("study", command, *arguments).exception))
    assert not (tmp_path / "typo").exists()


def test_a_place_where_no_database_can_be_is_said_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["--storage", f"sqlite:///{tmp_path}/file/x/optuna.db", "--home", str(tmp_path / "home")]
    assert "cannot write into" in str(invoke("study", "run", "joint", *arguments).exception)
    assert list(tmp_path.rglob("*")) == [tmp_path / "file"]


@pytest.mark.slow
def test_a_study_with_unusable_text_can_be_launched_again_as_it_should_be(tmp_path):
    arguments = ["study", "run", "joint", "--home", str(tmp_path), "--execute", FAKE, "--trials", "1"]
    wrong = invoke(
        *[a for a in arguments if a not in ("--execute", FAKE)], "--set", "data.corpus=text:/nowhere.txt"
    )
    assert isinstance(wrong.exception, UserError)
    assert invoke(*arguments).exit_code == 0


def test_a_tracking_server_that_does_not_answer_leaves_no_launch_behind(home):
    options = Options(name="tiny", tracking_uri="http://127.0.0.1:9", execute=FAKE)
    with pytest.raises(TrackingError, match="connection refused"):
        launching.run(options, home, Display(Console(file=io.StringIO()), "tiny"))
    assert not (home.root / "tiny-quick").exists()
    assert storage.load("tiny-quick", database.open_storage(home.optuna_url, home, HeartbeatSpec())) is None


def test_ctrl_c_before_a_worker_has_begun_is_answered(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("studies.launch.run", interrupted)
    done = invoke("study", "run", "joint", "--home", str(tmp_path), "--execute", FAKE)
    assert done.exit_code == 130
    assert "calm: interrupted; the same command goes on" in done.stderr
