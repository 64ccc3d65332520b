"""The schema of an MLflow database that is written: made and named by MLflow itself.

MLflow is never imported into this process: making a schema takes it seconds and two
hundred megabytes, so a child process does it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import sqlalchemy as sa

from mlmigrate.artifacts import redact, short
from mlmigrate.errors import SchemaError, StoreError

#: Secondary indexes of MLflow's ``metrics`` table, which a bulk load makes last.
METRIC_INDEXES = {
    "index_metrics_run_uuid": ("run_uuid",),
    "index_metrics_run_uuid_key_step": ("run_uuid", "key", "step"),
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
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise SchemaError("MLflow is not installed: pip install mlflow")
    folder = Path(spec.origin).parent / "store" / "db_migrations" / "versions"
    revisions: set[str] = set()
    replaced: set[str] = set()
    for path in folder.glob("*.py"):
        text = path.read_text()
        revisions.update(re.findall(r'^revision\s*=\s*"(\w+)"', text, re.M))
        replaced.update(re.findall(r'^down_revision\s*=\s*"(\w+)"', text, re.M))
    (newest,) = revisions - replaced
    return newest


def prepare(url: sa.URL) -> bool:
    """Make sure that the database at *url* has the installed MLflow's schema.

    Returns:
        True where the schema was made just now.

    Raises:
        SchemaError: it has another revision, or tables that are not MLflow's.
        StoreError: it cannot be reached.
    """
    if url.get_backend_name() == "sqlite":
        return _prepare_sqlite(url)
    if _check(url):
        return False
    _make(url)
    return True


def exists(url: sa.URL) -> bool:
    """Tell whether there are tables of MLflow's at *url*.

    Raises:
        SchemaError: they have another revision, or are not MLflow's.
        StoreError: it cannot be reached.
    """
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        if not path.exists() or not path.stat().st_size:
            return False
    return _check(url)


def _prepare_sqlite(url: sa.URL) -> bool:
    path = Path(url.database or "")
    if path.exists() and path.stat().st_size:
        if _check(url):
            return False
        _make(url)
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.mlmigrate-{os.getpid()}")
    try:
        _make(url.set(database=str(partial)))
        if path.exists() and not path.stat().st_size:
            path.unlink()
        try:
            # A link, unlike a rename, fails where another process was first.
            os.link(partial, path)
        except FileExistsError:
            return not _check(url)
    finally:
        for left in (partial, Path(f"{partial}-journal"), Path(f"{partial}-wal")):
            left.unlink(missing_ok=True)
    return True


def _check(url: sa.URL) -> bool:
    """Tell whether MLflow's tables are there; False for an empty database."""
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


def _make(url: sa.URL) -> None:
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    made = subprocess.run(
        [sys.executable, "-c", _MAKE],
        input=url.render_as_string(hide_password=False),
        text=True,
        capture_output=True,
        env=environment,
        check=False,
    )
    if made.returncode:
        last = redact((made.stderr.strip().splitlines() or ["no message"])[-1])
        shown = redact(url.render_as_string())
        raise StoreError(f"MLflow could not make its tables in {shown}: {last}")
