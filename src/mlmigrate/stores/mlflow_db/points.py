"""Metric histories from the tables ``metrics`` and ``latest_metrics``.

A history of millions of points is as many rows, which come a part at a time and go at
once into columns: an object for each point lives no longer than its part. What is held
is 24 bytes a point, and one block beside.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa

from mlmigrate.metrics import history
from mlmigrate.model import Finding, Float64s, Int64s, MetricHistory, Problem
from mlmigrate.stores.mlflow_db.tables import Rows, Tables
from mlmigrate.stores.mlflow_db.values import text

#: A run's id and a metric's key.
_Name: TypeAlias = tuple[str, str]

#: Points that wait side by side until each goes to the columns of its metric.
_BLOCK = 1 << 16


def read(
    tables: Tables, ids: list[str], problems: dict[str, list[Finding]]
) -> dict[str, list[MetricHistory]]:
    """Read all points of some runs.

    A metric of which only the latest point is left, in the table that repeats it, has
    that point.
    """
    metrics: dict[str, list[MetricHistory]] = defaultdict(list)
    held = _histories(tables, "metrics", ids, problems)
    for (run, _), metric in held.items():
        metrics[run].append(metric)
    for (run, key), metric in _histories(tables, "latest_metrics", ids, None).items():
        if (run, key) not in held:
            metrics[run].append(metric)
            what = f"metric {key}: its points are gone, but for the latest"
            problems[run].append(Problem(f"{tables.location} run {run}", what))
    return metrics


def _histories(
    tables: Tables,
    table: str,
    ids: list[str],
    problems: dict[str, list[Finding]] | None,
) -> dict[_Name, MetricHistory]:
    if table not in tables.columns:
        return {}
    columns = ("run_uuid", "key", "value", "timestamp", "step", "is_nan")
    # Before 1.0 there were no steps, and no NaN.
    query = tables.select(tables.by_run(table), *columns, absent=0)
    points = tables.stream(query.where(sa.column("run_uuid").in_(ids)), _gathered)
    for (run, key), count in points.bad.items():
        if problems is None:
            break
        what = f"metric {key}: {count} rows are no points"
        problems[run].append(Problem(f"{tables.location} run {run}", what))
    return points.histories()


def _gathered(parts: Iterator[Rows]) -> _Points:
    points = _Points()
    for part in parts:
        points.add(part)
    return points


class _Points:
    """Points of several metrics, in columns that grow in place."""

    def __init__(self) -> None:
        #: How many rows of each metric were no points.
        self.bad: Counter[_Name] = Counter()
        self._numbers = _Numbers()
        self._columns: dict[int, _Columns] = defaultdict(_Columns)
        self._block = _Columns()
        self._codes = array("q")  # of each point in the block, its metric's number

    def add(self, rows: Rows) -> None:
        """Add rows (run, key, value, timestamp, step, is NaN), in any order."""
        try:
            self._add(rows)
        except (TypeError, OverflowError):
            self.bad.update(_name(row) for row in rows if not _is_point(row))
            if good := [_plain(row) for row in rows if _is_point(row)]:
                self._add(good)
        if len(self._codes) >= _BLOCK:
            self._put_away()

    def histories(self) -> dict[_Name, MetricHistory]:
        """Return what was gathered, metrics in the order in which they came; once."""
        self._put_away()
        return {
            name: history(name[1], *self._columns.pop(number).arrays())
            for name, number in self._numbers.items()
            if number in self._columns
        }

    def _add(self, rows: Rows) -> None:
        """Add rows of values that all have the types of their columns.

        Raises:
            TypeError: one has another; nothing was added.
            OverflowError: likewise.
        """
        runs, keys, values, timestamps, steps, nans = zip(*rows, strict=True)
        # An array takes no text for a number, and no fraction for an integer.
        added = _Columns(array("q", steps), array("q", timestamps), array("d", values))
        nan = np.frombuffer(array("b", nans), dtype=np.int8)
        if nan.any():
            np.frombuffer(added.values)[nan != 0] = np.nan
        names = zip(runs, keys, strict=True)
        codes = array("q", map(self._numbers.__getitem__, names))
        self._codes.extend(codes)
        self._block.extend(added)

    def _put_away(self) -> None:
        """Give each point of the block to the columns of its metric."""
        if not self._codes:
            return
        # The narrower the codes, the faster they are sorted.
        width = np.min_scalar_type(len(self._numbers))
        codes = np.frombuffer(self._codes, dtype=np.int64).astype(width)
        order = np.argsort(codes, kind="stable")
        numbers, starts = np.unique(codes[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        columns = [column[order].data.cast("B") for column in self._block.arrays()]
        for number, start, end in zip(
            numbers.tolist(), starts.tolist(), ends, strict=True
        ):
            self._columns[number].append(columns, start, end)
        self._block, self._codes = _Columns(), array("q")


class _Numbers(dict[_Name, int]):
    """Numbers metrics as they come."""

    def __missing__(self, name: _Name) -> int:
        if not all(isinstance(part, str) for part in name):
            raise TypeError(f"{name} is no text")
        number = self[name] = len(self)
        return number


@dataclass(slots=True)
class _Columns:
    """Arrays, which unlike numpy's grow in place."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    timestamps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def extend(self, other: _Columns) -> None:
        self.steps.extend(other.steps)
        self.timestamps.extend(other.timestamps)
        self.values.extend(other.values)

    def append(self, columns: list[memoryview], start: int, end: int) -> None:
        """Append some of the elements, of 8 bytes each, of three columns."""
        cut = slice(8 * start, 8 * end)
        self.steps.frombytes(columns[0][cut])
        self.timestamps.frombytes(columns[1][cut])
        self.values.frombytes(columns[2][cut])

    def arrays(self) -> tuple[Int64s, Int64s, Float64s]:
        """Return the same memory as numpy sees it: from now on nothing grows."""
        return (
            np.frombuffer(self.steps, dtype=np.int64),
            np.frombuffer(self.timestamps, dtype=np.int64),
            np.frombuffer(self.values, dtype=np.float64),
        )


def _name(row: tuple[Any, ...]) -> _Name:
    return text(row[0]) or "", text(row[1]) or ""


def _is_point(row: tuple[Any, ...]) -> bool:
    value = row[2]
    return (
        (isinstance(value, float | int) or (value is None and bool(row[5])))
        and all(isinstance(number, int) for number in row[3:5])
        and (row[5] is None or isinstance(row[5], int))
    )


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    value = float("nan") if row[2] is None else row[2]
    return (*_name(row), value, row[3], row[4], bool(row[5]))
