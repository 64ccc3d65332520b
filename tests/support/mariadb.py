"""A private MariaDB server, reached through a socket, with databases on demand."""

from __future__ import annotations

import getpass
import importlib.util
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from ._folders import locked, session_folder
from ._processes import StartError, child, clean_environment
from .servers import make_schema

_running = ExitStack()
_socket: Path | None = None


def available() -> bool:
    """Tell whether the MariaDB server and its driver are installed."""
    return _program("mariadbd") is not None and bool(
        importlib.util.find_spec("pymysql")
    )


@contextmanager
def mariadb_database(*, schema: bool = False) -> Iterator[str]:
    """
    Yield the SQLAlchemy URI of a new, empty database; drop it afterwards.

    With *schema* it has MLflow's tables, loaded from a dump made once.
    """
    _start()
    name = f"test_{uuid.uuid4().hex}"
    _execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        if schema:
            with _schema_dump().open("rb") as dump:
                _run_client("mariadb", [name], stdin=dump)
        yield _uri(name)
    finally:
        _execute(f"DROP DATABASE IF EXISTS {name}")


def stop() -> None:
    """Stop this process's server, if it has one."""
    global _socket
    _running.close()
    _socket = None


def _schema_dump() -> Path:
    folder = session_folder()
    dump = folder / f"schema-{version('mlflow')}.sql"
    with locked(folder / "mariadb.lock"):
        if not dump.exists():
            with mariadb_database() as uri:
                make_schema(uri)
                name = uri.partition("?")[0].rpartition("/")[2]
                made = _run_client("mariadb-dump", ["--skip-comments", name])
            # Under another name until complete, should the session be interrupted.
            partial = dump.with_suffix(".partial")
            partial.write_bytes(made)
            partial.rename(dump)
    return dump


def _run_client(
    program: str, arguments: list[str], stdin: IO[bytes] | None = None
) -> bytes:
    done = subprocess.run(
        [
            str(_program(program)),
            "--no-defaults",
            f"--socket={_start()}",
            "--user=root",
            *arguments,
        ],
        stdin=stdin or subprocess.DEVNULL,
        capture_output=True,
    )
    if done.returncode != 0:
        raise StartError(f"{program} failed:\n{done.stderr.decode(errors='replace')}")
    return done.stdout


def _uri(database: str) -> str:
    return (
        f"mysql+pymysql://root@localhost/{database}"
        f"?unix_socket={_start()}&charset=utf8mb4"
    )


def _program(name: str) -> str | None:
    # Distributions put servers where only root's PATH leads.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _start() -> Path:
    """Return the socket of this process's server, starting it at first use."""
    global _socket
    if _socket is None:
        folder = Path(tempfile.mkdtemp(prefix="mariadb-", dir=session_folder()))
        _running.callback(shutil.rmtree, folder, ignore_errors=True)
        _initialize(folder / "data")
        socket = folder / "socket"
        _running.enter_context(
            child(
                [
                    str(_program("mariadbd")),
                    "--no-defaults",
                    f"--datadir={folder / 'data'}",
                    f"--socket={socket}",
                    f"--pid-file={folder / 'pid'}",
                    f"--user={getpass.getuser()}",
                    "--skip-networking",
                    "--skip-log-bin",
                    # Durability against power cuts is not what is tested.
                    "--innodb-flush-log-at-trx-commit=0",
                    "--innodb-buffer-pool-size=64M",
                ],
                ready=lambda: _accepts(socket),
                log=folder / "log",
                cwd=folder,
            )
        )
        _socket = socket
    return _socket


def _initialize(data: Path) -> None:
    made = subprocess.run(
        [
            str(_program("mariadb-install-db")),
            "--no-defaults",
            f"--datadir={data}",
            f"--user={getpass.getuser()}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise StartError(f"mariadb-install-db failed:\n{made.stdout}{made.stderr}")


def _accepts(socket: Path) -> bool:
    import pymysql

    if not socket.exists():
        return False
    try:
        _connect(socket).close()
    except pymysql.Error:
        return False
    return True


def _connect(socket: Path) -> Any:
    import pymysql

    return pymysql.connect(unix_socket=str(socket), user="root", autocommit=True)


def _execute(statement: str) -> None:
    connection = _connect(_start())
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()
