"""Metric points as the rows of W&B's history.

A row has one ``_step``, which rises from row to row, and one ``_timestamp``. Where the
points of a finished run have one time a step, a row is a step. Otherwise rows are
counted, and the step is a value, ``mlflow_step``, which charts are told to go by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlmigrate.model import Float64s, Int64s, MetricHistory

#: What ``_step`` counts: MLflow's steps, or rows.
Steps: TypeAlias = Literal["native", "rows"]

Int32s: TypeAlias = NDArray[np.int32]

STEP = "mlflow_step"
TIMESTAMP = "mlflow_timestamp"
#: Rows that are made at once.
_PORTION = 1000
#: Whole milliseconds up to here survive as a float of seconds.
_LATEST = 1 << 51
#: Whole numbers up to here survive as a float.
_HIGHEST = 1 << 53


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a run's history."""

    step: int
    timestamp: float  # seconds
    values: Sequence[tuple[str, float]]
    mlflow_step: int | None = None  # where `step` only counts
    mlflow_timestamp: int | None = None  # where a float of seconds does not hold it


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """The points of several metrics in columns, sorted by row."""

    keys: Sequence[str]
    key: Int32s  # of each point, its place in `keys`
    step: Int64s
    timestamp: Int64s
    value: Float64s
    start: Int64s  # of each row, its first point; then the number of points


def steps_of(metrics: Sequence[MetricHistory], *, finished: bool) -> Steps:
    """Choose what ``_step`` counts. A run that goes on may log anything yet."""
    if not finished:
        return "rows"
    steps = np.concatenate([_NONE, *(metric.steps for metric in metrics)])
    times = np.concatenate([_NONE, *(metric.timestamps for metric in metrics)])
    if not len(steps):
        return "native"
    if steps.min() < 0 or steps.max() >= _HIGHEST or np.abs(times).max() > _LATEST:
        return "rows"
    if any((np.diff(metric.steps) == 0).any() for metric in metrics):
        return "rows"
    order = np.argsort(steps, kind="stable")
    same_step = np.diff(steps[order]) == 0
    other_time = np.diff(times[order]) != 0
    return "rows" if (same_step & other_time).any() else "native"


def rows(
    metrics: Sequence[MetricHistory], counted: Steps, *, first: int = 0
) -> Iterator[Row]:
    """Yield the rows that hold all points of *metrics*.

    Args:
        metrics: histories under the keys that they get at W&B.
        counted: what ``_step`` counts.
        first: the number of the first row, where rows are counted.
    """
    points = _by_row(metrics, counted)
    number = first
    for bounds in _portions(points.start):
        portion = slice(bounds[0], bounds[-1])
        keys = [points.keys[at] for at in points.key[portion].tolist()]
        values = points.value[portion].tolist()
        steps = points.step[bounds[:-1]].tolist()
        times = points.timestamp[bounds[:-1]].tolist()
        edges = (bounds - bounds[0]).tolist()
        for (begin, end), step, time in zip(pairwise(edges), steps, times, strict=True):
            named = list(zip(keys[begin:end], values[begin:end], strict=True))
            if counted == "native":
                yield Row(step, time / 1000, named)
            else:
                exact = time if abs(time) > _LATEST else None
                yield Row(number, time / 1000, named, step, exact)
            number += 1


def count_rows(metrics: Sequence[MetricHistory], counted: Steps) -> int:
    """Return how many rows `rows` yields."""
    return len(_by_row(metrics, counted).start) - 1


def _portions(start: Int64s) -> Iterator[Int64s]:
    """Cut the bounds of rows so that few points at a time become objects."""
    for at in range(0, len(start) - 1, _PORTION):
        yield start[at : at + _PORTION + 1]


_NONE: Int64s = np.empty(0, np.int64)
_NO_TIMES: Int32s = np.empty(0, np.int32)


def _by_row(metrics: Sequence[MetricHistory], counted: Steps) -> Points:
    sizes = [len(metric.steps) for metric in metrics]
    key = np.repeat(np.arange(len(metrics), dtype=np.int32), sizes)
    step = np.concatenate([_NONE, *(metric.steps for metric in metrics)])
    time = np.concatenate([_NONE, *(metric.timestamps for metric in metrics)])
    value = np.concatenate(
        [np.empty(0), *(metric.values for metric in metrics)], dtype=np.float64
    )
    again = np.concatenate([_NO_TIMES, *map(_repeats, metrics)])
    # A metric's points of one step and time but several values: a row for each.
    order = (
        np.lexsort((key, step))
        if counted == "native"
        else np.lexsort((key, again, step, time))
    )
    key = key[order]  # one after the other: a run may have millions of points
    step = step[order]
    time = time[order]
    value = value[order]
    again = again[order]
    changes = (np.diff(step) != 0) | (np.diff(time) != 0) | (np.diff(again) != 0)
    start = np.concatenate(
        [_NONE[:0], [0] if len(step) else _NONE, np.flatnonzero(changes) + 1]
    )
    start = np.append(start, len(step)).astype(np.int64)
    return Points([metric.key for metric in metrics], key, step, time, value, start)


def _repeats(metric: MetricHistory) -> Int32s:
    """Count for each point those before it that have its step and time."""
    count = len(metric.steps)
    fresh = np.ones(count, dtype=bool)
    fresh[1:] = (np.diff(metric.steps) != 0) | (np.diff(metric.timestamps) != 0)
    place = np.arange(count, dtype=np.int32)
    found: Int32s = place - np.maximum.accumulate(np.where(fresh, place, 0))
    return found
