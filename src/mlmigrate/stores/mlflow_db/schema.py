"""The schema of an MLflow database that is written: made and named by MLflow itself.

MLflow is never imported into this process: making a schema takes it seconds and two
hundred megabytes, so a child process does it.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile, copyfileobj
from tempfile import TemporaryDirectory

import sqlalchemy as sa
from platformdirs import user_cache_path

from mlmigrate.artifacts import redact, short
from mlmigrate.errors import SchemaError, StoreError
from mlmigrate.partial_files import growing

#: Secondary indexes of MLflow's ``metrics`` table, which a bulk load makes last.
METRIC_INDEXES = {
    "index_metrics_run_uuid": ("run_uuid",),
    "index_metrics_run_uuid_key_step": ("run_uuid", "key", "step"),
}

#: Bytes of a page of a new SQLite file. With SQLite's own 4,096 a bulk load takes a
#: sixth longer.
_PAGE = 16384

#: How a session takes a lock that it holds until it ends.
_LOCKS = {
    "postgresql": "select pg_advisory_lock(7239051140)",
    "mysql": "select get_lock('mlmigrate.schema', 600)",
}

_MAKE = """
import sys
url = sys.stdin.read()
from mlflow.store.db.utils import (
    _initialize_tables, create_sqlalchemy_engine_with_retry,
)
_initialize_tables(create_sqlalchemy_engine_with_retry(url))
"""


@cache
def newest_revision() -> str:
    """Return the Alembic revision of the installed MLflow, read from its migrations.

    Raises:
        SchemaError: MLflow is not installed.
    """
    revisions: set[str] = set()
    replaced: set[str] = set()
    for path in (_installed() / "store/db_migrations/versions").glob("*.py"):
        text = path.read_text()
        revisions.update(re.findall(r'^revision\s*=\s*"(\w+)"', text, re.M))
        replaced.update(re.findall(r'^down_revision\s*=\s*"(\w+)"', text, re.M))
    (newest,) = revisions - replaced
    return newest


@cache
def names_table(table: str) -> bool:
    """Tell whether the installed MLflow has a table, by its models' source.

    Raises:
        SchemaError: MLflow is not installed.
    """
    # The tables of a database that is still being made cannot be asked for.
    return any(f'__tablename__ = "{table}"' in text for text in _models())


@cache
def _models() -> tuple[str, ...]:
    paths = (_installed() / "store").glob("*/dbmodels/models.py")
    return tuple(path.read_text() for path in paths)


def _installed() -> Path:
    """Return where MLflow is installed."""
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise SchemaError("MLflow is not installed: pip install mlflow")
    return Path(spec.origin).parent


@dataclass(frozen=True, slots=True)
class Making:
    """A schema on its way."""

    url: sa.URL
    child: subprocess.Popen[str] | None  # None: it was made earlier
    keep: Callable[[], bool]
    held: ExitStack  # a folder or a lock, until the schema stands

    def wait(self) -> bool:
        """Wait until the schema stands.

        Returns:
            True where it was made here; False where another process was first.

        Raises:
            StoreError: MLflow failed to make it.
        """
        with self.held:
            said = self.child.communicate()[1] if self.child else ""
            if self.child and self.child.returncode:
                last = redact((said.strip().splitlines() or ["no message"])[-1])
                shown = redact(self.url.render_as_string())
                raise StoreError(f"MLflow could not make its tables in {shown}: {last}")
            return self.keep()

    def abandon(self) -> None:
        """Stop. What a server database holds by then, the next copy completes."""
        with self.held:
            if self.child:
                self.child.kill()
                self.child.communicate()


def begin(url: sa.URL) -> Making | None:
    """Begin to make the installed MLflow's schema at *url*; None where it stands.

    Raises:
        SchemaError: it has another revision, or tables that are not MLflow's.
        StoreError: it cannot be reached.
    """
    if exists(url):
        return None
    with ExitStack() as held:
        place, keep = url, _stands
        if url.get_backend_name() != "sqlite":
            held.enter_context(_locked(url))
            if exists(url):  # made while this process waited for the lock
                return None
        elif not _has_bytes(path := Path(url.database or "")):
            # A SQLite file appears whole: it is made elsewhere.
            kept = kept_copy()
            if _is_newest(kept):
                return Making(url, None, partial(_put, kept, path), held.pop_all())
            folder = held.enter_context(TemporaryDirectory(prefix="mlmigrate-schema-"))
            made = Path(folder) / "mlflow.db"
            place, keep = url.set(database=str(made)), partial(_keep, made, kept, path)
        return Making(url, _child(place), keep, held.pop_all())


def _stands() -> bool:
    return True


def kept_copy() -> Path:
    """Return where a copy of an empty SQLite database is kept: MLflow takes seconds to
    make one, and all that one release makes are alike.
    """
    name = f"mlflow-{version('mlflow')}-{newest_revision()}-{_PAGE}.db"
    return user_cache_path("mlmigrate") / name


def _is_newest(path: Path) -> bool:
    """Tell whether *path* is an empty database of the installed MLflow's schema."""
    if not _has_bytes(path):
        return False
    url = sa.URL.create("sqlite", database=f"file:{path}", query={"mode": "ro"})
    engine = sa.create_engine(url.update_query_dict({"uri": "true"}))
    try:
        with engine.connect() as connection:
            found = connection.scalar(
                sa.text("select version_num from alembic_version")
            )
            return found == newest_revision() and _is_bare(connection)
    except sa.exc.SQLAlchemyError:
        return False  # whatever it is, a new one takes its place
    finally:
        engine.dispose()


def _keep(made: Path, kept: Path, path: Path) -> bool:
    """Put a new SQLite file in its place, and a copy where the next one finds it."""
    with closing(sqlite3.connect(made)) as database:
        database.execute(f"pragma page_size = {_PAGE}")
        database.execute("vacuum")  # by which a page size takes effect
    # A home that cannot be written only costs the next copy some seconds.
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_name(f"{kept.name}.{os.getpid()}")
        copyfile(made, beside)
        beside.replace(kept)
    return _put(made, path)


def _put(made: Path, path: Path) -> bool:
    """Put a new SQLite file in its place; False where another process was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with made.open("rb") as data, growing(path.parent) as (file, grown):
        copyfileobj(data, file)
        file.flush()
        if path.exists() and not path.stat().st_size:
            path.unlink()
        try:
            # A link, unlike a rename, fails where another process was first.
            os.link(grown, path)
        except FileExistsError:
            return False
    return True


@contextmanager
def _locked(url: sa.URL) -> Iterator[None]:
    """Hold a lock that the database server knows: of two processes, one makes the
    schema, the other waits.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        if (lock := _LOCKS.get(url.get_backend_name())) is not None:
            connection.execute(sa.text(lock))
            connection.commit()  # it is the session's, not the transaction's
        yield


def _child(place: sa.URL) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _MAKE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert child.stdin is not None
    child.stdin.write(place.render_as_string(hide_password=False))
    child.stdin.close()
    child.stdin = None
    return child


def _has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _is_bare(connection: sa.Connection) -> bool:
    """Tell whether nothing was ever written to MLflow's first tables."""
    return not any(
        connection.scalar(sa.text(f"select count(*) from {table}"))
        for table in ("runs", "experiments")
    )


def exists(url: sa.URL) -> bool:
    """Tell whether there are tables of MLflow's at *url*.

    Raises:
        SchemaError: they have another revision, or are not MLflow's.
        StoreError: it cannot be reached.
    """
    path = Path(url.database or "")
    if url.get_backend_name() == "sqlite" and not _has_bytes(path):
        return False
    shown = redact(url.render_as_string())
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            if not tables:
                return False
            found = (
                connection.scalar(sa.text("select version_num from alembic_version"))
                if "alembic_version" in tables
                else None
            )
            if "runs" in tables and found is None and _is_bare(connection):
                return False  # somebody was killed while making it: MLflow goes on
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"{shown} cannot be opened: {short(error)}") from error
    finally:
        engine.dispose()
    if "runs" not in tables:
        raise SchemaError(
            f"{shown} holds tables that are not MLflow's: give a new database"
        )
    newest = newest_revision()
    if found != newest:
        raise SchemaError(
            f"{shown} has schema revision {found}, and the installed MLflow"
            f" {version('mlflow')} needs {newest}; back the database up, then run:"
            f" mlflow db upgrade {shown}"
        )
    return True
