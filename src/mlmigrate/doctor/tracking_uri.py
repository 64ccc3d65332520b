"""What may be wrong with MLFLOW_TRACKING_URI.

What MLflow understands is said by ``get_store_builder`` and ``get_uri_scheme`` in its
modules ``tracking.registry`` and ``utils.uri``.
"""

from __future__ import annotations

import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from mlmigrate.artifacts import is_local, local_path
from mlmigrate.doctor.places import (
    TRACKING_URI,
    VALID_DATABASE_URL,
    is_database_url,
    shown_of,
)
from mlmigrate.errors import LocationError
from mlmigrate.stores.mlflow_db.snapshot import sqlite_path

_DATABASES = frozenset({"postgresql", "mysql", "mssql"})
#: These may stand alone, and the first also before ``://PROFILE``.
_DATABRICKS = frozenset({"databricks", "databricks-uc", "uc"})
_SCHEMES = _DATABASES | _DATABRICKS | {"", "file", "http", "https", "sqlite"}
_HOST_AND_PORT = re.compile(r"([^/@\s]+@)?[\w.-]+:\d+(/.*)?$")
_VALID = "give http://HOST:PORT, sqlite:////PATH/FILE.db or postgresql://…"


def wrong_uri(uri: str, cwd: Path) -> tuple[str, str] | None:
    """Return what is wrong with a tracking URI and how to put it right, or None.

    Args:
        uri: the value of the variable, as it was set.
        cwd: the folder that relative paths count from.
    """
    bare = uri.strip("'\" \t\r\n")
    if bare != uri:
        what = "has blanks or quotes around it, which MLflow takes for a part of it"
        return what, _export(shown_of(bare)) if bare else _VALID
    if uri in _DATABRICKS:
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets that are no IPv6 address
        return f"is {shown_of(uri)}, which is no URL", _VALID
    scheme = parts.scheme.partition("+")[0]
    wrong = _wrong_scheme(uri, scheme)
    if wrong is not None:
        return wrong
    if scheme in ("http", "https"):
        return _wrong_server(uri, parts)
    if scheme == "sqlite":
        return _wrong_file(uri, cwd)
    if scheme in _DATABASES and not is_database_url(uri):
        what = f"is {shown_of(uri)}, which SQLAlchemy cannot parse"
        return what, VALID_DATABASE_URL
    if is_local(uri):
        return _wrong_folder(uri, cwd / local_path(uri))
    return None


def _export(uri: str) -> str:
    return f"export {TRACKING_URI}={shlex.quote(uri)}"


def _wrong_scheme(uri: str, scheme: str) -> tuple[str, str] | None:
    shown = shown_of(uri)
    if _HOST_AND_PORT.match(uri):
        what = f"is {shown}, which MLflow takes for a folder or an unknown scheme"
        return what, _export(f"http://{shown}")
    if scheme == "postgres":
        fix = _export(f"postgresql{shown.removeprefix(scheme)}")
        return f"is {shown}, but SQLAlchemy knows no 'postgres'", fix
    # One letter is a drive of Windows.
    if len(scheme) == 1 or scheme in _SCHEMES | _plugins():
        return None
    return f"is {shown}: MLflow knows no scheme {scheme!r}", _VALID


def _wrong_server(uri: str, parts: SplitResult) -> tuple[str, str] | None:
    if not parts.hostname:
        return f"is {shown_of(uri)}, which names no host", "give http://HOST:PORT"
    try:
        _ = parts.port
    except ValueError:  # its text may hold a piece of the password
        return f"is {shown_of(uri)}, whose port is none", "give http://HOST:PORT"
    return None


def _wrong_folder(uri: str, folder: Path) -> tuple[str, str] | None:
    if folder.is_dir():
        return None
    if folder.is_file():
        fix = f"{_export(f'sqlite:///{folder.absolute()}')}, if it is SQLite"
        return f"is {uri}, a file, where MLflow wants a folder", fix
    return (
        f"is {uri}: there is no folder {folder}, and MLflow would make an empty one",
        "give the folder that holds the experiments, which mlmigrate scan finds; or"
        " http://HOST:PORT for a server",
    )


def _wrong_file(uri: str, cwd: Path) -> tuple[str, str] | None:
    scheme, _, rest = uri.partition(":")
    path_given = rest.removeprefix("//")
    if path_given and not rest.startswith("///"):
        what = f"is {uri}: a path takes three slashes, or four if absolute"
        return what, _export(f"{scheme}:///{path_given}")
    try:
        path = sqlite_path(uri)
    except LocationError as error:
        return f"is no file: {error}", f"export {TRACKING_URI}=sqlite:////PATH/FILE.db"
    folder = (cwd / (path or "")).parent
    if folder.is_dir():
        return None
    fix = f"mkdir -p {shlex.quote(str(folder))}"
    return f"is {uri}, but there is no folder {folder}", fix


def _plugins() -> set[str]:
    return {point.name for point in entry_points(group="mlflow.tracking_store")}
