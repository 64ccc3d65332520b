"""The usual traps around MLflow: where runs really go, and what breaks their store.

Each check looks and never touches: a database is opened as for a copy, a lock is tried
on a read-only connection, a server gets three GETs.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import sqlalchemy as sa

from mlmigrate.artifacts import is_local, local_path, redact, short
from mlmigrate.contract import Capabilities, Selection, Source
from mlmigrate.discover import scan
from mlmigrate.errors import LocationError, MlmigrateError, SchemaError, StoreError
from mlmigrate.locations import Opened, resolve
from mlmigrate.model import Failed, Item, Kind, Note, Problem
from mlmigrate.pipeline import read_ahead
from mlmigrate.redaction import bears_credential
from mlmigrate.stores.mlflow_db.schema import METRIC_INDEXES, newest_revision
from mlmigrate.stores.mlflow_db.snapshot import open_readonly, redacted, sqlite_path

TRACKING_URI = "MLFLOW_TRACKING_URI"
TIMEOUT = 5.0
#: Below a folder of projects, their stores lie at most so deep.
_DEPTH = 4
_SHOWN = 3

_DIALECTS = frozenset({"sqlite", "postgresql", "mysql", "mssql"})
_SCHEMES = _DIALECTS | {
    "",
    "file",
    "http",
    "https",
    "databricks",
    "databricks-uc",
    "uc",
}
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?$")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_MOUNTS = Path("/proc/mounts")
_PROCESSES = Path("/proc")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|ncpfs|afs|9p|ceph|glusterfs|lustre|gpfs|beegfs\w*|davfs"
    r"|fuse\.(sshfs|ceph|glusterfs|s3fs|gcsfuse|goofys|rclone|blobfuse2?|smbnetfs)"
)
_SERVER = re.compile(r"\bmlflow\s+(server|ui)\b|mlflow\.server|mlflow/server")
_DEAD = re.compile(r"artifacts at |mapped artifact folder|its artifacts cannot ")
_DEAD_NOTE = "artifact URI is dead"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; *fix* says what to do where it is not *ok*."""

    name: str
    ok: bool
    what: str
    fix: str = ""


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
    uri = environ.get(TRACKING_URI, "").strip()
    checks = list(_diagnose_environment(uri, folder))
    if uri and checks[0].ok:
        checks += _diagnose_place(uri, environ, folder)
    return checks


def _diagnose_store(
    location: str, environ: Mapping[str, str], cwd: Path
) -> Iterator[Check]:
    opened = resolve(_placed(location, cwd))
    checks = list(_diagnose_place(location, environ, cwd))
    yield from checks
    if all(check.ok or check.name not in _FATAL for check in checks):
        yield from _diagnose_contents(opened)


#: Where one of these fails, there is nothing to read.
_FATAL = frozenset({"file", "server", "login", "integrity"})


def _diagnose_place(
    location: str, environ: Mapping[str, str], cwd: Path
) -> Iterator[Check]:
    """Check where a store is, without reading its runs."""
    if location.startswith(("http://", "https://")):
        yield from _diagnose_server(location, environ)
        return
    path = _database_file(location, cwd)
    if path is not None:
        yield from _diagnose_file(path)
    elif _scheme(location) in _DIALECTS | {"postgres", "mariadb"}:
        yield from _diagnose_database(location, redacted(location))


def _scheme(location: str) -> str:
    return location.partition(":")[0].partition("+")[0] if ":" in location else ""


def _database_file(location: str, cwd: Path) -> Path | None:
    """Return the SQLite file that *location* names; None for anything else."""
    if location.startswith("sqlite"):
        path = sqlite_path(location)
        return cwd / path if path else None
    if "://" in location or location.startswith("file:"):
        return None
    path = cwd / location
    looks_like = path.suffix in (".db", ".sqlite", ".sqlite3")
    return path if path.is_file() or (looks_like and not path.is_dir()) else None


def _placed(location: str, cwd: Path) -> str:
    """Return *location* as the adapters understand it from any folder."""
    path = _database_file(location, cwd)
    if path is not None:
        # The plain path of an existing file says more than a URL: it may be no
        # database at all.
        return str(path) if path.is_file() else f"sqlite:///{path}"
    if re.match(r"[a-z][a-z0-9_-]+:", location):
        return location
    return str(cwd / location)


# -- the environment ----------------------------------------------------------------


def _diagnose_environment(uri: str, cwd: Path) -> Iterator[Check]:
    found = [place for place in scan([cwd], _DEPTH) if isinstance(place, str)]
    if not uri:
        yield _unset(found, cwd)
        return
    wrong = _wrong_uri(uri, cwd)
    if wrong is not None:
        what, fix = wrong
        yield Check("tracking-uri", False, f"{TRACKING_URI} {what}", fix)
    else:
        yield Check("tracking-uri", True, f"{TRACKING_URI} is {_shown(uri)}")
    target = _local_target(uri, cwd) if wrong is None else ""
    stray = [place for place in found if os.path.realpath(place) != target]
    what = f"{_many(len(stray), 'store')} below {cwd.absolute()}: {_listed(stray)}"
    if not stray:
        what = f"no stores but the one of {TRACKING_URI} below {cwd.absolute()}"
    elif urlsplit(uri).hostname in _LOOPBACK:
        yield Check("stray-stores", True, f"{what} (or is it the server's own?)")
        return
    yield Check("stray-stores", not stray, what, _gather(stray, _shown(uri)))


def _unset(found: list[str], cwd: Path) -> Check:
    if not found:
        what = f"{TRACKING_URI} is not set; no stores below {cwd.absolute()}"
        return Check("tracking-uri", True, what)
    what = (
        f"{TRACKING_URI} is not set, so runs go to the folder that a script happens to"
        f" start in; {_many(len(found), 'store')} below {cwd.absolute()}:"
        f" {_listed(found)}"
    )
    database = f"sqlite:///{cwd.absolute() / 'all-runs.db'}"
    fix = f"export {TRACKING_URI}={shlex.quote(database)}, or the URL of a server"
    return Check("tracking-uri", False, what, f"{fix}; {_gather(found, database)}")


def _gather(stray: list[str], sink: str) -> str:
    if not stray:
        return ""
    sources = " ".join(map(shlex.quote, stray[:_SHOWN]))
    more = " …" if len(stray) > _SHOWN else ""
    return f"bring the runs together: mlmigrate copy {sources}{more} {sink}"


def _listed(places: list[str]) -> str:
    more = len(places) - _SHOWN
    return ", ".join(places[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _local_target(uri: str, cwd: Path) -> str:
    path = _database_file(uri, cwd)
    if path is None and is_local(uri):
        path = cwd / local_path(uri)
    return os.path.realpath(path) if path is not None else ""


def _wrong_uri(uri: str, cwd: Path) -> tuple[str, str] | None:
    """Return what is wrong with a tracking URI and how to put it right, or None."""
    wrong = _wrong_scheme(uri)
    if wrong is not None or uri in _SCHEMES:
        return wrong
    scheme = urlsplit(uri).scheme
    if scheme.startswith("sqlite"):
        return _wrong_file(uri, cwd)
    if is_local(uri):
        return _wrong_folder(uri, cwd / local_path(uri))
    return None


def _wrong_scheme(uri: str) -> tuple[str, str] | None:
    shown = _shown(uri)
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if _HOST_AND_PORT.match(uri):
        return (
            f"is {shown}, which MLflow takes for a folder or an unknown scheme",
            f"export {TRACKING_URI}=http://{shown}",
        )
    if scheme == "postgres":
        fix = f"export {TRACKING_URI}=postgresql{shown[len(scheme) :]}"
        return f"is {shown}, but SQLAlchemy knows no 'postgres'", fix
    if scheme in ("http", "https") and not parts.hostname:
        return f"is {shown}, which names no host", "give http://HOST:PORT"
    # One letter is a drive of Windows.
    if len(scheme) == 1 or scheme in _SCHEMES | _plugins():
        return None
    return (
        f"is {shown}: MLflow knows no scheme {scheme!r}",
        "give http://HOST:PORT, sqlite:////PATH/FILE.db or postgresql://…",
    )


def _wrong_folder(uri: str, folder: Path) -> tuple[str, str] | None:
    if folder.is_dir():
        return None
    if folder.is_file():
        fix = f"export {TRACKING_URI}=sqlite:///{folder.absolute()}, if it is SQLite"
        return f"is {uri}, a file, where MLflow wants a folder", fix
    return (
        f"is {uri}: there is no folder {folder}, and MLflow would make an empty one",
        "give the folder that holds the experiments; mlmigrate scan finds it",
    )


def _wrong_file(uri: str, cwd: Path) -> tuple[str, str] | None:
    if re.match(r"sqlite[^:]*://[^/]", uri):
        fix = f"export {TRACKING_URI}={uri.replace('://', ':///', 1)}"
        return f"is {uri}: a path takes three slashes, or four if absolute", fix
    try:
        path = sqlite_path(uri)
    except LocationError as error:
        return f"is no file: {error}", f"export {TRACKING_URI}=sqlite:////PATH/FILE.db"
    folder = (cwd / (path or "")).parent
    if folder.is_dir():
        return None
    return f"is {uri}, but there is no folder {folder}", f"mkdir -p {folder}"


def _plugins() -> set[str]:
    return {point.name for point in entry_points(group="mlflow.tracking_store")}


def _shown(uri: str) -> str:
    if _scheme(uri) not in _DIALECTS:
        return redact(uri)
    try:
        return redacted(uri)
    except LocationError:
        return redact(uri)


# -- servers ------------------------------------------------------------------------


def _diagnose_server(location: str, environ: Mapping[str, str]) -> Iterator[Check]:
    import requests

    base = location.rstrip("/")
    shown = redact(base)
    with requests.Session() as session:
        _log_in(session, environ)
        try:
            answers = {
                path: session.get(base + path, timeout=TIMEOUT, allow_redirects=False)
                for path in _PATHS
            }
        except requests.RequestException as error:
            yield Check("server", False, *_unreachable(shown, error))
            return
    health, version, api = (answers[path] for path in _PATHS)
    yield from _judge(shown, health, version, api)


_PATHS = (
    "/health",
    "/version",
    "/api/2.0/mlflow/experiments/get?experiment_id=0",
)


def _log_in(session: Any, environ: Mapping[str, str]) -> None:
    name = environ.get("MLFLOW_TRACKING_USERNAME")
    secret = environ.get("MLFLOW_TRACKING_PASSWORD")
    token = environ.get("MLFLOW_TRACKING_TOKEN")
    if name and secret:
        session.auth = (name.encode(), secret.encode())
    elif token:
        session.headers["Authorization"] = f"Bearer {token}"
    if environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        session.verify = False
    elif authority := environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
        session.verify = authority


def _unreachable(shown: str, error: Exception) -> tuple[str, str]:
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        fix = "set MLFLOW_TRACKING_SERVER_CERT_PATH to the server's certificate"
        return f"{shown}: TLS fails: {short(error)}", fix
    if isinstance(error, requests.Timeout):
        fix = "check the host, the port, the VPN and the firewall"
        return f"{shown} does not answer within {TIMEOUT:.0f} s", fix
    text = str(error)
    if "resolve" in text or "Name or service" in text or "getaddrinfo" in text:
        return f"{shown}: its name is not known", "check the spelling, and the VPN"
    reason = "refuses the connection" if "refused" in text else "cannot be reached"
    return (
        f"{shown} {reason}",
        "start it (mlflow server --host … --port …), or correct the host and the port",
    )


def _judge(shown: str, health: Any, version: Any, api: Any) -> Iterator[Check]:
    """Tell from its three answers what a server is."""
    status, text = api.status_code, api.text[:2000]
    if "Invalid Host header" in text or "Invalid Host header" in health.text[:2000]:
        host = urlsplit(health.url).netloc.rpartition("@")[2]
        what = f"{shown} refuses requests for the host {host}"
        fix = f"start it with: mlflow server --allowed-hosts {host}"
        yield Check("server", False, what, fix)
        return
    broken = next((a.status_code for a in (health, api) if a.status_code >= 500), None)
    if broken is not None:
        what = f"{shown} answers with HTTP {broken}"
        yield Check("server", False, what, "look into the server's log")
        return
    redirected = health.is_redirect or api.is_redirect
    answers_json = api.headers.get("content-type", "").startswith("application/json")
    if redirected or status in (401, 403):
        yield Check("server", True, f"{shown} answers")
        yield Check("login", False, *_refused(shown, api, redirected=redirected))
        return
    if not answers_json:
        what = f"{shown} answers, but not as an MLflow server does (HTTP {status})"
        fix = "give the URL of the server itself, with the path below which it serves"
        yield Check("server", False, what, fix)
        return
    known = version.status_code == 200 and len(version.text) < 40
    release = f", MLflow {version.text.strip()}" if known else ""
    yield Check("server", True, f"{shown} answers{release}")
    yield Check("login", True, f"{shown} lets this user read")


def _refused(shown: str, api: Any, *, redirected: bool) -> tuple[str, str]:
    if redirected:
        target = redact(api.headers.get("location", "another page"))
        fix = "log in as its proxy wants it, or set MLFLOW_TRACKING_TOKEN"
        return f"{shown} redirects to {target}", fix
    if api.status_code == 403:
        fix = "ask its administrator for permission to read"
        return f"{shown} denies this user permission", fix
    given = "refuses the login given" if "Authorization" in api.request.headers else ""
    return (
        f"{shown} {given or 'wants a login'}",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or"
        " MLFLOW_TRACKING_TOKEN",
    )


# -- databases ----------------------------------------------------------------------


def _diagnose_file(path: Path) -> Iterator[Check]:
    """Check a SQLite file, and what is around it."""
    if not path.exists():
        fix = "correct the path; mlmigrate scan finds stores"
        yield Check("file", False, f"{path}: there is no such file", fix)
        return
    system = _file_system(path)
    if system and _NETWORK.fullmatch(system):
        what = f"{path} lies on a network file system ({system}): SQLite's locks fail"
        fix = "put it on a local disk, and a server (mlflow server) before it"
        yield Check("file-system", False, what, fix)
    else:
        yield Check("file-system", True, f"{path} lies on {system or 'a local disk'}")
    yield from _diagnose_lock(path)
    yield from _diagnose_writers(path)
    yield from _diagnose_database(str(path), str(path))


def _file_system(path: Path) -> str | None:
    """Return the type of the file system that holds *path*, where one can know it."""
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    best, kind = "", None
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), fields[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of two mounts at one place, the later hides the earlier.
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def _diagnose_lock(path: Path) -> Iterator[Check]:
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        fix = "give yourself permission to read it"
        yield Check("file", False, f"{path} cannot be read: {error.strerror}", fix)
        return
    if header[18:20] == b"\x02\x02":
        # A reader is never kept out then, but would write the index of the log.
        yield Check("lock", True, f"{path} has a write-ahead log: readers never wait")
        return
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=1)) as database:
            database.isolation_level = None
            database.execute("BEGIN")
            database.execute("SELECT count(*) FROM sqlite_master").fetchall()
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            what = f"{path} is locked: a writer has held it for over a second"
            fix = "end the process that writes it; `fuser` and `lsof` name it"
            yield Check("lock", False, what, fix)
        elif "readonly" in str(error) or "unable to open" in str(error):
            what = f"{path}: a transaction was broken off, its journal lies beside it"
            fix = (
                "never delete the journal; back both up, then open it once for writing"
            )
            yield Check("lock", False, what, fix)
        return
    except sqlite3.DatabaseError:
        return  # the check of its integrity tells
    yield Check("lock", True, f"{path} is not locked")


def _diagnose_writers(path: Path) -> Iterator[Check]:
    """Tell whether several programs, such as a server and a training, write a file."""
    if not _PROCESSES.is_dir():
        return
    programs = {
        _program(pid, holders) for holders in [_holders(path)] for pid in holders
    }
    names = ", ".join(f"{_command(pid)} (pid {pid})" for pid in sorted(programs))
    if len(programs) < 2:
        what = (
            f"one program has {path} open: {names}" if names else "nobody has it open"
        )
        yield Check("writers", True, what)
        return
    what = f"{len(programs)} programs have {path} open for writing: {names}"
    fix = f"let only the server open it: {TRACKING_URI}=http://HOST:PORT for all others"
    yield Check("writers", False, what, fix)


def _holders(path: Path) -> set[int]:
    """Return the processes, but this one, that have a file open for writing."""
    real = os.path.realpath(path)
    found = set()
    for folder in _PROCESSES.glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            for entry in (folder / "fd").iterdir():
                if os.readlink(entry) == real and _writes(
                    folder / "fdinfo" / entry.name
                ):
                    found.add(int(folder.name))
        except OSError:  # another user's, or gone
            continue
    return found


def _writes(info: Path) -> bool:
    flags = re.search(r"^flags:\s*([0-7]+)", info.read_text(), re.M)
    return flags is not None and int(flags.group(1), 8) & os.O_ACCMODE != os.O_RDONLY


def _program(pid: int, holders: set[int]) -> int:
    """Return the first process of the program that *pid* is one of.

    A server and its workers are one program; so are a training and its data loaders.
    """
    first, at = pid, pid
    while at > 1:
        if at in holders or _is_server(_arguments(at)):
            first = at
        try:
            stat = (_PROCESSES / str(at) / "stat").read_text()
        except OSError:
            break
        at = int(stat.rpartition(")")[2].split()[1])
    return first


def _is_server(arguments: list[str]) -> bool:
    # A shell's command may name a server, too, and start others beside it.
    program = os.path.basename(arguments[0]) if arguments else ""
    started = program.startswith(("python", "mlflow", "gunicorn", "uvicorn"))
    return started and _SERVER.search(" ".join(arguments)) is not None


def _arguments(pid: int) -> list[str]:
    try:
        line = (_PROCESSES / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return line.decode(errors="replace").rstrip("\0").split("\0")


def _command(pid: int) -> str:
    """Return a program's name, without the arguments: they may hold secrets."""
    words = [os.path.basename(word) for word in _arguments(pid)[:3]]
    plain = (word for word in words if re.fullmatch(r"\w[\w.+-]*", word))
    return " ".join(plain)[:60] or "?"


def _diagnose_database(location: str, shown: str) -> Iterator[Check]:
    """Check a database's integrity, its revision and its indexes."""
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
        fix = f"restore a backup, or recover it: sqlite3 {shown} .recover"
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
    fix = f"restore a backup, or recover it: sqlite3 {shown} .recover | sqlite3 NEW.db"
    return Check("integrity", False, f"{shown} is damaged: {first}", fix)


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


# -- what a store holds -------------------------------------------------------------


@dataclass(slots=True)
class _Contents:
    """What reading a whole store tells."""

    items: int = 0
    failed: list[Failed] = field(default_factory=list)
    dead: int = 0
    moved: int = 0
    example: str = ""
    credentials: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    def add(self, item: Item | Failed) -> None:
        self.items += 1
        if isinstance(item, Failed):
            self.failed.append(item)
            return
        self._add_findings(item)
        for bearer in _bearers(item):
            self.credentials[item.ref.kind, bearer] += 1

    def _add_findings(self, item: Item) -> None:
        dead = [
            finding.what
            for finding in item.findings
            if isinstance(finding, Problem) and _DEAD.search(finding.what)
        ]
        moved = any(
            isinstance(finding, Note) and _DEAD_NOTE in finding.what
            for finding in item.findings
        )
        self.dead += bool(dead)
        self.moved += moved
        if dead and not self.example:
            self.example = dead[0]


def _bearers(item: Item) -> set[str]:
    """Return the tags and params of an item that hold a credential."""
    tags = [*item.tags, *(tag for version in item.versions for tag in version.tags)]
    return {
        f"{word} {record.key}"
        for word, records in (("tag", tags), ("param", item.params))
        for record in records
        if bears_credential(record.value)
    }


def _diagnose_contents(opened: Opened) -> Iterator[Check]:
    shown = redact(opened.location)
    try:
        source = opened.source()
    except MlmigrateError as error:
        fix = "put right what the message says"
        yield Check("contents", False, str(error), fix)
        return
    found = _Contents()
    try:
        for item in _items(opened, source):
            found.add(item)
    except StoreError as error:
        fix = "put right what the message says"
        yield Check("contents", False, str(error), fix)
        return
    finally:
        source.close()
    yield from _judge_contents(found, shown)


def _items(opened: Opened, source: Source) -> Iterator[Item | Failed]:
    anything = Capabilities(keeps_ids=True, text={})
    kinds: Iterable[Kind] = ("experiment", "run", "registered_model")
    for kind in kinds:
        refs = list(source.refs(Selection(kind)))
        for batch in read_ahead(opened, source, refs, anything):
            for entry in batch:
                yield entry if isinstance(entry, Failed) else entry.item


def _judge_contents(found: _Contents, shown: str) -> Iterator[Check]:
    if not found.items:
        fix = f"give the folder that holds the experiments: mlmigrate scan {shown}"
        yield Check("contents", False, f"{shown} holds no experiment and no run", fix)
        return
    if found.failed:
        first = found.failed[0]
        what = f"{len(found.failed)} items cannot be read; {first.ref}: {first.why}"
        yield Check("contents", False, what, f"mlmigrate inspect {shown} names them")
    else:
        yield Check("contents", True, f"{_many(found.items, 'item')} can be read")
    yield _judge_artifacts(found, shown)
    if not found.credentials:
        yield Check("credentials", True, "no tag or param looks like a credential")
        return
    places = [
        f"{bearer} of {_many(count, kind.replace('_', ' '))}"
        for (kind, bearer), count in sorted(found.credentials.items())
    ]
    yield Check(
        "credentials",
        False,
        f"credentials lie open in {shown}: {_listed(places)}",
        "revoke them; mlmigrate copy --redact-credentials masks them in a copy",
    )


def _judge_artifacts(found: _Contents, shown: str) -> Check:
    if found.dead:
        what = (
            f"the artifact URIs of {_many(found.dead, 'run')} lead nowhere;"
            f" {redact(found.example)}"
        )
        return Check("artifacts", False, what, "give --map-artifacts OLD=NEW to copy")
    if found.moved:
        what = (
            f"the artifact URIs of {_many(found.moved, 'run')} lead to where {shown}"
            " once was: MLflow finds no artifacts"
        )
        fix = "mlmigrate copy finds them where they are now, and records that"
        return Check("artifacts", False, what, fix)
    return Check("artifacts", True, "all artifact URIs lead somewhere")


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"
