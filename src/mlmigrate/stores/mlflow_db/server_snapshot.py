"""Opening a database server so that it stands still: one read-only transaction.

PostgreSQL's snapshot is shared by every connection, also of other processes; MySQL's is
one connection's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import NullPool

from mlmigrate.artifacts import short
from mlmigrate.errors import LocationError, StoreError

Cleanup: TypeAlias = Callable[[], object]

_SHARED = "mlmigrate_snapshot"
_SECRET = re.compile(r"pass|secret|token|key", re.IGNORECASE)
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}


def redacted(location: str) -> str:
    """Return *location* without its secrets.

    Raises:
        LocationError: it is no database URL.
    """
    if "://" not in location or location.startswith("sqlite"):
        return location
    url = _server_url(location)
    query = {
        name: "***" if _SECRET.search(name) else value
        for name, value in url.query.items()
        if name != _SHARED
    }
    text = url.set(query=query).render_as_string(hide_password=True)
    # SQLAlchemy percent-encodes what stands in a query.
    return text.replace("%2A%2A%2A", "***")


def open_server(location: str) -> tuple[Engine, str, Cleanup]:
    """Open a server's database for reading.

    Returns:
        What `snapshot.open_readonly` returns.

    Raises:
        StoreError: the server does not answer, or its driver is not installed.
        LocationError: not a kind of database that MLflow is read from.
    """
    url = _server_url(location)
    kind = url.get_backend_name()
    if kind not in _DRIVERS:
        raise LocationError(
            f"{kind}: databases are read from SQLite, PostgreSQL, MySQL"
        )
    snapshot = url.query.get(_SHARED)
    url = url.difference_update_query([_SHARED])
    try:
        if kind == "postgresql":
            return _open_postgres(url, str(snapshot) if snapshot else None)
        return _open_mysql(url)
    except ImportError as error:
        raise StoreError(
            f"{redacted(location)}: its driver is not installed:"
            f" pip install {error.name or url.get_driver_name()}"
        ) from error
    except sa.exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(
            f"{redacted(location)} cannot be opened: {short(cause)}: check the URL, the"
            " password and that the server is up"
        ) from error


def _server_url(location: str) -> URL:
    try:
        url = make_url(re.sub(r"^postgres(?=[:+])", "postgresql", location))
    except sa.exc.ArgumentError as error:
        raise LocationError(
            f"{location.split(':', maxsplit=1)[0]}: is no database URL"
        ) from error
    if "+" not in url.drivername and url.drivername in _DRIVERS:
        url = url.set(drivername=f"{url.drivername}+{_DRIVERS[url.drivername]}")
    return url


def _open_postgres(url: URL, snapshot: str | None) -> tuple[Engine, str, Cleanup]:
    engine = sa.create_engine(
        url,
        poolclass=NullPool,
        isolation_level="REPEATABLE READ",
        execution_options={"postgresql_readonly": True},
    )
    held: dict[str, Any] = {"snapshot": snapshot}

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if held["snapshot"]:
            name = held["snapshot"].replace("'", "")
            connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{name}'")
        # A transaction that waits for the sink is not a forgotten one.
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")

    # The snapshot lasts as long as the connection that exported it.
    keeper = engine.connect()
    shared = url.render_as_string(hide_password=False)
    if snapshot is None:
        try:
            held["snapshot"] = keeper.scalar(sa.text("SELECT pg_export_snapshot()"))
        except sa.exc.DBAPIError:
            keeper.rollback()  # a standby cannot: each process has its own snapshot
    else:
        keeper.exec_driver_sql("SELECT 1")
    if held["snapshot"]:
        shared = url.update_query_dict({_SHARED: held["snapshot"]}).render_as_string(
            hide_password=False
        )
    return engine, shared, keeper.close


def _open_mysql(url: URL) -> tuple[Engine, str, Cleanup]:
    engine = sa.create_engine(
        url, poolclass=NullPool, isolation_level="REPEATABLE READ"
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(
            "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
        )

    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    return engine, url.render_as_string(hide_password=False), lambda: None
