"""Source and sink ``mlflow_db``: MLflow's tracking database, by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mlmigrate.artifacts import redact
from mlmigrate.errors import LocationError
from mlmigrate.stores.mlflow_db.reading import DbReader
from mlmigrate.stores.mlflow_db.writing import DbSink

__all__ = ["database_url", "open_sink", "open_source"]


def database_url(location: str) -> sa.URL:
    """Return the SQLAlchemy URL of *location*, which may be a bare path.

    Raises:
        LocationError: it is no database URL.
    """
    if "://" not in location:
        return sa.URL.create("sqlite", database=str(Path(location).absolute()))
    try:
        url = sa.make_url(location)
    except sa.exc.ArgumentError as error:
        raise LocationError(f"{redact(location)} is not a database URL") from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    elif url.drivername in ("mysql", "mariadb"):
        url = url.set(drivername="mysql+pymysql")
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).absolute()))
    return url


def open_source(location: str, options: Mapping[str, Any]) -> DbReader:
    """Open a database for reading; see `mlmigrate.contract.Source`."""
    url = database_url(location)
    if url.get_backend_name() == "sqlite" and "?" not in location:
        # As it is: a rendered URL holds `:` and `%` of a file's name in another form.
        return DbReader(f"sqlite:{url.database}", options)
    return DbReader(url.render_as_string(hide_password=False), options)


def open_sink(location: str, options: Mapping[str, Any]) -> DbSink:
    """Open a database for writing; see `mlmigrate.contract.Sink`."""
    return DbSink(database_url(location), options)
