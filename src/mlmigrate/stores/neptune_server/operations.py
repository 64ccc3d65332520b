"""What makes a run at the server as it is to be, as operations of the client's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mlmigrate.neptune_runs.attributes import FloatSeries, Scalar
from mlmigrate.neptune_runs.items import text_of
from mlmigrate.neptune_runs.steps import floating

#: Points of one operation.
_POINTS = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The client cuts what is below a millisecond, and what a float makes of it.
_HALF = timedelta(microseconds=500)


def changes(wanted: Mapping[str, Scalar], held: Mapping[str, Scalar]) -> Iterator[Any]:
    """Yield what makes single values those that are wanted.

    To sets is only added: what people put there stays.
    """
    from neptune.internal import operation as op

    for path, scalar in wanted.items():
        there = held.get(path)
        if is_equal(scalar, there):
            continue
        parts = path.split("/")
        value = scalar.value
        if isinstance(value, tuple):
            if lacking := set(value) - _words(there):
                yield op.AddStrings(parts, lacking)
            continue
        if there is not None and there.type != scalar.type:
            yield op.DeleteAttribute(parts)
        if scalar.type == "datetime" and isinstance(value, int):
            moment = _EPOCH + timedelta(milliseconds=value) + _HALF
            yield op.AssignDatetime(parts, moment)
        elif isinstance(value, bool):
            yield op.AssignBool(parts, value)
        elif isinstance(value, int):
            yield op.AssignInt(parts, value)
        elif isinstance(value, float):
            yield op.AssignFloat(parts, value)
        else:
            yield op.AssignString(parts, value)


def removals(
    wanted: Mapping[str, Scalar],
    held: Mapping[str, Scalar],
    own: Mapping[str, Set[str]],
) -> Iterator[Any]:
    """Yield what takes those words out of sets that mlmigrate put there, and that are
    no longer wanted.
    """
    from neptune.internal.operation import RemoveStrings

    for path, words in own.items():
        stale = words & _words(held.get(path)) - _words(wanted.get(path))
        if stale:
            yield RemoveStrings(path.split("/"), set(stale))


def _words(scalar: Scalar | None) -> Set[str]:
    return set(scalar.value) if scalar and isinstance(scalar.value, tuple) else set()


def is_equal(wanted: Scalar, held: Scalar | None) -> bool:
    """Tell whether what is there reads as what is wanted: people may have put a number
    where mlmigrate puts its text.
    """
    if held is None or wanted.type != "string":
        return wanted == held
    return held.type != "string_set" and text_of(held) == wanted.value


def points(
    wanted: Mapping[str, FloatSeries], held: Mapping[str, FloatSeries]
) -> Iterator[Any]:
    """Yield what makes series those that are wanted: what they lack at their end, or
    all of them anew.
    """
    from neptune.internal import operation as op

    for path, series in wanted.items():
        there = held.get(path)
        begin = 0
        if there is not None and len(there.steps):
            if same(series, there):
                continue
            begin = len(there.steps)
            if not same(_first(series, begin), there):
                yield op.DeleteAttribute(path.split("/"))
                begin = 0
        yield from _logged(path, series, begin)


def _logged(path: str, series: FloatSeries, begin: int) -> Iterator[Any]:
    from neptune.internal import operation as op

    steps = floating(series.steps[begin:])
    times = (series.timestamps[begin:] + 0.5) / 1000  # seconds; see `_HALF`
    values = series.values[begin:]
    for at in range(0, len(steps), _POINTS):
        part = slice(at, at + _POINTS)
        yield op.LogFloats(
            path.split("/"),
            [
                op.LogSeriesValue(value, step, time)
                for step, time, value in zip(
                    steps[part].tolist(),
                    times[part].tolist(),
                    values[part].tolist(),
                    strict=True,
                )
            ],
        )


def _first(series: FloatSeries, count: int) -> FloatSeries:
    return FloatSeries(
        series.steps[:count], series.timestamps[:count], series.values[:count]
    )


def same(one: FloatSeries, other: FloatSeries) -> bool:
    """Tell whether two series have the same points, bit for bit."""
    return (
        np.array_equal(one.steps, other.steps)
        and np.array_equal(one.timestamps, other.timestamps)
        and np.array_equal(one.values.view(np.int64), other.values.view(np.int64))
    )


def upload(path: str, file: Path) -> Any:
    """Return what puts a file there."""
    from neptune.internal.operation import UploadFile

    ending = PurePosixPath(path).suffix.removeprefix(".")
    return UploadFile(path.split("/"), ext=ending, file_path=str(file.absolute()))


def assign_text(path: str, text: str) -> Any:
    """Return what puts a string there."""
    from neptune.internal.operation import AssignString

    return AssignString(path.split("/"), text)


def delete(path: str) -> Any:
    """Return what deletes an attribute, which must be there."""
    from neptune.internal.operation import DeleteAttribute

    return DeleteAttribute(path.split("/"))
