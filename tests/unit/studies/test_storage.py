"""Storage addresses, seeds of samplers, trials given back to the queue."""

import contextlib
import sqlite3

import optuna
import pytest

from studies import database, storage
from studies.search_spec import HeartbeatSpec, PrunerSpec, SamplerSpec
from tests.suites.study_launch import create, tiny_spec
from workbench.errors import StudyError
from workbench.home import open_home

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # ask() stands for another worker


def test_the_default_is_the_homes_sqlite(tmp_path):
    home = open_home(tmp_path)
    assert database.storage_url(None, home) == f"sqlite:///{tmp_path}/optuna.db"


def test_a_relative_sqlite_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert database.storage_url("sqlite:///x.db", open_home(tmp_path)) == f"sqlite:///{tmp_path}/x.db"


@pytest.mark.parametrize(
    "url", ["journal.log", "grpc://localhost:13000", "journal:///tmp/x.log", "http://host:1", ""]
)
def test_storages_without_a_heartbeat_are_refused(tmp_path, url):
    with pytest.raises(StudyError, match=r"--storage wants a database URL .*no heartbeat"):
        database.storage_url(url, open_home(tmp_path))


def test_a_database_in_memory_is_refused(tmp_path):
    with pytest.raises(StudyError, match="all workers see"):
        database.storage_url("sqlite:///:memory:", open_home(tmp_path))


def test_the_scheme_is_postgresqls_own(tmp_path):
    with pytest.raises(StudyError, match=r"wants postgresql://, .* not postgres://"):
        database.storage_url("postgres://me:secret@db.example/calm", open_home(tmp_path))


def test_postgresql_passes_through_with_its_password(tmp_path):
    url = database.storage_url("postgresql://me:secret@db.example/calm", open_home(tmp_path))
    assert url == "postgresql://me:secret@db.example/calm"
    assert database.masked(url) == "postgresql://me:***@db.example/calm"


@pytest.mark.parametrize("url", ["postgresql://me:secret@127.0.0.1:1/calm", "nosuchdb://me:secret@127.0.0.1/calm"])
def test_a_database_that_cannot_be_opened_is_one_message_without_the_password(tmp_path, url):
    with pytest.raises(StudyError, match=r"needs a database driver|cannot be opened") as caught:
        database.open_storage(url, open_home(tmp_path), HeartbeatSpec())
    assert "secret" not in str(caught.value)


def test_a_damaged_database_is_one_message(tmp_path):
    home = open_home(tmp_path)
    (home.root / "optuna.db").write_bytes(b"no database " * 100)
    said = r"optuna\.db is damaged, or no database \(file is not a database\); check .* bring back a copy of it"
    with pytest.raises(StudyError, match=said):
        database.open_storage(home.optuna_url, home, HeartbeatSpec())


def test_a_database_that_another_program_holds_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "SQLITE_TIMEOUT", 0.01)
    home = open_home(tmp_path)
    with contextlib.closing(sqlite3.connect(home.root / "optuna.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StudyError, match=r"cannot be opened: database is locked; .*no other program"):
            database.open_storage(home.optuna_url, home, HeartbeatSpec())


def test_write_ahead_is_switched_on_once(tmp_path):
    """The switch wants the file for itself, which a worker that reads would refuse."""
    path = tmp_path / "optuna.db"
    database._write_ahead(path)
    with contextlib.closing(sqlite3.connect(path)) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        said = []
        connect = sqlite3.connect

        def listening(*given, **named):
            connection = connect(*given, **named)
            connection.set_trace_callback(said.append)
            return connection

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite3, "connect", listening)
            database._write_ahead(path)
        assert said == ["PRAGMA journal_mode"]


def test_the_sampler_depends_on_the_trial_and_not_on_the_worker():
    def draws(number, seed=0):
        spec = SamplerSpec(kind="random", seed=seed)
        return storage.make_sampler(spec, number)._rng.rng.random(4).tolist()

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
    assert draws(3) != draws(3, seed=1)


def test_pruners():
    assert type(storage.make_pruner(PrunerSpec(kind="none"))).__name__ == "NopPruner"
    assert type(storage.make_pruner(PrunerSpec())).__name__ == "PercentilePruner"


def test_creating_twice_queues_the_starting_points_once(tmp_path):
    spec = tiny_spec(start=[{"model.chunk_size": 4}, {"model.chunk_size": 1}])
    create(tmp_path, spec)
    launch = create(tmp_path, spec)
    assert len(launch.search.get_trials()) == 2
    assert storage.stored_spec(launch.search) == spec


def test_a_starting_point_that_stands_there_twice_is_queued_twice(tmp_path, monkeypatch):
    """Also where the creation broke off in between."""
    four, one = {"model.chunk_size": 4}, {"model.chunk_size": 1}
    spec = tiny_spec(start=[four, one, four, one], trials=5)
    real, queued = optuna.Study.enqueue_trial, []

    def broken(study, params, **given):
        queued.append(params)
        if len(queued) == 4:
            raise KeyboardInterrupt
        return real(study, params, **given)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "enqueue_trial", broken)
        with pytest.raises(KeyboardInterrupt):
            create(tmp_path, spec)
    launch = create(tmp_path, spec)
    assert [t.system_attrs["fixed_params"] for t in launch.search.get_trials()] == [four, one, four, one]
