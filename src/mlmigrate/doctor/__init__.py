"""The usual traps around MLflow: where runs really go, and what breaks their store.

Each check looks and never touches: a database is opened as for a copy, a lock is tried
on a read-only connection, a server gets a few GETs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mlmigrate.doctor.check import Check
from mlmigrate.doctor.contents import diagnose_contents
from mlmigrate.doctor.databases import diagnose_database_server
from mlmigrate.doctor.environment import diagnose_environment
from mlmigrate.doctor.places import (
    DATABASE_SERVERS,
    TRACKING_URI,
    database_file,
    is_server,
    placed,
    scheme_of,
)
from mlmigrate.doctor.servers import diagnose_server
from mlmigrate.doctor.sqlite_files import diagnose_file
from mlmigrate.locations import resolve

__all__ = ["Check", "diagnose"]

#: Where one of these fails, there is nothing to read.
_FATAL = frozenset({"file", "server", "login", "integrity"})


def diagnose(
    location: str | None, environ: Mapping[str, str], cwd: str | Path
) -> list[Check]:
    """Look for the usual traps.

    Args:
        location: a store, which is also read whole for dead artifact URIs and
            credentials; None for where MLflow would log to.
        environ: the environment variables.
        cwd: the folder that relative paths count from.

    Raises:
        LocationError: no adapter understands *location*.
    """
    folder = Path(cwd)
    if location is not None:
        return list(_diagnose_store(location, environ, folder))
    uri = environ.get(TRACKING_URI, "")
    checks = list(diagnose_environment(uri, folder))
    if uri.strip() and checks[0].ok:
        checks += _diagnose_place(uri, environ, folder)
    return checks


def _diagnose_store(
    location: str, environ: Mapping[str, str], cwd: Path
) -> Iterator[Check]:
    opened = resolve(placed(location, cwd))
    checks = list(_diagnose_place(location, environ, cwd))
    yield from checks
    if all(check.ok or check.name not in _FATAL for check in checks):
        yield from diagnose_contents(opened)


def _diagnose_place(
    location: str, environ: Mapping[str, str], cwd: Path
) -> Iterator[Check]:
    """Check where a store is, without reading its runs."""
    if is_server(location):
        yield from diagnose_server(location, environ)
        return
    path = database_file(location, cwd)
    if path is not None:
        yield from diagnose_file(path)
    elif scheme_of(location) in DATABASE_SERVERS:
        yield from diagnose_database_server(location)
