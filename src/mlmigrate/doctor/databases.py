"""A database: whether it is sound, its revision and its indexes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import sqlalchemy as sa

from mlmigrate.artifacts import short
from mlmigrate.doctor.check import Check
from mlmigrate.doctor.places import VALID_DATABASE_URL, is_database_url, shown_of
from mlmigrate.errors import SchemaError, StoreError
from mlmigrate.stores.mlflow_db.schema import METRIC_INDEXES, newest_revision
from mlmigrate.stores.mlflow_db.snapshot import open_readonly, redacted


def diagnose_database_server(location: str) -> Iterator[Check]:
    """Check a database by its URL: that it can be reached, its revision and indexes."""
    if not is_database_url(location):
        what = f"{shown_of(location)} cannot be parsed as the URL of a database"
        yield Check("integrity", False, what, VALID_DATABASE_URL)
        return
    yield from diagnose_database(location, redacted(location))


def diagnose_database(location: str, shown: str) -> Iterator[Check]:
    """Check a database's integrity, its revision and its indexes.

    Args:
        location: the path of a SQLite file, or a URL that can be parsed.
        shown: the location without its secrets.
    """
    try:
        engine, _, cleanup = open_readonly(location)
    except StoreError as error:
        fix = "put right what the message says, or restore a backup"
        yield Check("integrity", False, str(error), fix)
        return
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                yield _integrity(connection, shown)
            else:
                yield Check("integrity", True, f"{shown} answers")
            yield from _diagnose_schema(connection, shown)
    except sa.exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        sqlite = engine.dialect.name == "sqlite"
        fix = _recovery(shown) if sqlite else "put right what the message says"
        yield Check("integrity", False, f"{shown} cannot be read: {short(cause)}", fix)
    finally:
        engine.dispose()
        cleanup()


def _integrity(connection: sa.Connection, shown: str) -> Check:
    rows = connection.exec_driver_sql("PRAGMA quick_check(5)").all()
    wrong = [str(text) for (text,) in rows if text != "ok"]
    if not wrong:
        return Check("integrity", True, f"{shown} is a sound SQLite database")
    first = " ".join(wrong[0].split())[:200]
    return Check("integrity", False, f"{shown} is damaged: {first}", _recovery(shown))


def _recovery(shown: str) -> str:
    command = f"sqlite3 {shlex.quote(shown)} .recover | sqlite3 NEW.db"
    return f"restore a backup, or recover it: {command}"


def _diagnose_schema(connection: sa.Connection, shown: str) -> Iterator[Check]:
    inspector = sa.inspect(connection)
    tables = set(inspector.get_table_names())
    if not {"runs", "experiments"} <= tables:
        fix = "give the database that MLflow writes to"
        yield Check("schema", False, f"{shown} holds no tables of MLflow's", fix)
        return
    found = (
        connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        if "alembic_version" in tables
        else None
    )
    try:
        newest = newest_revision()
    except SchemaError as error:
        yield Check("schema", False, str(error), "pip install mlflow")
        return
    if found == newest:
        yield Check("schema", True, f"schema revision {found}, the installed MLflow's")
        yield _indexes(inspector, shown)
        return
    older = found is None or _is_known(str(found))
    what = f"schema revision {found} is {'older' if older else 'newer'} than that of"
    url = shown if "://" in shown else f"sqlite:///{Path(shown).absolute()}"
    fix = (
        f"back it up, then: mlflow db upgrade {shlex.quote(url)}; or copy it, as it is"
        f" read at any revision: mlmigrate copy {shlex.quote(shown)} sqlite:///new.db"
        if older
        else "pip install --upgrade mlflow"
    )
    yield Check("schema", False, f"{what} the installed MLflow ({newest})", fix)


def _is_known(revision: str) -> bool:
    """Tell whether the installed MLflow has such a revision."""
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None or not re.fullmatch(r"\w+", revision):
        return False
    folder = Path(spec.origin).parent / "store" / "db_migrations" / "versions"
    return any(folder.glob(f"{revision}_*.py"))


def _indexes(inspector: sa.Inspector, shown: str) -> Check:
    have = {tuple(index["column_names"]) for index in inspector.get_indexes("metrics")}
    missing = [name for name, columns in METRIC_INDEXES.items() if columns not in have]
    if not missing:
        return Check("indexes", True, "the table of metrics has its indexes")
    what = f"{shown} lacks {', '.join(missing)}: a copy into it was broken off"
    return Check("indexes", False, what, "run the same `mlmigrate copy` again")
