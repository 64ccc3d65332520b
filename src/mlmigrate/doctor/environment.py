"""Where MLflow would log to from here, and the stores that lie about."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

from mlmigrate.artifacts import host_of, is_local, local_path
from mlmigrate.discover import scan
from mlmigrate.doctor.check import SHOWN, Check, listed, many
from mlmigrate.doctor.places import (
    DATABASE_SERVERS,
    TRACKING_URI,
    database_file,
    is_server,
    scheme_of,
    shown_of,
)
from mlmigrate.doctor.tracking_uri import wrong_uri

#: Below a folder of projects, their stores lie at most so deep.
_DEPTH = 4
_LOOPBACK = frozenset({"localhost", "0.0.0.0", "::1"})


def diagnose_environment(uri: str, cwd: Path) -> Iterator[Check]:
    """Check the tracking URI, first of all, and look for stores that it does not name.

    Args:
        uri: the value of MLFLOW_TRACKING_URI; empty where it is not set.
        cwd: the folder that runs would be started in.
    """
    found = [place for place in scan([cwd], _DEPTH) if isinstance(place, str)]
    if not uri.strip():
        yield _unset(found, cwd)
        return
    wrong = wrong_uri(uri, cwd)
    if wrong is not None:
        what, fix = wrong
        yield Check("tracking-uri", False, f"{TRACKING_URI} {what}", fix)
    else:
        yield Check("tracking-uri", True, f"{TRACKING_URI} is {shown_of(uri)}")
    target = _local_target(uri, cwd) if wrong is None else ""
    stray = [place for place in found if os.path.realpath(place) != target]
    if not stray:
        what = f"no stores but the one of {TRACKING_URI} below {cwd.absolute()}"
        yield Check("stray-stores", True, what)
        return
    what = f"{many(len(stray), 'store')} below {cwd.absolute()}: {listed(stray)}"
    if wrong is not None:
        fix = f"put {TRACKING_URI} right; then mlmigrate doctor tells where to copy"
        yield Check("stray-stores", False, what, fix)
    elif is_server(uri) and _is_here(host_of(uri) or ""):
        yield Check("stray-stores", True, f"{what} (or is it the server's own?)")
    else:
        yield Check("stray-stores", False, what, _gather_at(uri, stray, cwd))


def _unset(found: list[str], cwd: Path) -> Check:
    if not found:
        what = f"{TRACKING_URI} is not set; no stores below {cwd.absolute()}"
        return Check("tracking-uri", True, what)
    what = (
        f"{TRACKING_URI} is not set, so runs go to the folder that a script happens to"
        f" start in; {many(len(found), 'store')} below {cwd.absolute()}:"
        f" {listed(found)}"
    )
    return Check("tracking-uri", False, what, _gather_anew(found, cwd))


def _gather_at(uri: str, stray: list[str], cwd: Path) -> str:
    """Return how to bring *stray* to the tracking URI, or together with its store."""
    if is_server(uri) or scheme_of(uri) in DATABASE_SERVERS | {"sqlite"}:
        return _gather(stray, shown_of(uri))
    if is_local(uri) and (cwd / local_path(uri)).is_dir():
        # A folder is read but never written: what it holds comes along.
        stray = [uri, *stray]
    return _gather_anew(stray, cwd)


def _gather_anew(found: list[str], cwd: Path) -> str:
    """Return how to bring *found* into a database, and how to log there from now on."""
    database = f"sqlite:///{cwd.absolute() / 'all-runs.db'}"
    # It is there already where they were copied and only the variable forgotten.
    own = _local_target(database, cwd)
    stray = [place for place in found if os.path.realpath(place) != own]
    fix = f"export {TRACKING_URI}={shlex.quote(database)}, or the URL of a server"
    return f"{fix}; {_gather(stray, database)}" if stray else fix


def _gather(stray: list[str], sink: str) -> str:
    sources = " ".join(map(shlex.quote, stray[:SHOWN]))
    more = " …" if len(stray) > SHOWN else ""
    return (
        f"bring the runs together: mlmigrate copy {sources}{more} {shlex.quote(sink)}"
    )


def _local_target(uri: str, cwd: Path) -> str:
    """Return the real path of the file or folder that *uri* names, or nothing."""
    path = database_file(uri, cwd)
    if path is None and is_local(uri):
        path = cwd / local_path(uri)
    return os.path.realpath(path) if path is not None else ""


def _is_here(host: str) -> bool:
    """Tell whether a host seems to be this machine."""
    return (
        host in _LOOPBACK
        or host.startswith("127.")
        or host == socket.gethostname().lower()
    )
