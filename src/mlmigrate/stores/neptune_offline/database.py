"""The SQLite file that the 3.x client keeps of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mlmigrate.errors import StoreError
from mlmigrate.sqlite_snapshot import open_snapshot

CREATE_RUN = 1


class Request(NamedTuple):
    """A file that is still to be uploaded."""

    source: str
    size: int
    temporary: bool


@dataclass(slots=True)
class Database:
    """A file, open for reading."""

    connection: Connection
    tables: set[str]

    def about(self) -> tuple[str, str, str]:
        """Return the project, the id of the run, and the version of the file; texts
        that are empty where the client was stopped before it wrote them.
        """
        if "metadata" in self.tables:
            query = "SELECT project, run_id, version FROM metadata ORDER BY id LIMIT 1"
            for project, id, version in self._rows(query):
                return str(project), str(id), str(version)
        return "", "", ""

    def creation(self) -> bytes | None:
        """Return the operation that created the run, where it is still there."""
        query = (
            "SELECT operation FROM run_operations"
            f" WHERE operation_type = {CREATE_RUN} ORDER BY sequence_id LIMIT 1"
        )
        for (data,) in self._rows(query):
            return data if isinstance(data, bytes) else None
        return None

    def operations(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Return operations: number, time in milliseconds, type, and bytes."""
        query = (
            "SELECT sequence_id, timestamp, operation_type, operation"
            " FROM run_operations ORDER BY sequence_id"
        )
        return self._rows(query)

    def requests(self) -> dict[str, Request]:
        """Return the files that are still to be uploaded, by where they go."""
        if "file_upload_requests" not in self.tables:
            return {}
        query = (
            "SELECT destination, source_path, size_bytes, is_temporary"
            " FROM file_upload_requests ORDER BY id"
        )
        return {
            str(to): Request(str(source), size, bool(temporary))
            for to, source, size, temporary in self._rows(query)
        }

    def written(self) -> int:
        """Return how many operations were ever written."""
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'run_operations'"
        rows = list(self._rows(query)) if "sqlite_sequence" in self.tables else []
        return max((count for (count,) in rows if isinstance(count, int)), default=0)

    def errors(self) -> list[str]:
        """Return what the client could not send, as it tells it."""
        if "operation_errors" not in self.tables:
            return []
        query = (
            "SELECT error_type, error_details FROM operation_errors ORDER BY error_id"
        )
        return [f"{kind}: {details}" for kind, details in self._rows(query)]

    def _rows(self, query: str) -> Iterator[Any]:
        yield from self.connection.exec_driver_sql(query)


@dataclass(slots=True)
class Head:
    """What tells which run a database is of."""

    path: Path
    project: str = ""
    id: str = ""
    version: str = ""
    creation: bytes | None = None
    wrong: list[str] = field(default_factory=list)


@contextmanager
def opened(path: Path, temporary: str | None) -> Iterator[Database]:
    """Open a database as it stands, for as long as it is wanted.

    Raises:
        StoreError: it cannot be opened, or read.
    """
    place = Path(temporary or tempfile.gettempdir())
    engine, _, cleanup = open_snapshot(path, place)
    try:
        with engine.connect() as connection:
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master")
            yield Database(connection, {str(name) for (name,) in names})
    except (sa.exc.DBAPIError, UnicodeDecodeError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"{path.name} cannot be read: {cause}") from error
    finally:
        engine.dispose()
        cleanup()


def head_of(path: Path, temporary: str | None) -> Head:
    """Return which run a database is of.

    Raises:
        StoreError: it cannot be read.
    """
    with opened(path, temporary) as database:
        project, id, version = database.about()
        creation = database.creation() if "run_operations" in database.tables else None
        return Head(path, project, id, version, creation)
