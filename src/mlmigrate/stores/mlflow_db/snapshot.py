"""Opening a database without changing it, so that it stands still while it is read.

SQLite: `mlmigrate.sqlite_snapshot`. PostgreSQL and MySQL: `server_snapshot`.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy.engine import Engine

from mlmigrate.errors import LocationError
from mlmigrate.sqlite_snapshot import (
    Cleanup,
    check_unchanged,
    missing_bytes,
    open_shared,
    open_snapshot,
    shared_path,
)
from mlmigrate.stores.mlflow_db.server_snapshot import open_server, redacted

__all__ = [
    "check_unchanged",
    "missing_bytes",
    "open_readonly",
    "redacted",
    "sqlite_path",
]


def open_readonly(
    location: str, temp_dir: str | os.PathLike[str] | None = None
) -> tuple[Engine, str, Cleanup]:
    """Open the database at *location* for reading.

    Args:
        location: a SQLAlchemy URL, the path of a SQLite file, or a shared location.
        temp_dir: where a copy is put if one is needed; the system's place if None.

    Returns:
        An engine whose connections all see the same state; a shared location, by which
        another process opens that same state; and what removes the copy, if any.

    Raises:
        StoreNotFound: there is no such file.
        StoreError: it is no SQLite database, the server does not answer, or the space
            does not suffice for a copy.
        LocationError: not a kind of database that MLflow is read from.
    """
    if shared_path(location) is not None:
        return open_shared(location), location, _nothing
    path = sqlite_path(location)
    if path is None:
        return open_server(location)
    return open_snapshot(path, Path(temp_dir or tempfile.gettempdir()))


def sqlite_path(location: str) -> Path | None:
    """Return the path of the file that *location* names; None for a server."""
    shared = shared_path(location)
    if shared is not None:
        return shared
    scheme, separator, rest = location.partition("://")
    if not separator:
        return Path(location.removeprefix("sqlite:"))
    if not scheme.startswith("sqlite"):
        return None
    name = rest.removeprefix("/").partition("?")[0]
    if name.startswith("file:"):
        name = unquote(re.sub(r"^file:(//(localhost)?(?=/))?", "", name))
    if name in ("", ":memory:"):
        raise LocationError(f"{location} names no file: give sqlite:///PATH")
    return Path(name)


def _nothing() -> None:
    pass
