"""What a location names, seen before any adapter opens it."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa

from mlmigrate.artifacts import redact
from mlmigrate.errors import LocationError
from mlmigrate.stores.mlflow_db.snapshot import redacted, sqlite_path

TRACKING_URI = "MLFLOW_TRACKING_URI"
#: Schemes of the database servers that mlmigrate reads and writes.
DATABASE_SERVERS = frozenset({"postgresql", "postgres", "mysql", "mariadb"})
#: What to do where such a URL cannot be parsed.
VALID_DATABASE_URL = (
    "give postgresql://USER:PASSWORD@HOST:PORT/NAME, %40 for @ in a password"
)

_FILE_URL = re.compile(r"sqlite(\+\w+)?:")
_URL = re.compile(r"[a-z][a-z0-9_+.-]+:")
_LOGIN = re.compile(r"([^/@\s:]+):[^/@\s]+@")


def scheme_of(location: str) -> str:
    """Return the scheme without its driver; empty where there is none."""
    return location.partition(":")[0].partition("+")[0] if ":" in location else ""


def is_server(location: str) -> bool:
    """Tell whether *location* is the URL of an MLflow server."""
    return location.startswith(("http://", "https://"))


def is_database_url(location: str) -> bool:
    """Tell whether SQLAlchemy, and so MLflow, can parse *location*."""
    try:
        sa.make_url(location)
    except (sa.exc.ArgumentError, ValueError):  # the latter for a port in letters
        return False
    return True


def database_file(location: str, cwd: Path) -> Path | None:
    """Return the SQLite file that *location* names; None for anything else.

    Raises:
        LocationError: it is a URL of SQLite's that names no file.
    """
    if _FILE_URL.match(location):
        path = sqlite_path(location)
        return cwd / path if path else None
    if "://" in location or location.startswith("file:"):
        return None
    path = cwd / location
    looks_like = path.suffix in (".db", ".sqlite", ".sqlite3")
    return path if path.is_file() or (looks_like and not path.is_dir()) else None


def placed(location: str, cwd: Path) -> str:
    """Return *location* as the adapters understand it from any folder.

    Raises:
        LocationError: it is a URL of SQLite's that names no file.
    """
    path = database_file(location, cwd)
    if path is not None:
        # The plain path of an existing file says more than a URL: it may be no
        # database at all.
        return str(path) if path.is_file() else f"sqlite:///{path}"
    if _URL.match(location):
        return location
    return str(cwd / location)


def shown_of(uri: str) -> str:
    """Return *uri*, be it valid or not, without its secrets."""
    if "://" not in uri:
        return _LOGIN.sub(r"\1:***@", uri)  # a URL whose scheme was forgotten
    if scheme_of(uri) not in DATABASE_SERVERS | {"mssql"} or not is_database_url(uri):
        return redact(uri)
    try:
        # The driver is told as it was given, not as mlmigrate would choose it.
        return uri.partition(":")[0] + ":" + redacted(uri).partition(":")[2]
    except LocationError:
        return redact(uri)
