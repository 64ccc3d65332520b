"""The tables of one database, asked by the columns that its revision has.

Nothing is upgraded: a table that a revision lacks has no rows, a column that it lacks
holds NULL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from functools import cached_property
from importlib import import_module
from threading import RLock
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa

from mlmigrate.artifacts import short
from mlmigrate.errors import StoreError
from mlmigrate.stores.mlflow_db import workspaces
from mlmigrate.stores.mlflow_db.values import decoded
from mlmigrate.stores.mlflow_db.workspaces import is_in
from mlmigrate.workspaces import COLUMN, DEFAULT

Rows: TypeAlias = list[tuple[Any, ...]]
_T = TypeVar("_T")

#: The fewest parameters that a SQLite takes in one statement are 999.
IN = 500
#: Rows of a long listing that one query answers with.
_PAGE = 20_000
#: Rows that are fetched at once. Few are put away before they leave the processor's
#: cache, and before garbage is collected; but a server takes its time for each answer.
_PART_OF_FILE, _PART = 400, 2_000
#: From how many rows on a table without an index by run is sorted once, for all.
_SORT = 50_000


class Tables:
    """What is there, and the queries that everything else is read by."""

    def __init__(
        self,
        engine: sa.Engine,
        held: sa.Connection | None,
        location: str,
        workspace: str = DEFAULT,
        known: Mapping[str, sa.Table] | None = None,
    ) -> None:
        """Look what tables and columns there are.

        Args:
            engine: where a connection is had from for each query.
            held: the one connection to use instead, which sees one snapshot.
            location: what to call the database; bears no secrets.
            workspace: the one of which rows are selected.
            known: the tables, where somebody has looked already.

        Raises:
            StoreError: it cannot be read, or is not MLflow's.
        """
        self.location = location
        self.workspace = workspace
        self.is_file = engine.dialect.name == "sqlite"
        self.lock = RLock()
        self._engine = engine
        self._held = held
        self._sorted: dict[str, str] = {}
        self._tables = self._looked() if known is None else known
        #: All tables, sorted.
        self.names = tuple(sorted(self._tables))
        #: The names of the columns of each table.
        self.columns = {
            name: set(table.columns.keys()) for name, table in self._tables.items()
        }
        if not {"runs", "experiments"} & self.columns.keys():
            raise StoreError(
                f"{location} holds no tables of MLflow's; is it the right database?"
            )

    def _looked(self) -> Mapping[str, sa.Table]:
        metadata = sa.MetaData()
        with self.lock, self._connected() as connection:
            try:
                # The table that a foreign key names may be gone.
                metadata.reflect(connection, resolve_fks=False)
            except sa.exc.SQLAlchemyError as error:
                raise StoreError(
                    f"{self.location} cannot be read: {short(error)}"
                ) from error
        return metadata.tables

    def json_columns(self, table: str) -> set[str]:
        """Return which columns of a table that is there hold JSON."""
        columns = self._tables[table].columns
        return {each.name for each in columns if isinstance(each.type, sa.JSON)}

    def select(
        self, table: str, *columns: str, absent: int | None = None
    ) -> sa.Select[Any]:
        """Select columns without their types: a value comes as it is stored, for in
        SQLite a column's type is but advice. Of a table whose rows stand in workspaces
        those of one are selected.

        A column that this revision lacks comes as *absent*.
        """
        have = self.columns.get(table, set())
        wanted: list[Any] = [
            sa.column(name) if name in have else sa.literal_column(_sql(absent))
            for name in columns
        ]
        query = sa.select(*wanted).select_from(sa.table(table))
        here = self.is_here(table)
        return query if here is None else query.where(here)

    def is_here(self, table: str) -> sa.ColumnElement[bool] | None:
        """Tell the rows of a table that stand in the workspace; None where all do."""
        if COLUMN not in self.columns.get(table, ()):
            return None
        column: Any = sa.column(COLUMN)
        if self.workspace != DEFAULT:
            return is_in(column, self.workspace)
        others = [name for name in self.workspaces if name != DEFAULT]
        # What no name reads, nobody else does.
        return sa.or_(column.is_(None), column.not_in(others)) if others else None

    @cached_property
    def workspaces(self) -> list[str]:
        """The names of all workspaces."""
        return workspaces.names(self)

    def rows(
        self, table: str, *columns: str, where: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a table that may be absent, ordered by its first column.

        *where* maps a column to a value or a list of values.
        """
        if table not in self.columns:
            return []
        query = self.select(table, *columns).order_by(sa.column(columns[0]))
        for name, wanted in (where or {}).items():
            column: Any = sa.column(name)
            many = isinstance(wanted, list)
            query = query.where(column.in_(wanted) if many else column == wanted)
        return self.fetch(query)

    def keyed(self, table: str, key: str, *others: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a large table that may be absent by its key, some thousands
        at a time.

        Where a file is damaged, a row that cannot be read has None for *others*.

        Raises:
            StoreError: the database does not answer, or damage hides the keys, too.
        """
        if table not in self.columns:
            return
        at: Any = sa.column(key)
        query = wanted = self.select(table, key, *others)
        # Of a damaged row nobody knows the workspace: its key is in the index alone.
        rest = keys = sa.select(at).select_from(sa.table(table))
        while True:
            try:
                rows = self.fetch(query.order_by(at).limit(_PAGE))
            except StoreError:
                if not self.is_file:
                    raise
                break
            if not rows:
                return
            yield from rows
            query, rest = (each.where(at > rows[-1][0]) for each in (wanted, keys))
        # The index of the keys stands on other pages than the rows.
        for (value,) in self.fetch(rest.order_by(at)):
            try:
                yield from self.fetch(wanted.where(at == value))
            except StoreError:
                yield value, *(None for _ in others)

    def count(self, table: str, where: Any = None) -> int:
        """Count the rows of a table that is there."""
        query = sa.select(sa.func.count()).select_from(sa.table(table))
        if where is not None:
            query = query.where(where)
        return int(self.fetch(query)[0][0])

    def fetch(self, query: sa.Select[Any]) -> Rows:
        """Return all rows of a query.

        Raises:
            StoreError: the database does not answer, or its file is damaged.
        """
        return self._run(query, _together, stream=False)

    def stream(
        self, query: sa.Select[Any], consume: Callable[[Iterator[Rows]], _T]
    ) -> _T:
        """Hand the rows of a query to *consume* as they come, in parts.

        It may be called a second time, from the first row on.

        Raises:
            StoreError: the database does not answer, or its file is damaged.
        """
        return self._run(query, consume, stream=True)

    def by_run(self, table: str) -> str:
        """Return the table to read some runs of *table* from.

        Databases of before 2022 have no index by run: to read them run by run would
        scan all rows each time, so a large table is sorted once, beside the database.
        """
        if not self.is_file or self._held is None or table not in self.columns:
            return table
        if table not in self._sorted:
            self._sorted[table] = table
            indexes = self._tables[table].indexes
            # An index over an expression has no columns.
            known = {each.name for index in indexes for each in list(index.columns)[:1]}
            if "run_uuid" not in known and self.count(table) > _SORT:
                copy = f"mlmigrate_{table}"
                try:
                    for statement in (
                        f"CREATE TEMP TABLE {copy} AS SELECT * FROM {table}"
                        " ORDER BY run_uuid",
                        f"CREATE INDEX temp.{copy}_run ON {copy} (run_uuid)",
                    ):
                        self._held.exec_driver_sql(statement)
                except sa.exc.DBAPIError:
                    return table  # no space, or a damaged page: the slow way it is
                self._sorted[table] = copy
                self.columns[copy] = self.columns[table]
        return self._sorted[table]

    def _connected(self) -> AbstractContextManager[sa.Connection]:
        """The snapshot's one connection, or a new one of a sink's engine."""
        return nullcontext(self._held) if self._held else self._engine.connect()

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        # What is fetched past SQLAlchemy fails with the driver's own errors.
        driver: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        return driver, sa.exc.SQLAlchemyError

    def _run(
        self,
        query: sa.Select[Any],
        consume: Callable[[Iterator[Rows]], _T],
        *,
        stream: bool,
    ) -> _T:
        with self.lock, self._connected() as connection:
            try:
                try:
                    with closing(self._parts(connection, query, stream)) as parts:
                        return consume(parts)
                except (sqlite3.OperationalError, sa.exc.OperationalError) as error:
                    if "decode to UTF-8" not in str(error):
                        raise
                # Text that is not UTF-8 is rare, and to look for it takes long.
                driver: Any = connection.connection.driver_connection
                driver.text_factory = decoded
                try:
                    with closing(self._parts(connection, query, stream)) as parts:
                        return consume(parts)
                finally:
                    driver.text_factory = str
            except self._errors as error:
                cause = getattr(error, "orig", None) or error
                raise StoreError(
                    f"{self.location} cannot be read: {short(cause)}"
                ) from error

    def _parts(
        self, connection: sa.Connection, query: sa.Select[Any], stream: bool
    ) -> Generator[Rows, None, None]:
        # Straight from the driver: SQLAlchemy's rows take several times as long.
        cursor = _server_side(connection) if stream else None
        if cursor is None:
            result: Any = connection.execute(query)
            cursor = result.cursor
        else:
            rendered: Any = query.compile(
                connection, compile_kwargs={"render_postcompile": True}
            )
            if not connection.in_transaction():
                connection.begin()
            cursor.execute(str(rendered), rendered.params)
        with closing(cursor):
            size = _PART_OF_FILE if self.is_file else _PART
            while part := cursor.fetchmany(size):
                yield part


def _server_side(connection: sa.Connection) -> Any:
    """Return a driver's cursor that leaves rows at the server until they are fetched;
    None where there is none, or no need of one.
    """
    driver: Any = connection.connection.driver_connection
    match connection.dialect.driver:
        case "psycopg" if not driver.autocommit:  # it lives as long as a transaction
            return driver.cursor("mlmigrate", binary=True)
        case "pymysql":
            return driver.cursor(import_module("pymysql.cursors").SSCursor)
        case _:
            return None


def _together(parts: Iterator[Rows]) -> Rows:
    return [row for part in parts for row in part]


def _sql(constant: int | None) -> str:
    return "NULL" if constant is None else str(constant)
