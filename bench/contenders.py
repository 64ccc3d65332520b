"""
The tools that are compared: what each runs, on what, and how its work is counted.

A contender is a context manager: it prepares a target, yields the `Job` that is
measured, and clears up.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from generate import Shape, generate  # noqa: E402
from support import postgres, servers  # noqa: E402

FILE_STORE = {"MLFLOW_ALLOW_FILE_STORE": "true"}

#: What it runs with is pinned, so that figures of different days can be compared. It
#: imports tabulate without asking for it.
EXPORT_IMPORT = ("mlflow-export-import==1.2.0", "tabulate", "psycopg[binary]")


@dataclass(frozen=True)
class Job:
    """Commands that are measured together."""

    commands: list[list[str]]
    env: dict[str, str] = field(default_factory=dict)
    #: Counts the metric points in the target afterwards: proof that it was work.
    points: Callable[[], int] | None = None
    #: Counts the bytes of the target, where its size is of interest.
    written: Callable[[], int] | None = None


@dataclass(frozen=True)
class Task:
    """What a contender is given."""

    store: Path
    runs: int
    #: Empty, and removed afterwards.
    folder: Path
    workers: int | None


Prepare = Callable[[Task], AbstractContextManager[Job]]


@dataclass(frozen=True)
class Contender:
    """A tool with a name for the table; *ours* is what the others are compared to."""

    name: str
    prepare: Prepare
    ours: bool = False
    #: How many times the asked-for runs its store has.
    scale: int = 1


def again(contender: Contender) -> Contender:
    """The same job a second time, on the target that the first has filled."""

    @contextmanager
    def prepare(task: Task) -> Iterator[Job]:
        with contender.prepare(task) as job:
            for command in job.commands:
                subprocess.run(
                    command,
                    env={**os.environ, **job.env},
                    cwd=task.folder,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=True,
                )
            yield job

    return Contender(f"{contender.name}, again", prepare, contender.ours)


def scaled(contender: Contender, scale: int) -> Contender:
    """The same job on a store *scale* times as large."""
    name = f"{contender.name}, {scale} x"
    return Contender(name, contender.prepare, contender.ours, scale)


def ours(task: Task, *arguments: str, command: str = "copy") -> list[str]:
    """Return a command of mlmigrate over the task's store."""
    workers = [] if task.workers is None else ["--workers", str(task.workers)]
    words = [sys.executable, "-m", "mlmigrate", command, str(task.store)]
    return [*words, *arguments, *workers]


def bare(what: str, where: str | Path, runs: int, threads: int = 4) -> list[str]:
    command = [sys.executable, str(HERE / "bare.py"), what, str(where)]
    return [*command, "--runs", str(runs), "--threads", str(threads)]


def sqlite_points(path: Path) -> Callable[[], int]:
    def count() -> int:
        with closing(sqlite3.connect(path)) as connection:
            (found,) = connection.execute("SELECT count(*) FROM metrics").fetchone()
        return int(found)

    return count


def _postgres_points(uri: str) -> Callable[[], int]:
    def count() -> int:
        import psycopg

        with psycopg.connect(uri.replace("+psycopg", "")) as connection:
            row = connection.execute("SELECT count(*) FROM metrics").fetchone()
        return int(row[0]) if row else 0

    return count


# Into SQLite


@contextmanager
def ours_sqlite(task: Task) -> Iterator[Job]:
    # The first new database of a machine: nothing is kept of an earlier one. What
    # other libraries keep (matplotlib's fonts take seconds) is there, as for anyone.
    target, cache = task.folder / "target.db", task.store.parent / "cache"
    if not cache.exists():
        subprocess.run(
            [sys.executable, "-c", "import mlflow.store.db.utils"],
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            check=True,
        )
    shutil.rmtree(cache / "mlmigrate", ignore_errors=True)
    command = ours(task, f"sqlite:///{target}")
    yield Job([command], {"XDG_CACHE_HOME": str(cache)}, sqlite_points(target))


@contextmanager
def ours_sqlite_later(task: Task) -> Iterator[Job]:
    first = f"sqlite:///{task.folder / 'first.db'}"
    with ours_sqlite(task) as job:
        empty = [sys.executable, "-m", "mlmigrate", "copy", str(task.store), first]
        subprocess.run(
            [*empty, "--experiment", "none of this name"],
            env={**os.environ, **job.env},
            capture_output=True,
            check=True,
        )
        yield job


@contextmanager
def migrate_filestore(task: Task) -> Iterator[Job]:
    target = task.folder / "target.db"
    command = [sys.executable, "-m", "mlflow", "migrate-filestore"]
    command += ["--source", str(task.store), "--target", f"sqlite:///{target}"]
    yield Job([command], FILE_STORE, sqlite_points(target))


@contextmanager
def bare_sqlite(task: Task) -> Iterator[Job]:
    target = task.folder / "target.db"
    servers.fresh_database(target)
    yield Job([bare("sqlite", target, task.runs)], points=sqlite_points(target))


# Into PostgreSQL


@contextmanager
def ours_postgres_new(task: Task) -> Iterator[Job]:
    with postgres.postgres_database() as uri:
        yield Job([_ours_postgres(task, uri)], points=_postgres_points(uri))


@contextmanager
def ours_postgres_filled(task: Task) -> Iterator[Job]:
    # With as many runs of another store.
    other = task.store.parent / "other" / "mlruns"
    if not other.exists():
        generate(other, Shape(runs=task.runs), seed=1)
    with postgres.postgres_database(schema=True) as uri:
        filling = _ours_postgres(replace(task, store=other), uri)
        subprocess.run(filling, capture_output=True, check=True)
        yield Job([_ours_postgres(task, uri)], points=_postgres_points(uri))


def _ours_postgres(task: Task, uri: str) -> list[str]:
    return ours(task, uri, "-o", f"artifact-root={task.folder / 'artifacts'}")


@contextmanager
def export_import_postgres(task: Task) -> Iterator[Job]:
    # Straight into a database it imports nothing, yet ends with 0: it expects the
    # exceptions of a server.
    with (
        postgres.postgres_database(schema=True) as uri,
        servers.mlflow_server(task.folder / "server", backend_uri=uri) as url,
    ):
        yield replace(export_import(task, url), points=_postgres_points(uri))


@contextmanager
def bare_postgres(task: Task) -> Iterator[Job]:
    with postgres.postgres_database(schema=True) as uri:
        command = bare("postgres", uri, task.runs)
        yield Job([command], points=_postgres_points(uri))


# Into a server with SQLite; its own time is not counted as cpu

#: What `mlflow server` starts unless told otherwise.
DEFAULT_WORKERS = 4


def into_server(
    job: Callable[[Task, str], Job], workers: int = DEFAULT_WORKERS
) -> Prepare:
    """Run what *job* makes of a task and the URL of a new, empty server."""

    @contextmanager
    def prepare(task: Task) -> Iterator[Job]:
        folder = task.folder / "server"
        with servers.mlflow_server(folder, workers=workers) as url:
            yield replace(job(task, url), points=sqlite_points(folder / "mlflow.db"))

    return prepare


def ours_server(task: Task, url: str) -> Job:
    return Job([ours(task, url)])


def bare_server(task: Task, url: str) -> Job:
    return Job([bare("server", url, task.runs)])


# Reading only


@contextmanager
def ours_read(task: Task) -> Iterator[Job]:
    yield Job([ours(task, "--json", command="inspect")])


@contextmanager
def mlflow_client(task: Task) -> Iterator[Job]:
    yield Job([bare("filestore", task.store, task.runs)], FILE_STORE)


@contextmanager
def tar(task: Task) -> Iterator[Job]:
    # Through a pipe: tar notices /dev/null and then reads nothing.
    store = shlex.quote(str(task.store))
    yield Job([["sh", "-c", f"tar cf - {store} 2>/dev/null | cat >/dev/null"]])


# mlflow-export-import


def export_import(task: Task, target: str) -> Job:
    programs = export_import_programs()
    middle = task.folder / "exported"
    source = ["env", f"MLFLOW_TRACKING_URI={task.store}"]
    sink = ["env", f"MLFLOW_TRACKING_URI={target}"]
    export = [*source, str(programs / "export-experiments"), "--experiments", "all"]
    import_ = [*sink, str(programs / "import-experiments"), "--input-dir", str(middle)]
    return Job([[*export, "--output-dir", str(middle)], import_], FILE_STORE)


def export_import_programs() -> Path:
    """Return where its commands are, installing it at first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    venv = cache / "mlmigrate-bench" / f"export-import-{version('mlflow')}"
    done = venv / "complete"
    if not done.exists():
        create = [sys.executable, "-m", "venv", "--clear", str(venv)]
        subprocess.run(create, check=True)
        install = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        wanted = [*EXPORT_IMPORT, f"mlflow=={version('mlflow')}"]
        subprocess.run([*install, *wanted], check=True)
        done.touch()
    return venv / "bin"


MLMIGRATE_SQLITE = Contender("mlmigrate", ours_sqlite, ours=True)
MIGRATE_FILESTORE = Contender("mlflow migrate-filestore", migrate_filestore)
EXPORT_IMPORT_SERVER = Contender("mlflow-export-import", into_server(export_import))

SCENARIOS: dict[str, list[Contender]] = {
    "sqlite": [
        MLMIGRATE_SQLITE,
        Contender("mlmigrate, later", ours_sqlite_later, ours=True),
        MIGRATE_FILESTORE,
        Contender("executemany alone", bare_sqlite),
    ],
    "postgres": [
        Contender("mlmigrate, new", ours_postgres_new, ours=True),
        Contender("mlmigrate, filled", ours_postgres_filled, ours=True),
        Contender("mlflow-export-import", export_import_postgres),
        Contender("COPY alone", bare_postgres),
    ],
    "server": [
        Contender("mlmigrate", into_server(ours_server), ours=True),
        EXPORT_IMPORT_SERVER,
        Contender("log-batch alone", into_server(bare_server)),
    ],
    "one-worker": [
        Contender("mlmigrate", into_server(ours_server, 1), ours=True),
        Contender("log-batch alone", into_server(bare_server, 1)),
    ],
    "read": [
        Contender("mlmigrate", ours_read, ours=True),
        Contender("mlflow's client", mlflow_client),
        Contender("tar", tar),
    ],
    "memory": [
        MLMIGRATE_SQLITE,
        scaled(MLMIGRATE_SQLITE, 10),
    ],
    "repeat": [
        MLMIGRATE_SQLITE,
        again(MLMIGRATE_SQLITE),
        again(MIGRATE_FILESTORE),
        again(EXPORT_IMPORT_SERVER),
    ],
}
