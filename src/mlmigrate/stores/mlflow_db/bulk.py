"""Metric points into the ``metrics`` table, as fast as each database takes columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import numpy as np
import sqlalchemy as sa

from mlmigrate.model import MetricHistory

#: A run's id at the sink, and one of its histories.
RunMetric = tuple[str, MetricHistory]

_COLUMNS = "key, value, timestamp, run_uuid, step, is_nan"
#: Points of one history that are made rows at once.
_SLICE = 20_000


def insert(connection: sa.Connection, metrics: Sequence[RunMetric]) -> None:
    """Insert points that the table is known to lack.

    They are ordered by key first, as the primary key is: neighbours land on the same
    pages.
    """
    if not metrics:
        return
    ordered = _slices(sorted(metrics, key=lambda entry: (entry[1].key, entry[0])))
    match connection.dialect.name:
        case "sqlite":
            cursor: Any = connection.connection.cursor()
            cursor.executemany(
                f"insert into metrics ({_COLUMNS}) values (?, ?, ?, ?, ?, ?)",
                chain.from_iterable(map(_tuples, ordered)),
            )
        case "postgresql" if connection.dialect.driver == "psycopg":
            _copy(connection, ordered)
        case _:
            _generic(connection, ordered)


def _slices(metrics: Iterable[RunMetric]) -> Iterator[RunMetric]:
    """Cut long histories: a row takes many times the memory of a point in columns."""
    for run, metric in metrics:
        for at in range(0, len(metric.steps), _SLICE):
            part = slice(at, at + _SLICE)
            yield (
                run,
                replace(
                    metric,
                    steps=metric.steps[part],
                    timestamps=metric.timestamps[part],
                    values=metric.values[part],
                ),
            )


def _tuples(entry: RunMetric) -> Iterable[tuple[Any, ...]]:
    run, metric = entry
    nan = np.isnan(metric.values)
    values = np.where(nan, 0.0, metric.values) if nan.any() else metric.values
    return zip(
        repeat(metric.key),
        values.tolist(),
        metric.timestamps.tolist(),
        repeat(run),
        metric.steps.tolist(),
        nan.tolist(),
    )


def _copy(connection: sa.Connection, metrics: Iterable[RunMetric]) -> None:
    """COPY in PostgreSQL's binary format, each history one array of row structs."""
    driver: Any = connection.connection.driver_connection
    with (
        driver.cursor() as cursor,
        cursor.copy(f"copy metrics ({_COLUMNS}) from stdin (format binary)") as copy,
    ):
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for block in _blocks(metrics):
            copy.write(block)
        copy.write(b"\xff\xff")


def _blocks(metrics: Iterable[RunMetric]) -> Iterator[bytes]:
    for run, metric in metrics:
        key, id = metric.key.encode(), run.encode()
        nan = np.isnan(metric.values)
        rows = np.empty(
            len(metric.steps),
            dtype=[
                ("fields", ">i2"),
                ("key_size", ">i4"),
                ("key", f"S{len(key)}"),
                ("value_size", ">i4"),
                ("value", ">f8"),
                ("timestamp_size", ">i4"),
                ("timestamp", ">i8"),
                ("run_size", ">i4"),
                ("run", f"S{len(id)}"),
                ("step_size", ">i4"),
                ("step", ">i8"),
                ("nan_size", ">i4"),
                ("nan", "?"),
            ],
        )
        rows["fields"] = 6
        rows["key_size"], rows["key"] = len(key), key
        rows["value_size"], rows["value"] = 8, np.where(nan, 0.0, metric.values)
        rows["timestamp_size"], rows["timestamp"] = 8, metric.timestamps
        rows["run_size"], rows["run"] = len(id), id
        rows["step_size"], rows["step"] = 8, metric.steps
        rows["nan_size"], rows["nan"] = 1, nan
        yield rows.tobytes()


def _generic(connection: sa.Connection, metrics: Iterable[RunMetric]) -> None:
    table = sa.table("metrics", *map(sa.column, _COLUMNS.split(", ")))
    names = _COLUMNS.split(", ")
    rows: list[dict[str, Any]] = []
    for row in chain.from_iterable(map(_tuples, metrics)):
        rows.append(dict(zip(names, row, strict=True)))
        if len(rows) == 5000:
            connection.execute(sa.insert(table), rows)
            rows.clear()
    if rows:
        connection.execute(sa.insert(table), rows)
